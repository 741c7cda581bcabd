package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

func (s suite) list(t *testing.T) {
	b := s.open(t)
	s.wantNames(t, b, "", nil)
	// Sorted by byte: '-' < '.' < '/' < digits < '_' < letters.
	names := []string{
		"config", "n/00/1", "n/00/2", "n/01/1", "p/0-1", "p/0.1", "p/0/1", "p/0/1-2", "p/0/1.2", "p/0/12",
		"p/00", "p/0_1", "p/0a", "p/1", "pp/1", "s/00/1",
	}
	if !slices.IsSorted(names) {
		t.Fatal("the test's own names are not in order")
	}
	for _, i := range []int{15, 3, 0, 7, 12, 1, 9, 5, 14, 2, 11, 4, 10, 6, 13, 8} {
		put(t, b, names[i], []byte("x"))
	}
	for _, prefix := range []string{
		"", "c", "config", "configs", "n", "n/", "n/0", "n/00", "n/00/", "n/00/2", "p", "p/", "p/0", "p/0/", "p/0/1",
		"p/0/1-", "p/1", "pp", "q", "q/", "q/r/s", "p/0/1/2", "config/x", "p/.", "p/..",
	} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		s.wantNames(t, b, prefix, want)
	}
}

// listMany: more than one page of an S3 listing; where that is soon done, more than two. In short
// tests, which look for races and not for pages, only many.
func (s suite) listMany(t *testing.T) {
	b, start := s.open(t), time.Now()
	var want []string
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	for i := range 2345 {
		if i > 150 && testing.Short() || i > 1005 && time.Since(start) > 5*time.Second {
			break
		}
		name := fmt.Sprintf("t/%02x/%06d", i/16, i)
		want = append(want, name)
		g.Go(func() error { return b.Put(ctx, name, []byte(name)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	s.wantNames(t, b, "t/", want)
	s.eventually(t, func() string {
		for _, info := range list(t, b, "t/") {
			if info.Size != int64(len(info.Name)) || info.Modified.IsZero() {
				return fmt.Sprintf("listed as %+v", info)
			}
		}
		return ""
	})
}

// listStops: an error of fn and the end of the context end the listing.
func (s suite) listStops(t *testing.T) {
	b := s.open(t)
	for i := range 5 {
		put(t, b, fmt.Sprint("p/", i), []byte("x"))
	}
	s.wantNames(t, b, "p/", []string{"p/0", "p/1", "p/2", "p/3", "p/4"})
	stop, seen := errors.New("stop"), 0
	err := b.List(t.Context(), "", func(chunkstore.Info) error {
		if seen++; seen == 3 {
			return stop
		}
		return nil
	})
	if err != stop || seen != 3 {
		t.Errorf("List whose fn fails at the third object: %v after %d; want fn's error itself", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen = 0
	err = b.List(ctx, "", func(chunkstore.Info) error {
		seen++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || seen != 1 {
		t.Errorf("List whose context ends at the first object: %v after %d", err, seen)
	}
}

// listReenters: fn may use the store, and objects that go away meanwhile do no harm.
func (s suite) listReenters(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("p/%02d", i))
		put(t, b, want[i], []byte("x"))
	}
	s.wantNames(t, b, "p/", want)
	var got []string
	err := b.List(ctx, "p/", func(info chunkstore.Info) error {
		got = append(got, info.Name)
		if _, err := b.Get(ctx, info.Name, 0, -1); err != nil {
			return err
		}
		return b.Delete(ctx, info.Name)
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("deleting while listing: %v, %v", got, err)
	}
	s.wantNames(t, b, "p/", nil)
}
