package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// How often progress is told where there is no terminal, and as JSON.
const (
	plainEvery = 10 * time.Second
	jsonEvery  = time.Second
)

// progress shows events: bars on a terminal, a line every some seconds elsewhere, status lines
// with --json, nothing with --quiet.
type progress struct {
	show func(snapshot.Event)
	stop func()
}

// newProgress returns the progress of one command. stop must be called before results are printed.
func (p *program) newProgress(c *cli.Context) progress {
	switch {
	case isSet(c, "quiet"):
		return progress{nil, func() {}}
	case isSet(c, "json"):
		return newThrottle(jsonEvery, func(e snapshot.Event) {
			writeJSON(p.out, statusLine{"status", e.Phase, e.What, e.Done, e.Total})
		})
	case term.IsTerminal(int(p.err.Fd())) && p.env.get("TERM") != "dumb":
		return p.bars()
	}
	return newThrottle(plainEvery, func(e snapshot.Event) { fmt.Fprintln(p.err, plainLine(e)) })
}

type statusLine struct {
	Type  string `json:"message_type"`
	Phase string `json:"phase"`
	What  string `json:"what,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`
}

func plainLine(e snapshot.Event) string {
	line := e.Phase
	if e.What != "" {
		line += " " + e.What
	}
	switch {
	case e.Total > 0:
		return fmt.Sprintf("%s: %s of %s", line, size(e.Done), size(e.Total))
	case e.Done > 0:
		return fmt.Sprintf("%s: %s", line, size(e.Done))
	}
	return line
}

// throttle passes on, of each phase, the first event, the one that completes it, and others at most once in every; how
// far it came is told at the end. Where nothing comes for plainEvery the last is said again: who watches sees that the
// program lives, and how far it is. What a phase has done never becomes less, whatever order goroutines tell it in.
type throttle struct {
	every time.Duration
	show  func(snapshot.Event)

	mu     sync.Mutex
	phases map[string]*throttled
	last   snapshot.Event // shown
	at     time.Time      // when
}

// throttled is what is known of a phase.
type throttled struct {
	event snapshot.Event // the newest
	held  bool           // it was not shown
	shown time.Time
}

func newThrottle(every time.Duration, show func(snapshot.Event)) progress {
	t := &throttle{every: every, show: show, phases: map[string]*throttled{}, at: time.Now()}
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		t.repeat(ended)
	}()
	return progress{
		show: t.event,
		stop: func() {
			close(ended)
			<-stopped
			t.flush()
		},
	}
}

func (t *throttle) event(e snapshot.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ph, known := t.phases[e.Phase]
	if !known {
		ph = &throttled{}
		t.phases[e.Phase] = ph
	}
	if known && e.Total == ph.event.Total && e.Done < ph.event.Done {
		return // overtaken
	}
	complete := e.Total > 0 && e.Done == e.Total && e != ph.event
	ph.event, ph.held = e, true
	if !known || complete || time.Since(ph.shown) >= t.every {
		t.pass(ph)
	}
}

func (t *throttle) pass(ph *throttled) {
	t.last, t.at = ph.event, time.Now()
	ph.held, ph.shown = false, t.at
	t.show(ph.event)
}

// repeat says the last again, until ended.
func (t *throttle) repeat(ended <-chan struct{}) {
	tick := time.NewTicker(jsonEvery)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			t.mu.Lock()
			if ph := t.phases[t.last.Phase]; ph != nil && time.Since(t.at) >= plainEvery {
				t.pass(ph)
			}
			t.mu.Unlock()
		}
	}
}

// flush shows how far phases came that did not come to an end.
func (t *throttle) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.phases)) {
		if ph := t.phases[name]; ph.held && ph.event.Done > 0 {
			t.pass(ph)
		}
	}
}

// bars shows a bar for each phase that is under way. Phases without a known size count up.
func (p *program) bars() progress {
	container := mpb.New(mpb.WithOutput(p.err), mpb.WithWidth(60), mpb.WithRefreshRate(150*time.Millisecond), mpb.WithAutoRefresh())
	var mu sync.Mutex
	phases := map[string]*phase{}
	return progress{
		stop: func() {
			mu.Lock()
			defer mu.Unlock()
			for _, ph := range phases {
				ph.bar.SetTotal(-1, true)
			}
			container.Wait()
		},
		show: func(e snapshot.Event) {
			mu.Lock()
			defer mu.Unlock()
			ph := phases[e.Phase]
			if ph == nil {
				ph = &phase{}
				ph.bar = container.AddBar(0, phaseBar(e.Phase, ph.text)...)
				phases[e.Phase] = ph
			}
			ph.what.Store(&e.What)
			if e.Total > 0 {
				ph.bar.SetTotal(e.Total, false)
			}
			ph.bar.SetCurrent(e.Done)
		},
	}
}

// phase is one bar. What it is about is read while bars are drawn, when whoever shows an event may be
// waiting for the drawing: so no lock is shared.
type phase struct {
	bar  *mpb.Bar
	what atomic.Pointer[string]
}

func (p *phase) text() string {
	if s := p.what.Load(); s != nil {
		return *s
	}
	return ""
}

func phaseBar(phase string, what func() string) []mpb.BarOption {
	return []mpb.BarOption{
		mpb.PrependDecorators(
			decor.Name(phase, decor.WC{W: 12, C: decor.DindentRight}),
			decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
		),
		mpb.AppendDecorators(
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f", decor.WCSyncSpace),
			decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace),
			decor.Any(func(decor.Statistics) string { return " " + what() }),
		),
	}
}
