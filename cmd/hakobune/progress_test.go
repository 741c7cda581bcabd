package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

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
