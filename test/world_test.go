package test

// What end-to-end tests stand on: the built program, real engines, and a real application.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// built is the program, built once for all tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hakobune-built-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "hakobune")
	cmd := exec.Command("go", "build", "-o", bin, "../cmd/hakobune")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin, err := built(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// world is one user's view: the program with a repository, a password and directories of its own.
type world struct {
	bin, dir string
	env      []string
}

// password is long enough to be looked for in what the program prints.
const password = "the wharf at low tide"

// newWorld returns a world whose repository is at location; empty: a directory of its own.
func newWorld(t testing.TB, location string, env ...string) *world {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{bin: bin, dir: t.TempDir()}
	if location == "" {
		location = filepath.Join(w.dir, "repository")
	}
	file := filepath.Join(w.dir, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + os.TempDir(), "NO_COLOR=1",
		"XDG_STATE_HOME=" + filepath.Join(w.dir, "state"), "XDG_CACHE_HOME=" + filepath.Join(w.dir, "cache"),
		"HAKOBUNE_REPOSITORY=" + location, "HAKOBUNE_PASSWORD_FILE=" + file,
	}, env...)
	return w
}

// onStore returns the environment of a world whose repository lies on the server.
func onStore(s *testserver.Server) []string {
	env := []string{"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey, "AWS_REGION=" + s.Region}
	if s.CAFile != "" {
		env = append(env, "AWS_CA_BUNDLE="+s.CAFile)
	}
	return env
}

// outcome is how a run of the program ended.
type outcome struct {
	code        int
	out, err    string
	took        time.Duration
	commandLine string
}

func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(w.bin, args...)
	cmd.Env = w.env
	return cmd
}

// run runs the program to its end.
func (w *world) run(t testing.TB, args ...string) outcome {
	t.Helper()
	cmd := w.command(args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{cmd.ProcessState.ExitCode(), out.String(), stderr.String(), time.Since(start), "hakobune " + strings.Join(args, " ")}
	if strings.Contains(o.out+o.err, password) {
		t.Errorf("%s prints the password", o.commandLine)
	}
	return o
}

// ok runs the program, which must succeed.
func (w *world) ok(t testing.TB, args ...string) outcome {
	t.Helper()
	o := w.run(t, args...)
	if o.code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", o.commandLine, o.code, o.out, o.err)
	}
	return o
}

// init creates the repository, with a password that is cheap to try.
func (w *world) init(t testing.TB, args ...string) {
	t.Helper()
	w.ok(t, append([]string{"init", "--argon2-memory", "19MiB"}, args...)...)
}

// fails runs the program, which must end with the code and say all the words.
func (w *world) fails(t testing.TB, code int, words []string, args ...string) outcome {
	t.Helper()
	o := w.run(t, args...)
	if o.code != code {
		t.Errorf("%s: exit %d, want %d\n%s%s", o.commandLine, o.code, code, o.out, o.err)
	}
	for _, word := range words {
		if !strings.Contains(o.err, word) {
			t.Errorf("%s: does not say %q:\n%s", o.commandLine, word, o.err)
		}
	}
	return o
}

// summary returns the line of JSON of that message_type that the program printed last.
func (o outcome) summary(t testing.TB, kind string) map[string]any {
	t.Helper()
	var found map[string]any
	for line := range strings.Lines(o.out) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: not JSON: %s", o.commandLine, line)
		}
		if v["message_type"] == kind {
			found = v
		}
	}
	if found == nil {
		t.Fatalf("%s: no %s among:\n%s%s", o.commandLine, kind, o.out, o.err)
	}
	return found
}

// backup backs a system up on the engine and returns the snapshot's id.
func (w *world) backup(t testing.TB, m machine, args ...string) string {
	t.Helper()
	o := w.ok(t, append([]string{"backup", "--json", "--host", m.Host.Host}, args...)...)
	s := o.summary(t, "summary")
	t.Logf("%s: %s: stored %v, read %v, stood still %v, took %s", m.Name, o.commandLine, s["stats"].(map[string]any)["stored"],
		s["stats"].(map[string]any)["read"], s["stats"].(map[string]any)["paused"], o.took.Round(time.Millisecond))
	return s["id"].(string)
}

