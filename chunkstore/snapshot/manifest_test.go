package snapshot

// The body of a snapshot: internal tests, since nothing of it is exported.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// sampleSystem has n containers, each with an image, a volume and a bind of its own, and something in every field. What the engine
// says of each is short; in truth it has some KiB.
func sampleSystem(n int) System {
	at := time.Date(2026, 11, 20, 2, 0, 0, 5, time.UTC)
	sum := func(i int) string { return fmt.Sprintf("sha256:%064x", i) }
	tree := func(i int) *Archive {
		return &Archive{chunkstore.Stream{Size: 70_000, Depth: 1, Chunks: []chunkstore.Ref{{ID: chunkstore.ID{byte(i), 1}, Length: 70_000}}}, 12, 34}
	}
	s := System{
		Name: "shop", Source: ByCompose, Quiesce: Quiesce{Mode: Pause, At: at, Paused: time.Second, Passes: 2},
		Problems: []Problem{{"volume db: a/b", "unreadable"}}, Notes: []Problem{{"bind /etc/x", "left out: a socket"}},
		Manifests: []Manifest{{sum(1), "application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2}`)}}, Blobs: []Blob{{sum(2), 5, sum(3)}},
		Networks: []Network{{Name: "shop_default", Driver: "bridge", Inspect: json.RawMessage(`{"Name":"shop_default","IPAM":{"Config":[{"Subnet":"172.18.0.0/16"}]}}`)}},
	}
	for i := range n {
		name := fmt.Sprintf("shop-web-%d", i)
		labels := map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": name, "com.docker.compose.oneoff": "False"}
		text, _ := json.Marshal(labels)
		s.Containers = append(s.Containers, Container{
			ID: sum(i)[7:], Name: name, Service: "web", Image: "shop/web:1", ImageID: sum(i), ImageKey: sum(i), State: "running", Health: "healthy",
			Labels: labels, DependsOn: []Dependency{{"shop-db-1", "service_healthy"}}, Networks: []string{"shop_default"}, Restart: "always",
			Mounts: []Mount{{Type: "volume", Name: "shop_data", Destination: "/data"}, {Type: "bind", Source: "/srv/x", Destination: "/x", ReadOnly: true}},
			Ports:  []Port{{"80/tcp", "127.0.0.1", "8080"}},
			Inspect: json.RawMessage(`{"Id":"` + sum(i)[7:] + `","Config":{"Labels":` + string(text) + `,"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin"]},"Path":"` +
				strings.Repeat("/usr/bin/some-thing ", 30) + `"}`),
			Changes: tree(i), ChangesWay: "upperdir", WayLacks: []string{"sockets"},
		})
		s.Images = append(s.Images, Image{
			Config: sum(i), ID: sum(i), Tags: []string{"shop/web:1"}, Digests: []string{"shop/web@" + sum(i)}, OS: "linux", Arch: "amd64", Size: 1 << 20,
			RawConfig: []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + sum(i) + `"]}}`),
			Inspect:   json.RawMessage(`{"Id":"` + sum(i) + `","RepoTags":["shop/web:1"]}`), Layers: []Layer{{sum(i), 2048}, {sum(i + 1), 1024}},
		})
		s.Volumes = append(s.Volumes, Volume{
			Name: name, Driver: "local", Options: map[string]string{"type": "nfs"}, Labels: map[string]string{"com.docker.compose.volume": "data"}, Anonymous: true,
			Mountpoint: "/var/lib/docker/volumes/" + name + "/_data", Inspect: json.RawMessage(`{"CreatedAt":"2026-01-01T00:00:00Z","Driver":"local","Name":"` + name + `"}`), Content: tree(i),
		})
		s.Binds = append(s.Binds, Bind{Source: "/srv/" + name, File: true, Content: tree(i)}, Bind{Source: "/run/docker.sock", Special: "socket"})
	}
	return s
}

func marshalBody(t testing.TB, s System) []byte {
	t.Helper()
	text, err := json.Marshal(body{Version: bodyVersion, System: s})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bounded decodes a description, and fails if that takes more than it may.
func bounded(t *testing.T, text []byte) (s *System, err error) {
	t.Helper()
	frugally(t, text, bodySpace, func() { s, err = decode(text) })
	return s, err
}

// frugally fails if parse takes more than twice the text, 128 KiB, and space. What others allocate meanwhile is not there each time.
func frugally(t *testing.T, text []byte, space int, parse func()) {
	t.Helper()
	var least uint64 = math.MaxUint64
	limit := uint64(2*len(text) + 128<<10 + space)
	for attempt := 0; attempt < 5 && least > limit; attempt++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		parse()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least > limit {
		t.Errorf("%d bytes allocated for the %d of %.150q, want at most %d", least, len(text), text, limit)
	}
}

// FuzzParseSmall: summaries, and what claims and records of tags, drills and failovers hold.
func FuzzParseSmall(f *testing.F) {
	for _, text := range []string{
		`{"id":"x","system":"shop","time":"2026-11-20T02:00:00Z","tags":["a"],"containers":["web"],"stats":{"bytes":1},"engine":{"os":"linux"},"origin":{"snapshot":"x"},"pushed":{}}`,
		`{"system":"shop","term":3,"site":{"name":"home"},"since":"2026-11-20T02:00:00Z","known":["00112233445566778899"]}`,
		`{"snapshot":"n/00","tags":["a"],"replaces":["r/00"]}`, `{"system":"shop","rto":5,"passed":true}`, `{"term":"x"}`, `[]`,
	} {
		f.Add([]byte(text))
	}
	for _, list := range []string{"tags", "containers", "known", "replaces"} {
		f.Add([]byte(`{"` + list + `":[""` + strings.Repeat(`,""`, 20_000) + `]}`))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		frugally(t, text, 0, func() { _, _ = parseTags(chunkstore.Record{Kind: tagKind, Body: text}) })
		frugally(t, text, 0, func() { _ = frugal.Unmarshal(text, new(evidenceRecord)) })
		frugally(t, text, 0, func() { _, _ = ParseSummary(chunkstore.Outcome{Summary: text}) })
		frugally(t, text, 0, func() { _, _ = parseTerm(chunkstore.Claim{Body: text}) })
	})
}

// lists are all places in a description where a short text can ask for many values.
var lists = []string{
	`"containers":[%s]`, `"containers":[{"mounts":[%s]}]`, `"containers":[{"ports":[%s]}]`, `"containers":[{"changes":{"records":{"chunks":[%s]}}}]`,
	`"images":[%s]`, `"images":[{"layers":[%s]}]`, `"volumes":[%s]`, `"binds":[%s]`, `"networks":[%s]`, `"problems":[%s]`, `"manifests":[%s]`, `"blobs":[%s]`,
}

// inList is a description with about n bytes of one value, again and again, in a list.
func inList(list, value string, n int) []byte {
	return fmt.Appendf(nil, `{"version":1,"system":{`+list+`}}`, value+strings.Repeat(","+value, n/(len(value)+1)))
}

// FuzzDecodeBody: whatever the bytes of a description nothing panics, takes more than it may, also where it is said again and again,
// or comes back as something else.
func FuzzDecodeBody(f *testing.F) {
	f.Add(marshalBody(f, sampleSystem(2)), uint8(0))
	f.Add(marshalBody(f, System{}), uint8(0))
	f.Add([]byte(`{"version":2,"system":7}`), uint8(0))
	for i, list := range lists {
		f.Add(inList(list, `{}`, 100), uint8(i))
		for _, value := range []string{`{}`, `{"inspect":null}`, `{"labels":{"a":"b"}}`, `{"content":{}}`, `{"tags":["",""]}`, `{"source":"\n\n"}`} {
			f.Add([]byte(value), uint8(i))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, list uint8) {
		if !testing.Short() { // there is nothing in it for the race detector, which takes memory of its own
			_, _ = bounded(t, inList(lists[int(list)%len(lists)], string(text), 150_000))
		}
		s, err := bounded(t, text)
		if err != nil {
			if !errors.Is(err, crypto.ErrDamaged) && !errors.Is(err, crypto.ErrNewer) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := json.Marshal(body{Version: bodyVersion, System: *s})
		if err != nil {
			return // a time that JSON cannot say
		}
		if got, err := decode(again); err == nil && !bytes.Equal(marshalBody(t, *got), again) {
			t.Errorf("written and read again it differs: %s", again)
		}
	})
}

// What asks for much with little is refused, and takes no more than the rest.
func TestGreedyBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, which the race detector makes slow")
	}
	for _, list := range lists {
		for _, value := range []string{`{}`, `null`, `{"id":"x"}`} {
			if _, err := bounded(t, inList(list, value, 300_000)); !errors.Is(err, crypto.ErrDamaged) && value == `{}` {
				t.Errorf("%s of %s: %v", list, value, err)
			}
		}
	}
}

