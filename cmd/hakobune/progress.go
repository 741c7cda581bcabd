package main

import (
	"fmt"
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
		return throttled(jsonEvery, func(e snapshot.Event) {
			writeJSON(p.out, statusLine{"status", e.Phase, e.What, e.Done, e.Total})
		})
	case term.IsTerminal(int(p.err.Fd())) && p.env.get("TERM") != "dumb":
		return p.bars()
	}
	return throttled(plainEvery, func(e snapshot.Event) { fmt.Fprintln(p.err, plainLine(e)) })
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

// throttled passes on the first event of each phase, and others at most once in every.
func throttled(every time.Duration, show func(snapshot.Event)) progress {
	var mu sync.Mutex
	var last time.Time
	phase := ""
	return progress{
		stop: func() {},
		show: func(e snapshot.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Phase == phase && time.Since(last) < every {
				return
			}
			last, phase = time.Now(), e.Phase
			show(e)
		},
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
