package snapshot_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// told gives differences as lines.
func told(list []snapshot.ObjectDiff) []string {
	var all []string
	for _, d := range list {
		all = append(all, d.Change+" "+d.Kind+" "+d.Name)
		for _, l := range d.LayersRemoved {
			all = append(all, "  - "+l.DiffID)
		}
		for _, l := range d.LayersAdded {
			all = append(all, "  + "+l.DiffID)
		}
		for _, f := range d.Fields {
			all = append(all, fmt.Sprintf("  %s: %q %q", f.Field, f.Old, f.New))
		}
	}
	return all
}

func container(name, id, inspect string) snapshot.Container {
	text := strings.NewReplacer("@ID@", id, "@SHORT@", id[:12]).Replace(inspect)
	if !json.Valid([]byte(text)) {
		panic("not JSON: " + text)
	}
	return snapshot.Container{Name: name, ID: id, State: "running", ImageKey: "sha256:1", Inspect: json.RawMessage(text)}
}

// hex gives an id as an engine makes them.
func hex(digits string) string { return strings.Repeat(digits, 64/len(digits)) }

func TestDiffContainers(t *testing.T) {
	const base = `{"Id":"@ID@","Created":"2026-11-20T02:00:00Z","State":{"Pid":17},"Config":{"Hostname":"@SHORT@","Env":["A=1","PORT=80"],"Cmd":["sh","-c","a && b"],
		"Labels":{"com.docker.compose.replace":"@ID@"}},"HostConfig":{"Memory":8589934592,"Binds":["/x:/y"],"ContainerIDFile":"/run/1"},
		"NetworkSettings":{"Networks":{"net":{"Aliases":["www","@SHORT@"],"IPAddress":"172.18.0.2"}}}}`
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(base) }
	for name, tc := range map[string]struct {
		later string
		want  []string
	}{
		"the same":        {base, nil},
		"another process": {edit(`"Pid":17`, `"Pid":18`, "T02:00", "T03:00", "/run/1", "/run/2", "172.18.0.2", "172.18.0.3"), nil},
		"empty for unset": {edit(`"Hostname"`, `"User":"","Tty":false,"Volumes":{},"OnBuild":null,"Ports":[],"Hostname"`), nil},
		"environment":     {edit(`"PORT=80"`, `"PORT=8080","B=2"`), []string{`  Config.Env.B: "" "2"`, `  Config.Env.PORT: "80" "8080"`}},
		"command":         {edit(`"a && b"`, `"b && a"`), []string{`  Config.Cmd: "[\"sh\",\"-c\",\"a && b\"]" "[\"sh\",\"-c\",\"b && a\"]"`}},
		"label":           {edit(`"Labels":{`, `"Labels":{"org.example.tier":"one","plain":"x",`), []string{`  Config.Labels[org.example.tier]: "" "one"`, `  Config.Labels.plain: "" "x"`}},
		"number":          {edit("8589934592", "4294967296"), []string{`  HostConfig.Memory: "8589934592" "4294967296"`}},
		"number unset":    {edit("8589934592", "0"), []string{`  HostConfig.Memory: "8589934592" ""`}},
		"bind":            {edit(`"/x:/y"`, `"/z:/y","/x:/y:ro"`), []string{`  HostConfig.Binds: "/x:/y" ""`, `  HostConfig.Binds: "" "/z:/y"`, `  HostConfig.Binds: "" "/x:/y:ro"`}},
		"host name":       {edit(`"Hostname":"@SHORT@"`, `"Hostname":"shop"`), []string{`  Config.Hostname: "web" "shop"`}},
		"own alias":       {edit(`"www","@SHORT@"`, `"www"`), nil},
		"alias":           {edit(`"www",`, ``), []string{`  Networks.net.Aliases: "www" ""`}},
		"network":         {edit(`"net":`, `"back":{},"net":`), []string{`  Networks.back.Connected: "" "true"`}},
	} {
		a := &snapshot.System{Containers: []snapshot.Container{container("web", hex("1a"), base)}}
		b := &snapshot.System{Containers: []snapshot.Container{container("web", hex("2b"), tc.later)}}
		want := tc.want
		if want != nil {
			want = append([]string{"changed container web"}, want...)
		}
		if d := cmp.Diff(want, told(snapshot.Diff(a, b))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	one := snapshot.System{Containers: []snapshot.Container{container("web", hex("1a"), base)}}
	two := snapshot.System{Containers: []snapshot.Container{container("worker", hex("1a"), base)}}
	if d := cmp.Diff([]string{"removed container web", "added container worker"}, told(snapshot.Diff(&one, &two))); d != "" {
		t.Errorf("one for another (-want +got):\n%s", d)
	}
	two.Containers[0].Name, two.Containers[0].State, two.Containers[0].ImageKey = "web", "exited", "sha256:2"
	if d := cmp.Diff([]string{"changed container web", `  Image: "sha256:1" "sha256:2"`, `  State: "running" "exited"`}, told(snapshot.Diff(&one, &two))); d != "" {
		t.Errorf("state (-want +got):\n%s", d)
	}
	two.Containers[0].Inspect = json.RawMessage(`no JSON`)
	if got := told(snapshot.Diff(&one, &two)); len(got) == 0 || got[0] != "changed container web" {
		t.Errorf("of an inspection that cannot be read: %q", got)
	}
}

func image(config, raw string, layers []string, tags ...string) snapshot.Image {
	i := snapshot.Image{Config: config, Tags: tags, OS: "linux", Arch: "amd64", RawConfig: []byte(raw)}
	for _, l := range layers {
		i.Layers = append(i.Layers, snapshot.Layer{DiffID: l})
	}
	return i
}

func TestDiffImages(t *testing.T) {
	old := image("sha256:1", `{"created":"2026","config":{"Env":["V=1.26"],"Labels":{"a":"b"}}}`, []string{"base", "one"}, "host:5000/nginx:1.26", "nginx:1.26")
	again := image("sha256:2", `{"created":"2027","config":{"Env":["V=1.26"],"Labels":{"a":"b"}}}`, []string{"base", "one"}, "nginx:1.26")
	newer := image("sha256:3", `{"config":{"Env":["V=1.27"]}}`, []string{"base", "two", "three"}, "host:5000/nginx:1.27")
	other := image("sha256:4", `{}`, []string{"alone"}, "postgres:17")
	nameless := image("sha256:5", `{}`, nil)
	for name, tc := range map[string]struct {
		a, b []snapshot.Image
		want []string
	}{
		"the same":  {[]snapshot.Image{old, other}, []snapshot.Image{other, old}, nil},
		"tag moved": {[]snapshot.Image{old}, []snapshot.Image{again}, []string{"changed image nginx:1.26", `  Digest: "sha256:1" "sha256:2"`, `  Tags: "host:5000/nginx:1.26" ""`}},
		"next tag": {[]snapshot.Image{other, old}, []snapshot.Image{newer, other}, []string{
			"changed image host:5000/nginx:1.27", "  - one", "  + two", "  + three",
			`  Config.Env.V: "1.26" "1.27"`, `  Config.Labels.a: "b" ""`, `  Digest: "sha256:1" "sha256:3"`,
			`  Tags: "host:5000/nginx:1.26" ""`, `  Tags: "nginx:1.26" ""`, `  Tags: "" "host:5000/nginx:1.27"`,
		}},
		"came":      {nil, []snapshot.Image{other}, []string{"added image postgres:17", "  + alone"}},
		"went":      {[]snapshot.Image{other, nameless}, nil, []string{"removed image postgres:17", "  - alone", "removed image sha256:5"}},
		"not alike": {[]snapshot.Image{other}, []snapshot.Image{nameless}, []string{"removed image postgres:17", "  - alone", "added image sha256:5"}},
	} {
		if d := cmp.Diff(tc.want, told(snapshot.Diff(&snapshot.System{Images: tc.a}, &snapshot.System{Images: tc.b}))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestDiffStorageAndNetworks(t *testing.T) {
	mounted := func(volume string) snapshot.System {
		c := container("web", hex("1a"), `{"HostConfig":{"Binds":["`+volume+`:/data"]}}`)
		c.Mounts = []snapshot.Mount{{Type: "volume", Name: volume, Destination: "/data", Anonymous: true}}
		return snapshot.System{
			Containers: []snapshot.Container{c},
			Volumes:    []snapshot.Volume{{Name: volume, Driver: "local", Anonymous: true}, {Name: "named", Driver: "local", Labels: map[string]string{"a": "b"}}},
			Binds:      []snapshot.Bind{{Source: "/etc/shop"}, {Source: "/run/x", Special: "socket"}},
			Networks:   []snapshot.Network{{Name: "bridge", Driver: "bridge", Predefined: true, Inspect: []byte(`{"Options":{"` + volume + `":"x"}}`)}, {Name: "net", Driver: "bridge", Inspect: []byte(`{"Id":"` + volume + `"}`)}},
		}
	}
	a, b := mounted(hex("2b")), mounted(hex("3c"))
	if got := told(snapshot.Diff(&a, &b)); len(got) != 0 {
		t.Errorf("an anonymous volume that was made anew: %q", got)
	}
	b.Volumes[1].Labels, b.Volumes[1].Driver = map[string]string{"a": "c"}, "nfs"
	b.Binds = b.Binds[:1]
	b.Binds[0].Special = "excluded"
	b.Networks[1].Inspect = []byte(`{"Internal":true}`)
	want := []string{
		"changed volume named", `  Driver: "local" "nfs"`, `  Labels.a: "b" "c"`,
		"changed bind /etc/shop", `  NotRead: "" "excluded"`, "removed bind /run/x",
		"changed network net", `  Internal: "" "true"`,
	}
	if d := cmp.Diff(want, told(snapshot.Diff(&a, &b))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestPairTrees(t *testing.T) {
	tree := func(n int64) *snapshot.Archive { return &snapshot.Archive{Records: chunkstore.Stream{Size: n}} }
	a := &snapshot.System{
		Containers: []snapshot.Container{{Name: "web", Changes: tree(1)}, {Name: "gone", Changes: tree(2)}},
		Volumes:    []snapshot.Volume{{Name: "data", Content: tree(3)}},
		Binds:      []snapshot.Bind{{Source: "/etc", Special: "too large"}},
	}
	b := &snapshot.System{
		Containers: []snapshot.Container{{Name: "web", Changes: tree(4)}},
		Volumes:    []snapshot.Volume{{Name: "data", Content: tree(3)}, {Name: "web", Content: tree(5)}},
		Binds:      []snapshot.Bind{{Source: "/etc", Content: tree(6)}},
	}
	want := []snapshot.TreePair{
		{Kind: "changes", Name: "gone", A: tree(2), InA: true},
		{Kind: "changes", Name: "web", A: tree(1), B: tree(4), InA: true, InB: true},
		{Kind: "volume", Name: "data", A: tree(3), B: tree(3), InA: true, InB: true},
		{Kind: "volume", Name: "web", B: tree(5), InB: true},
		{Kind: "bind", Name: "/etc", B: tree(6), InA: true, InB: true},
	}
	if d := cmp.Diff(want, snapshot.PairTrees(a, b)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