// A system of 300 containers is read, in twice its length of memory; one that cannot be read is not written.
func TestBodyOfManyContainers(t *testing.T) {
	n := 300
	if testing.Short() {
		n = 30
	}
	want := sampleSystem(n)
	snap := Snapshot{System: want}
	for _, c := range want.Containers {
		snap.Summary.Containers = append(snap.Summary.Containers, c.Name)
	}
	text, err := encode(&snap)
	if err != nil {
		t.Fatal(err)
	}
	got, err := bounded(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&want, got) {
		t.Error("it is not what was written")
	}
	if _, err := decode(make([]byte, maxBody+1)); err == nil || !strings.Contains(err.Error(), "at most 67108864 are allowed") {
		t.Errorf("too long: %v", err)
	}
	snap.System = System{Binds: make([]Bind, 1<<16)}
	if _, err := encode(&snap); err == nil {
		t.Error("there is no bind mount without a path, and room for this many in no reader")
	}
}

// Nor does a container with more labels than anybody gives keep its system from being stored: the engine names them again.
func TestBodyOfManyLabels(t *testing.T) {
	for _, n := range []int{100, 1000, 3000} {
		labels := map[string]string{}
		for i := range n {
			labels[fmt.Sprintf("com.example.label.%d", i)] = "some value"
		}
		text, err := json.Marshal(labels)
		if err != nil {
			t.Fatal(err)
		}
		c := Container{Name: "web", Labels: labels, Inspect: json.RawMessage(`{"Config":{"Labels":` + string(text) + `}}`)}
		if _, err := encode(&Snapshot{System: System{Containers: []Container{c}}}); err != nil {
			t.Errorf("%d labels: %v", n, err)
		}
	}
}

// A claim knows as many snapshots as there are.
func TestTermOfManySnapshots(t *testing.T) {
	want := Term{System: "shop", Number: 3, Known: slices.Repeat([]string{"00112233445566778899"}, 10_000)}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseTerm(chunkstore.Claim{Series: "shop", Number: 3, Body: text})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d snapshots, %v", len(got.Known), err)
	}
}
