package compose_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/compose"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shop is a system as Compose made it, with configurations worth writing down: a database, a web server that waits for
// it, a finished job, and a proxy that shares the web server's network.
func shop() *snapshot.Snapshot {
	anonymous := fmt.Sprintf("%064x", 0xabc)
	containers := []snapshot.Container{
		{
			ID: "id-db", Name: "shop-db-1", Service: "db", Image: "mariadb:11", Changes: &snapshot.Archive{},
			Mounts: []snapshot.Mount{
				{Type: "volume", Name: "shop_data", Destination: "/var/lib/mysql"},
				{Type: "volume", Name: anonymous, Destination: "/tmp/db", Anonymous: true},
			},
			Inspect: []byte(`{"Config":{"Hostname":"db.local","Env":["PASSWORD=a$b${c}","PATH=/bin","EMPTY="],"Cmd":["mariadbd","--x=$y"],"Labels":{"com.docker.compose.project":"shop","of":"us"},
			"Healthcheck":{"Test":["CMD","test","-f","/x"],"Interval":300000000,"Timeout":10000000000,"Retries":3},"StopTimeout":5},
			"HostConfig":{"NetworkMode":"shop_default","RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"Memory":536870912,"NanoCpus":1500000000,"ShmSize":134217728,
			"Tmpfs":{"/run":"size=1m"},"Ulimits":[{"Name":"nofile","Soft":1024,"Hard":2048}],"LogConfig":{"Type":"local"},"CapAdd":["NET_ADMIN"],"IpcMode":"private","PidsLimit":100},
			"NetworkSettings":{"Networks":{"shop_default":{"Aliases":["db","database","id-db"],"IPAMConfig":{"IPv4Address":"172.30.0.9"}}}}}`),
		},
		{
			ID: "id-web", Name: "shop-web-1", Service: "web", Image: "nginx:1.25", Changes: &snapshot.Archive{},
			DependsOn: []snapshot.Dependency{{Container: "shop-db-1", Condition: "service_healthy"}},
			Mounts: []snapshot.Mount{
				{Type: "bind", Source: "/srv/shop/conf", Destination: "/etc/nginx/conf.d", ReadOnly: true},
				{Type: "bind", Source: "/var/run/docker.sock", Destination: "/var/run/docker.sock"},
			},
			Inspect: []byte(`{"Config":{"Entrypoint":["/entry"],"Tty":true},"HostConfig":{"NetworkMode":"shop_default","RestartPolicy":{"Name":"always"},"Privileged":true,"Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/fuse","CgroupPermissions":"rwm"}],
			"PortBindings":{"80/tcp":[{"HostPort":"8080"}],"443/tcp":[{"HostIp":"127.0.0.1","HostPort":"8443"}]},"ExtraHosts":["other:10.0.0.1"]},
			"NetworkSettings":{"Networks":{"shop_default":{"Aliases":["web"]},"proxy":{}}}}`),
		},
		{
			ID: "id-job", Name: "shop-job-1", Service: "job", Image: "nginx:1.25", Changes: &snapshot.Archive{},
			Inspect: []byte(`{"HostConfig":{"NetworkMode":"none"},"NetworkSettings":{"Networks":{"none":{}}}}`),
		},
		{
			ID: "id-side", Name: "shop-side-1", Service: "side", Image: "nginx:1.25",
			Inspect: []byte(`{"HostConfig":{"NetworkMode":"container:id-web","PidMode":"container:id-web"}}`),
		},
	}
	return &snapshot.Snapshot{
		Summary: snapshot.Summary{ID: "0123456789abcdef0123", System: "shop"},
		System: snapshot.System{
			Name: "shop", Containers: containers,
			Volumes: []snapshot.Volume{{Name: "shop_data", Driver: "local"}, {Name: anonymous, Driver: "local", Anonymous: true}},
			Networks: []snapshot.Network{
				{Name: "shop_default", Inspect: []byte(`{"Driver":"bridge","Internal":true,"IPAM":{"Config":[{"Subnet":"172.30.0.0/16"}]}}`)},
				{Name: "proxy", Inspect: []byte(`{"Driver":"bridge","IPAM":{"Config":[{"Subnet":"172.31.0.0/16"}]}}`)},
				{Name: "bridge", Predefined: true},
			},
		},
	}
}

func TestCompose(t *testing.T) {
	for name, stack := range map[string]bool{"compose": false, "stack": true} {
		text, notes, err := compose.File(shop(), compose.Options{Stack: stack})
		ok(t, err)
		for _, n := range notes {
			text = append(text, "# "+n.Where+": "+n.What+"\n"...)
		}
		golden(t, filepath.Join("testdata", name+".txt"), text)
	}
	broken := shop()
	broken.System.Containers[1].Inspect = []byte("{")
	if _, _, err := compose.File(broken, compose.Options{}); err == nil || !strings.Contains(err.Error(), "shop-web-1") {
		t.Errorf("an inspection that is none: %v", err)
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		ok(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	ok(t, err)
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", file, diff)
	}
}

// The nodes of a swarm pull from a registry, and a container runs where its volumes are.
func TestComposeStack(t *testing.T) {
	text, notes, err := compose.File(shop(), compose.Options{
		Stack: true, Registry: "10.0.0.1:5000", Constraints: map[string][]string{"db": {"node.hostname==b", "node.role==worker"}},
	})
	ok(t, err)
	for _, want := range []string{
		"    image: 10.0.0.1:5000/shop/shop-db-1:01234567\n", "    image: 10.0.0.1:5000/shop/shop-side-1:01234567\n",
		"        constraints:\n          - node.hostname==b\n          - node.role==worker\n", "      endpoint_mode: dnsrr\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	for _, n := range notes {
		if strings.Contains(n.What, "volume") && n.Where == "container shop-db-1" {
			t.Errorf("%s: %s", n.Where, n.What)
		}
	}
	_, _, err = compose.File(shop(), compose.Options{Constraints: map[string][]string{"none": {"a==b"}}})
	if !errors.Is(err, snapshot.ErrMissing) {
		t.Error(err)
	}
}

// Docker's own programs take the files, and mean by them what was meant.
func TestComposeConfig(t *testing.T) {
	program := os.Getenv("HAKOBUNE_TEST_COMPOSE")
	if program == "" && os.Getenv("HAKOBUNE_TEST_REQUIRE") == "" {
		t.Skip("HAKOBUNE_TEST_COMPOSE names no docker-compose")
	}
	stack, _, err := compose.File(shop(), compose.Options{Stack: true})
	ok(t, err)
	text, _, err := compose.File(shop(), compose.Options{})
	ok(t, err)
	file := filepath.Join(t.TempDir(), "compose.yaml")
	ok(t, os.WriteFile(file, text, 0o600))
	said, err := exec.CommandContext(t.Context(), program, "-f", file, "config").Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		t.Fatalf("%v: %s\n%s", err, failed.Stderr, text)
	}
	ok(t, err)
	for _, want := range []string{
		"PASSWORD: a$$b$${c}", "container_name: shop-db-1", "image: hakobune/shop-db-1:01234567", "condition: service_healthy", "network_mode: service:web",
		"ipv4_address: 172.30.0.9", `published: "8443"`, "name: shop_data", "source: /srv/shop/conf",
	} {
		if !strings.Contains(string(said), want) {
			t.Errorf("it makes of it no %q:\n%s", want, said)
		}
	}
	ok(t, os.WriteFile(file, stack, 0o600))
	if said, err := exec.CommandContext(t.Context(), "docker", "stack", "config", "-c", file).CombinedOutput(); err != nil {
		t.Errorf("docker stack: %v: %s", err, said)
	}
}
