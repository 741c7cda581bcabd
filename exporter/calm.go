package exporter

import (
	"context"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

const (
	// calmTime bounds the wait for a moment without health checks: there are containers that are always checked.
	calmTime = 3 * time.Second
	// calmMargin is how much time there has to be until the next check: more than it takes to ask an engine and to
	// pause containers.
	calmMargin = 300 * time.Millisecond
	// calmPoll is between two looks while a check is under way.
	calmPoll = 50 * time.Millisecond
)

// awaitCalm waits until no container that is to be paused is about to run its health check. Where a pause meets the
// start of a check, Docker 20.10 freezes the check half-started, and then lets the container go only when the time that
// the check may take is over, 30 s by default (docs/performance.md has the figures). Whoever starts other commands in a
// container may still meet that; engines tell nothing of them.
func (h *holding) awaitCalm(ctx context.Context) {
	for end := time.Now().Add(calmTime); time.Now().Before(end); {
		wait := h.uncalm(ctx)
		if wait == 0 || sleep(ctx, min(wait, time.Until(end))) != nil {
			return
		}
	}
}

// uncalm returns how long to wait before looking again, zero if this is the moment.
func (h *holding) uncalm(ctx context.Context) time.Duration {
	var wait time.Duration
	for _, it := range h.items {
		if it.Mode != snapshot.Pause {
			continue
		}
		st, err := h.engine.State(ctx, it.ID)
		if err != nil || st.NextCheck.IsZero() {
			continue // no check; of a failing engine the pause tells
		}
		if left := time.Until(st.NextCheck); left < calmMargin {
			wait = max(wait, left, calmPoll)
		}
	}
	return wait
}
