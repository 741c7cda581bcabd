package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

// hiding is a store that creates unconditionally and whose lists lack some objects.
type hiding struct {
	chunkstore.Backend
	hidden *[]string
}

func (h hiding) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	return h.Backend.List(ctx, prefix, func(i chunkstore.Info) error {
		if slices.Contains(*h.hidden, i.Name) {
			return nil
		}
		return fn(i)
	})
}

// standsStill is a host at a store that creates unconditionally: after its first list of prefix it stands still, while something happens.
func standsStill(b chunkstore.Backend, prefix string, meanwhile func()) chunkstore.Backend {
	var once sync.Once
	return storetest.NoCreate(storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
		err := next()
		if c.Op == storetest.List && strings.HasPrefix(c.Name, prefix) {
			once.Do(meanwhile)
		}
		return err
	}))
}

// Whoever stands still after a list of the index, which lacks that of a session that has just ended, finds it although others have
// ended since.
func TestIndexNotListedWhileStandingStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := mem.New(mem.Options{})
		newRepository(t, base, chunkstore.Options{})
		content := noise(34, 50_000)
		if _, err := backup(t.Context(), reopen(t, base, chunkstore.Options{}), content); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		hidden := namesUnder(t, base, "i/")
		r := reopen(t, standsStill(hiding{base, &hidden}, "i/", func() {
			time.Sleep(2 * time.Hour)
			if _, err := backup(t.Context(), reopen(t, base, chunkstore.Options{}), noise(35, 50_000)); err != nil {
				t.Error(err)
			}
		}), chunkstore.Options{})
		if got := restore(t, r, outcomes(t, r)[0]); !bytes.Equal(got, content) {
			t.Error("the content differs")
		}
	})
}

// The index of a snapshot that one list shows is found though the next list shows neither that nor its session.
func TestIndexOfSnapshotThatIsListedOnce(t *testing.T) {
	base := mem.New(mem.Options{})
	newRepository(t, base, chunkstore.Options{})
	content := noise(37, 50_000)
	if _, err := backup(t.Context(), reopen(t, base, chunkstore.Options{}), content); err != nil {
		t.Fatal(err)
	}
	var hidden []string
	r := reopen(t, storetest.NoCreate(hiding{base, &hidden}), chunkstore.Options{})
	all := outcomes(t, r)
	for _, prefix := range []string{"i/", "n/", "s/"} {
		hidden = append(hidden, namesUnder(t, base, prefix)...)
	}
	if got := restore(t, r, all[0]); !bytes.Equal(got, content) {
		t.Error("the content differs")
	}
}

// A check that does not know yet that lists lag finds that out before it reports what they lack.
func TestCheckBeforeListsShowTheIndex(t *testing.T) {
	base := mem.New(mem.Options{})
	newRepository(t, base, chunkstore.Options{})
	if _, err := backup(t.Context(), reopen(t, base, chunkstore.Options{}), noise(38, 50_000)); err != nil {
		t.Fatal(err)
	}
	hidden := namesUnder(t, base, "i/")
	wantClean(t, reopen(t, storetest.Unsupported(hiding{base, &hidden}), chunkstore.Options{}))
}

// Whoever stands still after a list of the index, of which everything is replaced since, finds what has replaced it.
func TestIndexReplacedWhileStandingStill(t *testing.T) {
	base := mem.New(mem.Options{})
	newRepository(t, base, chunkstore.Options{})
	if _, err := backup(t.Context(), reopen(t, base, chunkstore.Options{}), noise(36, 50_000)); err != nil {
		t.Fatal(err)
	}
	want, err := reopen(t, base, chunkstore.Options{}).Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := reopen(t, standsStill(base, "x/", func() {
		if _, err := reopen(t, base, chunkstore.Options{}).RepairIndex(t.Context(), chunkstore.RepairOptions{ReadAll: true}); err != nil {
			t.Error(err)
		}
	}), chunkstore.Options{})
	if got, err := r.Usage(t.Context()); err != nil || got != want {
		t.Errorf("the index has %+v, %v; want %+v", got, err, want)
	}
	if left := namesUnder(t, base, "i/"); len(left) > 0 {
		t.Errorf("nothing was replaced: %v", left)
	}
}

// A session that was given up, and is told so when it commits, leaves no snapshot, however late the collection that gave it up looks
// whether it has committed: others may have deleted what it stored.
func TestAbortStaysThatASessionHasSeen(t *testing.T) {
	base, contents := forgetful(t)
	placed, told, collected := make(chan bool), make(chan bool), make(chan error, 1)
	r := reopen(t, storetest.NoCreate(storetest.Intercept(base, func(_ context.Context, c storetest.Call, next func() error) error {
		err := next()
		if c.Op == storetest.Put && strings.HasSuffix(c.Name, "-abort") {
			close(placed)
			<-told
		}
		return err
	})), chunkstore.Options{})
	chunkstore.SetAges(r, 0, 0, 0, 0)
	var once sync.Once
	s, err := reopen(t, storetest.NoCreate(storetest.Intercept(base, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.Put && strings.HasPrefix(c.Name, "n/") {
			once.Do(func() {
				go func() {
					_, err := r.Collect(t.Context(), collectOptions(r))
					collected <- err
				}()
				select {
				case <-placed:
				case err := <-collected:
					t.Errorf("the session was not given up: %v", err)
				}
			})
		}
		return next()
	})), chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := save(t.Context(), s, noise(39, 50_000)); !errors.Is(err, chunkstore.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
	close(told)
	if !t.Failed() {
		if err := <-collected; err != nil {
			t.Error(err)
		}
	}
	if all := outcomes(t, reopen(t, base, chunkstore.Options{})); len(all) != len(contents) {
		t.Errorf("%d snapshots, want %d", len(all), len(contents))
	}
}
