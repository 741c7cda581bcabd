package chunkstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func TestLimitContract(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		storetest.Run(t, func(*testing.T) chunkstore.Backend { return chunkstore.Limit(memory(), 0, 0) })
	})
	t.Run("high", func(t *testing.T) {
		storetest.Run(t, func(*testing.T) chunkstore.Backend { return chunkstore.Limit(memory(), 10<<30, 10<<30) })
	})
}

func TestLimitRate(t *testing.T) {
	const second = 1 << 20 // bytes of one second
	for name, tc := range map[string]struct {
		move func(ctx context.Context, b chunkstore.Backend) error
		want time.Duration
	}{
		"put": {func(ctx context.Context, b chunkstore.Backend) error { return b.Put(ctx, "b", make([]byte, 5*second)) }, 5 * time.Second},
		"create": {func(ctx context.Context, b chunkstore.Backend) error {
			return b.(chunkstore.Creator).PutIfAbsent(ctx, "b", make([]byte, 5*second))
		}, 5 * time.Second},
		"get": {func(ctx context.Context, b chunkstore.Backend) error { _, err := b.Get(ctx, "a", 0, -1); return err }, 3 * time.Second},
		"range": {func(ctx context.Context, b chunkstore.Backend) error {
			_, err := b.Get(ctx, "a", 5, second)
			return err
		}, time.Second},
		"stat": {func(ctx context.Context, b chunkstore.Backend) error { _, err := b.Stat(ctx, "a"); return err }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := memory()
				if err := s.Put(t.Context(), "a", make([]byte, 3*second)); err != nil {
					t.Fatal(err)
				}
				b := chunkstore.Limit(s, second, second)
				start := time.Now()
				if err := tc.move(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				// The first tenth of a second's bytes are free.
				if d := time.Since(start); d > tc.want || d < tc.want-200*time.Millisecond {
					t.Errorf("took %v, want %v", d, tc.want)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second/100)
				defer cancel()
				if err := tc.move(ctx, b); tc.want > 0 && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("with a deadline before its turn: %v", err)
				}
			})
		})
	}
}
