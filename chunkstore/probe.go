package chunkstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// ConditionalWrites finds out by trial whether the store creates an object only where there is
// none: one name twice, then eight creates of one name at once. Some stores ignore the condition,
// some answer that they do not know it, some are not atomic. It leaves no object behind unless the
// store refuses deletion.
func ConditionalWrites(ctx context.Context, b Backend) (bool, error) {
	c, ok := b.(Creator)
	if !ok {
		return false, nil
	}
	one, many := probeName(), probeName()
	defer func() {
		ctx := context.WithoutCancel(ctx)
		b.Delete(ctx, one)
		b.Delete(ctx, many)
	}()
	if err := c.PutIfAbsent(ctx, one, []byte("first")); err != nil {
		return false, ignoreUnsupported(err)
	}
	switch err := c.PutIfAbsent(ctx, one, []byte("second")); {
	case err == nil:
		return false, nil
	case !errors.Is(err, ErrExist):
		return false, ignoreUnsupported(err)
	}
	if got, err := b.Get(ctx, one, 0, -1); err != nil || !bytes.Equal(got, []byte("first")) {
		return false, err
	}
	return oneOfMany(ctx, c, many)
}

// oneOfMany reports whether exactly one of eight concurrent creates succeeds.
func oneOfMany(ctx context.Context, c Creator, name string) (bool, error) {
	var won atomic.Int32
	g, ctx := errgroup.WithContext(ctx)
	for i := range 8 {
		g.Go(func() error {
			err := c.PutIfAbsent(ctx, name, []byte{'0' + byte(i)})
			if err == nil {
				won.Add(1)
			}
			if errors.Is(err, ErrExist) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return false, ignoreUnsupported(err)
	}
	return won.Load() == 1, nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	return err
}

func probeName() string {
	var b [16]byte
	rand.Read(b[:])
	return probePrefix + hex.EncodeToString(b[:])
}
