package importer_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/importer"
)

// Every single call of a restore to the store fails once, before or after its effect: the system is there whole, or
// nothing of it is and the next restore succeeds.
func TestRestoreEveryStoreCallFails(t *testing.T) {
	repo, snap, conf := smallShop(t)
	restore := func(b chunkstore.Backend, e *fakeEngine, state string) error {
		r, err := chunkstore.Open(t.Context(), b, crypto.Passphrase([]byte("correct horse")), chunkstore.Options{})
		if err == nil {
			_, err = importer.Restore(t.Context(), r, snap, e, importer.Options{Settle: quick.Settle, StateDir: state})
		}
		return err
	}
	whole := stateAfter(t, conf, func(e *fakeEngine) error { return restore(repo.Backend(), e, t.TempDir()) })
	failures := 0
	for n := 1; ; n++ {
		f := &storetest.Faulty{N: (n + 1) / 2, After: n%2 == 0}
		engine, state := newFake(t), t.TempDir()
		nothing := engine.state(t, conf)
		err := restore(f.Wrap(repo.Backend()), engine, state)
		if !f.Fired() {
			ok(t, err)
			break
		}
		if err != nil {
			failures++
			if diff := cmp.Diff(nothing, engine.state(t, conf)); diff != "" {
				t.Fatalf("call %d failed: %v; left behind (-want +got):\n%s", f.N, err, diff)
			}
			if left, _ := filepath.Glob(filepath.Join(state, "restores", "*")); len(left) > 0 {
				t.Fatalf("call %d failed: %v; journals left: %v", f.N, err, left)
			}
			ok(t, restore(repo.Backend(), engine, state))
		}
		if diff := cmp.Diff(whole, settled(t, engine, conf)); diff != "" {
			t.Fatalf("call %d failed: %v (-want +got):\n%s", f.N, err, diff)
		}
		ok(t, os.RemoveAll(filepath.Dir(conf)))
	}
	if failures < 5 {
		t.Errorf("only %d restores failed: were the faults seen?", failures)
	}
}

// stateAfter is what an empty engine holds after do, which must succeed. What it made at conf is removed again.
func stateAfter(t *testing.T, conf string, do func(*fakeEngine) error) string {
	t.Helper()
	e := newFake(t)
	ok(t, do(e))
	state := settled(t, e, conf)
	ok(t, os.RemoveAll(filepath.Dir(conf)))
	return state
}

// settled is the engine's state but for ids and their order.
func settled(t *testing.T, e *fakeEngine, conf string) string {
	t.Helper()
	lines := strings.Split(numbered.ReplaceAllString(e.state(t, conf), "$1"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
