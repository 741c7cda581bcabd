package exporter

import (
	"context"
	"log/slog"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Holding is a time in which containers stand still, for tests.
type Holding struct{ h *holding }

// HoldStill holds list still. dir keeps journals unless it is empty.
func HoldStill(ctx context.Context, engine Holder, guard *Guard, dir string, within time.Duration, list []Hold) (*Holding, error) {
	q := quiesce{engine: engine, guard: guard, dir: dir, key: "test", within: within, log: slog.New(slog.DiscardHandler)}
	h, err := q.hold(ctx, list)
	return &Holding{h}, err
}

// Release lets go.
func (h *Holding) Release() error { return h.h.release() }

// Still returns the time held: of all, and the longest of one.
func (h *Holding) Still() (span, longest time.Duration) { return h.h.still() }

// Outcome returns notes, and whether the time was up.
func (h *Holding) Outcome() ([]snapshot.Problem, bool) { return h.h.outcome() }

// RecoverDir is Recover over a directory of journals of HoldStill.
func RecoverDir(ctx context.Context, engine Releaser, dir string) ([]string, error) {
	found, err := recoverDir(ctx, engine, dir, "test")
	return found.freed, err
}

// TellGuard tells a guard of a hold without one.
func TellGuard(g *Guard, list []Hold, within time.Duration) error { return g.hold(list, within, "") }

// NewDiffTree compares two trees.
func NewDiffTree(ctx context.Context, base, now archive.Tree) (archive.Tree, error) {
	return newDiffTree(ctx, base, now)
}
