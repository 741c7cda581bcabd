package docker_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// localFake is an engine that is proven to be local: this process listens on its socket and has a
// file of its data directory open.
func localFake(t *testing.T, info map[string]any) *docker.Engine {
	t.Helper()
	root := t.TempDir()
	held, err := os.Create(filepath.Join(root, "held.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	info["DockerRootDir"] = root
	raw, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	e := fakeEngine(t, map[string]string{"/info": string(raw)})
	if !e.Facts().Local {
		t.Fatal("not local")
	}
	return e
}

// TestNotLocal: an engine whose socket is here and whose files are not.
func TestNotLocal(t *testing.T) {
	for name, info := range map[string]string{
		"no file open":           `{"Driver":"overlay2","DockerRootDir":"` + t.TempDir() + `"}`,
		"no such directory":      `{"Driver":"overlay2","DockerRootDir":"/no/such/directory"}`,
		"no directory told":      `{"Driver":"overlay2"}`,
		"the beginning of a dir": `{"Driver":"overlay2","DockerRootDir":"/de"}`,
	} {
		e := fakeEngine(t, map[string]string{"/info": info})
		if e.Facts().Local {
			t.Errorf("%s: taken for local", name)
		}
		if _, err := e.Upper(ctxOf(t), snapshot.Container{Inspect: []byte(`{"GraphDriver":{"Data":{"UpperDir":"/etc"}}}`)}); err == nil {
			t.Errorf("%s: its changes were found", name)
		}
	}
}

// needRoot passes over a test that needs root, where nothing says that all of them must run.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Getuid() == 0:
	case os.Getenv("HAKOBUNE_TEST_REQUIRE") != "":
		t.Fatal("needs root")
	default:
		t.Skip("needs root")
	}
}

// TestUpperRefused covers the overlays that cannot be read as they lie.
func TestUpperRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	overlay := `{"GraphDriver":{"Data":{"UpperDir":"` + dir + `"}},"HostConfig":{"UsernsMode":"%s"}}`
	for _, test := range []struct {
		info    map[string]any
		inspect string
		want    string // empty: it is found
	}{
		{map[string]any{"Driver": "overlay2"}, overlay, ""},
		{map[string]any{"Driver": "overlay2"}, `{"GraphDriver":{"Data":{"UpperDir":"/no/such"}}}`, "no such file"},
		{map[string]any{"Driver": "overlay2"}, `{"GraphDriver":{"Data":{"UpperDir":"/etc/passwd"}}}`, "is no directory"},
		{map[string]any{"Driver": "btrfs"}, `{"GraphDriver":{"Data":null}}`, "driver btrfs does not tell"},
		{map[string]any{"Driver": "fuse-overlayfs"}, overlay, "user xattrs"},
		{map[string]any{"Driver": "overlay2", "DriverStatus": [][2]string{{"userxattr", "true"}}}, overlay, "user xattrs"},
		{map[string]any{"Driver": "overlay2", "DriverStatus": [][2]string{{"Native Overlay Diff", "false"}}}, overlay, "redirect_dir or metacopy"},
		{map[string]any{"Driver": "overlay2", "DriverStatus": [][2]string{{"Using metacopy", "true"}}}, overlay, "redirect_dir or metacopy"},
		{map[string]any{"Driver": "overlay2", "SecurityOptions": []string{"name=userns"}}, overlay, "maps the users"},
		{map[string]any{"Driver": "overlay2", "SecurityOptions": []string{"name=userns"}}, strings.Replace(overlay, "%s", "host", 1), ""},
	} {
		c := snapshot.Container{Name: "c", Inspect: []byte(strings.Replace(test.inspect, "%s", "", 1))}
		got, err := localFake(t, test.info).Upper(ctxOf(t), c)
		if test.want == "" && (err != nil || got != dir) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v, %s: %q, %v", test.info, test.inspect, got, err)
		}
	}
}

// TestSnapshotMounts covers what containerd may answer to the question for a container's mounts.
func TestSnapshotMounts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	upper := "upperdir=" + dir
	frame := func(message []byte) string {
		return string(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	}
	overlay := func(options ...string) []byte {
		m := field(field(nil, 1, "overlay"), 2, "overlay")
		for _, o := range options {
			m = field(m, 4, o)
		}
		return field(nil, 1, string(m))
	}
	for _, test := range []struct {
		answer, status string
		want           string
	}{
		{frame(overlay("index=off", upper, "lowerdir=/x")), "0", ""},
		{frame(append([]byte{0x48, 0x80, 0x01, 0x51, 1, 2, 3, 4, 5, 6, 7, 8, 0x55, 1, 2, 3, 4}, overlay(upper)...)), "0", ""}, // unknown fields
		{frame(overlay(upper, "redirect_dir=on")), "0", "uses redirect_dir"},
		{frame(overlay(upper, "metacopy=on")), "0", "uses metacopy"},
		{frame(overlay(upper, "userxattr")), "0", "user xattrs"},
		{frame(overlay("lowerdir=/x")), "0", "no writable overlay"},
		{frame(field(nil, 1, string(field(field(nil, 1, "bind"), 2, "/x")))), "0", "no writable overlay"},
		{frame(nil), "0", "no writable overlay"},
		{"", "5", "status 5: no such snapshot"},
		{"", "0", "malformed answer"},
		{"\x01\x00\x00\x00\x00", "0", "malformed answer"},
		{frame([]byte{0x0a}), "0", "malformed protobuf"},
		{frame([]byte{0x0a, 0x05, 'x'}), "0", "malformed protobuf"},
		{frame([]byte{0x0f}), "0", "malformed protobuf"},
		{frame([]byte{0x09, 1}), "0", "malformed protobuf"},
		{frame([]byte{0xff}), "0", "malformed protobuf"},
	} {
		socket := fakeContainerd(t, test.answer, test.status)
		e := localFake(t, map[string]any{
			"Driver": "overlayfs", "DriverStatus": [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
			"Containerd": map[string]any{"Address": socket, "Namespaces": map[string]string{"Containers": "moby"}},
		})
		got, err := e.Upper(ctxOf(t), snapshot.Container{ID: "key", Name: "c", Inspect: []byte(`{}`)})
		if test.want == "" && (err != nil || got != dir) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: %q, %v, want %q", test.answer, got, err, test.want)
		}
	}
}

// field appends a field of a protobuf message.
func field(b []byte, number byte, value string) []byte {
	return append(binary.AppendUvarint(append(b, number<<3|2), uint64(len(value))), value...)
}

// fakeContainerd gives one answer to the question for mounts.
func fakeContainerd(t *testing.T, answer, status string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "c")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containerd.services.snapshots.v1.Snapshots/Mounts" || r.Header.Get("Containerd-Namespace") != "moby" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		w.Header().Set("Content-Type", "application/grpc")
		fmt.Fprint(w, answer)
		w.Header().Set("Grpc-Status", status)
		w.Header().Set("Grpc-Message", "no%20such snapshot")
	})}
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return socket
}
