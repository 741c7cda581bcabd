package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// measure is what one backup or restore took.
type measure struct {
	cost
	added int64 // to the store
	told  *told // of hakobune
}

// told is what hakobune says at its end.
type told struct {
	Type  string `json:"message_type"`
	Stats struct {
		Read, New, Stored int64
		Paused            time.Duration
	}
	Objects []struct{ Kind, Way string }
}

// table is a scenario's figures: a row for each step, a column for each tool.
type table struct {
	title  string
	intro  string
	stores bool // whether a row for what was stored belongs to each step
	tools  []string
	steps  []string
	cells  map[string]map[string]measure // by step and tool
}

func (b *bench) newTable(title string, stores bool, tools []string) *table {
	t := &table{title: title, stores: stores, tools: tools, cells: map[string]map[string]measure{}}
	b.tables = append(b.tables, t)
	return t
}

func (b *bench) add(t *table, step, tool string, m measure) {
	if t.cells[step] == nil {
		t.cells[step] = map[string]measure{}
		t.steps = append(t.steps, step)
	}
	t.cells[step][tool] = m
	fmt.Fprintf(b.log, "%s: %s: %s, %s added, %s of memory%s\n", step, tool, seconds(m.took), size(m.added), size(m.rss), m.told)
}

// step has all tools back up what lies at the source.
func (b *bench) step(ctx context.Context, t *table, step string, tools []*tool, read string) error {
	if _, err := b.host.output(ctx, nil, read+" >/dev/null"); err != nil {
		return err
	}
	for _, tool := range tools {
		m, err := b.backup(ctx, tool)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", step, tool.name, err)
		}
		b.add(t, step, tool.name, m)
	}
	return nil
}

// backup runs a tool once; afterwards its store must tell of it.
func (b *bench) backup(ctx context.Context, t *tool) (measure, error) {
	var m measure
	before, err := b.stored(ctx, t)
	if err != nil {
		return m, err
	}
	listed, err := b.host.output(ctx, t.env, t.list)
	if err != nil {
		return m, err
	}
	out, c, err := b.host.timed(ctx, t.env, t.backup)
	if err != nil {
		return m, err
	}
	after, err := b.stored(ctx, t)
	if err != nil {
		return m, err
	}
	m = measure{cost: c, added: after - before, told: parse(out)}
	now, err := b.host.output(ctx, t.env, t.list)
	if err == nil && now == listed {
		err = fmt.Errorf("%s: its store does not list the backup:\n%s", t.name, now)
	}
	return m, err
}

// parse finds hakobune's summary in what was printed; nil if there is none.
func parse(out string) *told {
	for line := range strings.Lines(out) {
		var s told
		if json.Unmarshal([]byte(line), &s) == nil && s.Type == "summary" {
			return &s
		}
	}
	return nil
}

func (s *told) String() string {
	if s == nil {
		return ""
	}
	for _, o := range s.Objects {
		if o.Way != "" {
			return "; images by " + o.Way
		}
	}
	return fmt.Sprintf("; %s read, %s new, %s stored, still for %s", size(s.Stats.Read), size(s.Stats.New), size(s.Stats.Stored), s.Stats.Paused.Round(time.Millisecond))
}

func seconds(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 10:
		return fmt.Sprintf("%.2f s", s)
	case s < 100:
		return fmt.Sprintf("%.1f s", s)
	default:
		return fmt.Sprintf("%.0f s", s)
	}
}

func size(n int64) string {
	const kib, mib, gib = 1 << 10, 1 << 20, 1 << 30
	switch f := float64(n); {
	case n < 10*kib:
		return fmt.Sprintf("%d B", n)
	case n < mib:
		return fmt.Sprintf("%.0f KiB", f/kib)
	case n < 10*mib:
		return fmt.Sprintf("%.2f MiB", f/mib)
	case n < gib:
		return fmt.Sprintf("%.0f MiB", f/mib)
	default:
		return fmt.Sprintf("%.2f GiB", f/gib)
	}
}