// clean checks the repository, every byte of it.
func (w *world) clean(t testing.TB) {
	t.Helper()
	w.ok(t, "check", "--read-data")
}

// machine is a host with an engine.
type machine struct {
	dockertest.Host
	address string // where its published ports answer
}

// machines returns the engines by name.
func machines(t testing.TB) map[string]machine {
	t.Helper()
	all := map[string]machine{}
	for _, h := range dockertest.Engines(t) {
		address := os.Getenv("HAKOBUNE_TEST_ADDRESS_" + h.Name)
		if address == "" {
			t.Fatalf("HAKOBUNE_TEST_ADDRESS_%s is not set", h.Name)
		}
		all[h.Name] = machine{h, address}
	}
	return all
}

// docker runs the Docker CLI on the machine's engine and returns what it prints.
func (m machine) docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := m.try(args...)
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	return out
}

func (m machine) try(args ...string) (string, error) {
	cmd := exec.Command("docker", append([]string{"-H", m.Host.Host}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// wipe removes what a test made on the machine, now and when the test ends. Kinds of names: those of
// containers, volumes and networks begin with prefix; images are given by name.
func (m machine) wipe(t testing.TB, prefix string, images ...string) {
	t.Helper()
	m.remove("ps", "-aq", prefix, "rm", "-fv")
	m.remove("volume", "ls", prefix, "volume", "rm", "-f")
	m.remove("network", "ls", prefix, "network", "rm")
	for _, image := range append(images, m.tags("hakobune/"+prefix+"*")...) {
		m.try("rmi", "-f", image)
	}
	if left, _ := m.try("ps", "-aq", "--filter", "name="+prefix); left != "" {
		t.Errorf("%s: still there: %s", m.Name, left)
	}
}

func (m machine) remove(list1, list2, prefix string, rm ...string) {
	args := []string{list1, list2, "--filter", "name=" + prefix}
	if list1 != "ps" {
		args = append(args, "-q")
	}
	if out, err := m.try(args...); err == nil {
		for id := range strings.FieldsSeq(out) {
			m.try(append(rm, id)...)
		}
	}
}

func (m machine) tags(pattern string) []string {
	out, err := m.try("images", "--format", "{{.Repository}}:{{.Tag}}", pattern)
	if err != nil {
		return nil
	}
	return strings.Fields(out)
}

// load loads an image of the test set-up into the engine.
func (m machine) load(t testing.TB, name string) {
	t.Helper()
	dir := os.Getenv("HAKOBUNE_TEST_IMAGES")
	if dir == "" {
		t.Fatal("HAKOBUNE_TEST_IMAGES is not set")
	}
	m.docker(t, "load", "-i", filepath.Join(dir, name+".tar"))
}

// layers returns the DiffIDs of an image.
func (m machine) layers(t testing.TB, image string) string {
	t.Helper()
	return m.docker(t, "image", "inspect", "-f", "{{json .RootFS.Layers}}", image)
}

// healthy waits until the container is.
func (m machine) healthy(t testing.TB, container string) {
	t.Helper()
	state := ""
	for range 600 {
		var err error
		state, err = m.try("inspect", "-f", "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}", container)
		if err == nil && state == "running healthy" {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("%s: %s is %s\n%s", m.Name, container, state, m.docker(t, "logs", "--tail", "20", container))
}

// get asks the application on the machine.
func (m machine) get(t testing.TB, port, path string) string {
	t.Helper()
	return m.ask(t, http.MethodGet, port, path)
}

func (m machine) post(t testing.TB, port, path string) string {
	t.Helper()
	return m.ask(t, http.MethodPost, port, path)
}

func (m machine) ask(t testing.TB, method, port, path string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.address+":"+port+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	// A connection each: one that was idle during a backup is just being closed by the application, and a POST on it is not repeated.
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %v\n%s", method, r.URL, answer.Status, err, b)
	}
	return string(b)
}

// pages is what a user of the application sees, and the checksums of everything below it.
func (m machine) pages(t testing.TB, port string) string {
	t.Helper()
	return m.get(t, port, "/") + m.get(t, port, "/course?id=1") + m.get(t, port, "/file?id=2") + m.get(t, port, "/checksum")
}
