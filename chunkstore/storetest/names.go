package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// calls are the methods that take a name, for what must hold for each of them.
func calls(b chunkstore.Backend) map[string]func(ctx context.Context, name string) error {
	m := map[string]func(ctx context.Context, name string) error{
		"Put":    func(ctx context.Context, name string) error { return b.Put(ctx, name, []byte("x")) },
		"Get":    func(ctx context.Context, name string) error { _, err := b.Get(ctx, name, 0, -1); return err },
		"Range":  func(ctx context.Context, name string) error { _, err := b.Get(ctx, name, 1, 1); return err },
		"Stat":   func(ctx context.Context, name string) error { _, err := b.Stat(ctx, name); return err },
		"Delete": b.Delete,
	}
	if c, ok := b.(chunkstore.Creator); ok {
		m["PutIfAbsent"] = func(ctx context.Context, name string) error { return c.PutIfAbsent(ctx, name, []byte("x")) }
	}
	return m
}

func (s suite) names(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	hash := strings.Repeat("0123456789abcdef", 4)
	good := []string{
		"config", "0", "a-b_c.d", "...", "..a", "a..", ".hidden/x",
		"p/0123456789abcdef/aa/" + hash,
		"x/0123456789abcdef/00000012/" + hash,
		"i/0123456789abcdef/0123456789abcdef0123456789abcdef-12",
		"q/" + strings.Repeat("a", 198),
		"d/" + strings.Repeat("a/", 98) + "bc",
	}
	for _, name := range good {
		put(t, b, name, []byte(name))
	}
	for _, name := range good {
		if got := get(t, b, name); string(got) != name {
			t.Errorf("%s holds %q", name, got)
		}
		if err := b.Delete(ctx, name); err != nil {
			t.Error(err)
		}
	}
	bad := []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..", "./a",
		"A", "aB", "~a", "a b", "a\\b", "a\x00b", "a\nb", "é", "a%2fb", "a?b", "a#b", "a*", "a:b", "a+b",
		strings.Repeat("a", 201), "\xff",
	}
	for method, call := range calls(b) {
		for _, name := range bad {
			if err := call(ctx, name); err == nil || errors.Is(err, chunkstore.ErrNotExist) {
				t.Errorf("%s(%q): %v; want an error for the name", method, name, err)
			}
		}
	}
	for _, prefix := range []string{"/", "/p", "p//", "../", "p/../", "./", "P", "p*", strings.Repeat("a", 201)} {
		if err := b.List(ctx, prefix, func(chunkstore.Info) error { return nil }); err == nil {
			t.Errorf("List(%q): no error; want one for the prefix", prefix)
		}
	}
}

func (s suite) size(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	huge := make([]byte, chunkstore.MaxObject+1) // never touched, so never there
	if err := b.Put(ctx, "huge", huge); err == nil {
		t.Error("Put took more than MaxObject")
	}
	if c, ok := b.(chunkstore.Creator); ok {
		if err := c.PutIfAbsent(ctx, "huge", huge); err == nil {
			t.Error("PutIfAbsent took more than MaxObject")
		}
	}
	if _, err := b.Stat(ctx, "huge"); !errors.Is(err, chunkstore.ErrNotExist) {
		t.Errorf("Stat of what was refused: %v; want ErrNotExist", err)
	}
}

func (s suite) context(t *testing.T) {
	b := s.open(t)
	put(t, b, "p/x", []byte("xx"))
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, tc := range []struct {
		ctx  context.Context
		want error
	}{{canceled(t), context.Canceled}, {expired, context.DeadlineExceeded}} {
		for method, call := range calls(b) {
			start := time.Now()
			if err := call(tc.ctx, "p/x"); !errors.Is(err, tc.want) {
				t.Errorf("%s after the context ended: %v; want %v", method, err, tc.want)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("%s took %v to notice that the context had ended", method, d)
			}
		}
		err := b.List(tc.ctx, "", func(chunkstore.Info) error { return nil })
		if !errors.Is(err, tc.want) {
			t.Errorf("List after the context ended: %v; want %v", err, tc.want)
		}
	}
	if got := get(t, b, "p/x"); string(got) != "xx" {
		t.Errorf("calls whose context had ended changed the object to %q", got)
	}
}
