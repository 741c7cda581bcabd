package test

import (
	"crypto/md5"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// Two hosts share a repository: one backs up and forgets, the other prunes and is killed at random moments
// of it. Whatever is left half done, every snapshot that was not forgotten is there, whole, and a prune that
// is not killed goes on.
func TestKilledPrune(t *testing.T) {
	m := machines(t)["E20"]
	s := newSmall(t, m, "prune")
	sums := s.sums(t, m)
	for name, start := range map[string]func(testing.TB) *testserver.Server{
		"minio": testserver.MinIO, "swift": testserver.Swift, "directory": nil,
	} {
		t.Run(name, func(t *testing.T) {
			location, env := filepath.Join(t.TempDir(), "repository"), []string(nil)
			if start != nil {
				server := start(t)
				location, env = server.URL(fmt.Sprintf("ark-%x", time.Now().UnixNano())), onStore(server)
			}
			home, other := newWorld(t, location, env...), newWorld(t, location, env...)
			home.init(t, "--create-bucket")
			for range 5 {
				m.docker(t, "exec", s.name, "sh", "-c", "head -c 400000 /dev/urandom >/data/today")
				prune := other.command("prune", "--min-age", "0", "--max-unused", "0")
				if err := prune.Start(); err != nil {
					t.Fatal(err)
				}
				killed := time.AfterFunc(rand.N(600*time.Millisecond), func() { prune.Process.Signal(syscall.SIGKILL) })
				home.backup(t, m, s.name)
				home.ok(t, "forget", "--keep-last", "2")
				prune.Wait() // its error is the kill, mostly
				killed.Stop()
			}
			first := other.ok(t, "prune", "--json", "--min-age", "0", "--max-unused", "0").summary(t, "summary")
			second := other.ok(t, "prune", "--json", "--min-age", "0", "--max-unused", "0").summary(t, "summary")
			t.Logf("first %v, then %v", first, second)
			if deleted := second["deleted"].(map[string]any)["packs"].(float64); name != "swift" && deleted != 0 {
				t.Errorf("a prune left %v packs for the next", deleted)
			}
			if kept := second["snapshots"].(float64); kept != 2 {
				t.Errorf("%v snapshots", kept)
			}
			home.clean(t)
			files := filepath.Join(t.TempDir(), "files")
			home.ok(t, "restore", "--into-dir", files, s.name)
			if got, want := noiseSums(t, files), strings.Fields(sums); len(got) != 2 || !slices.Contains(want, got[0]) || !slices.Contains(want, got[1]) {
				t.Errorf("restored %v, want those of %s", got, sums)
			}
		})
	}
}

// noiseSums returns the checksums of the files of a small system that do not change.
func noiseSums(t testing.TB, dir string) []string {
	t.Helper()
	var sums []string
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "noise" {
			return err
		}
		content, err := os.ReadFile(path)
		sums = append(sums, fmt.Sprintf("%x", md5.Sum(content)))
		return err
	}))
	return sums
}
