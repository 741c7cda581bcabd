package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Events from many goroutines while bars are drawn. A lock that both needed once kept every
// command on a terminal from ever ending.
func TestBars(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &program{stdio: stdio{err: f}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		pr := p.bars()
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range int64(1000) {
					pr.show(snapshot.Event{Phase: fmt.Sprint("phase ", i/100), What: fmt.Sprint(g), Done: i, Total: 1000})
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		pr.stop()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("stands still")
	}
}

// Without a terminal: what was done never becomes less, silence is never long, and the end is told.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []string
		pr := newThrottle(time.Second, func(e snapshot.Event) {
			got = append(got, fmt.Sprintf("%s %s %d/%d", time.Since(start), e.Phase, e.Done, e.Total))
		})
		at := func(after time.Duration, phase string, done, total int64) {
			time.Sleep(after)
			pr.show(snapshot.Event{Phase: phase, Done: done, Total: total})
		}
		at(0, "images", 0, 90)
		at(100*time.Millisecond, "volumes", 1, 0)
		at(100*time.Millisecond, "images", 10, 90) // too soon
		at(900*time.Millisecond, "images", 30, 90)
		at(0, "images", 20, 90) // overtaken
		at(2*time.Second, "images", 29, 90)
		at(22*time.Second, "images", 89, 90) // nothing came for long
		at(10*time.Millisecond, "images", 90, 90)
		at(10*time.Millisecond, "images", 5, 50) // others, of the same kind
		at(10*time.Millisecond, "volumes", 2, 0)
		at(10*time.Millisecond, "volumes", 3, 0)
		pr.stop()
		want := []string{
			"0s images 0/90", "100ms volumes 1/0", "1.1s images 30/90", "12s images 30/90", "22s images 30/90", "25.1s images 89/90", "25.11s images 90/90",
			"25.13s volumes 2/0", "25.14s images 5/50", "25.14s volumes 3/0",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
