package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) statsCommand() *cli.Command {
	return &cli.Command{
		Name:  "stats",
		Usage: "tell how much the repository holds, and what it takes",
		Description: `Logical size is what all snapshots would take if each stood by itself; stored size is what the store
keeps for them.

   hakobune stats
   hakobune stats --over-time --system shop
   hakobune stats --svg growth.svg

With --over-time, tells of each snapshot, oldest first, what it added to the store when it was made,
and the sum up to then; --svg draws that sum for each system. What forgotten snapshots added is not in
these sums.`,
		Flags: append(filterFlags(),
			&cli.BoolFlag{Name: "over-time", Usage: "tell what each snapshot added, oldest first"},
			&cli.StringFlag{Name: "svg", Usage: "draw what each system stored over time into `FILE`"}),
		Action: p.stats,
	}
}

func (p *program) stats(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	list := filter(c).Apply(cat.Snapshots)
	if name := c.String("svg"); name != "" {
		if err := p.draw(c, name, snapshot.Grow(list)); err != nil {
			return err
		}
	}
	if c.Bool("over-time") {
		return p.overTime(c, snapshot.Grow(list))
	}
	return p.totals(c, repo, list)
}

type systemStats struct {
	Snapshots int   `json:"snapshots"`
	Logical   int64 `json:"logical"` // sum over all snapshots
	Newest    int64 `json:"newest"`  // of the newest
	Added     int64 `json:"added"`   // stored by its snapshots when they were made
}

type statsLine struct {
	Type      string                 `json:"message_type"`
	Systems   map[string]systemStats `json:"systems"`
	Snapshots int                    `json:"snapshots"`
	Logical   int64                  `json:"logical"`
	Stored    int64                  `json:"stored"` // bytes of all packs in the store
	Packs     int                    `json:"packs"`
	Chunks    int                    `json:"chunks"`
	Plain     int64                  `json:"plain"` // bytes of all chunks before compression
}

// totals tells what the repository holds as a whole.
func (p *program) totals(c *cli.Context, repo *chunkstore.Repository, list []snapshot.Summary) error {
	usage, err := repo.Usage(c.Context)
	if err != nil {
		return err
	}
	line := statsLine{Type: "stats", Systems: map[string]systemStats{}, Stored: usage.StoredBytes, Packs: usage.Packs, Chunks: usage.Chunks, Plain: usage.PlainBytes}
	for _, s := range slices.Backward(list) { // the newest of a system is the last to be added
		line.Snapshots++
		line.Logical += s.Stats.Bytes
		line.Systems[s.System] = addStats(line.Systems[s.System], s)
	}
	return p.result(c, line, func() {
		t := newTable("System", "Snapshots", "Newest", "Logical", "Added")
		for _, name := range slices.Sorted(maps.Keys(line.Systems)) {
			s := line.Systems[name]
			t.row(name, fmt.Sprint(s.Snapshots), size(s.Newest), size(s.Logical), size(s.Added))
		}
		t.write(p.out)
		fmt.Fprintf(p.out, "\n%d snapshots hold %s; the store keeps %s in %d packs: %s of chunks, compressed %s, deduplicated %s\n",
			line.Snapshots, size(line.Logical), size(line.Stored), line.Packs, size(line.Plain),
			ratio(line.Plain, line.Stored), ratio(line.Logical, line.Plain))
	})
}

func addStats(s systemStats, snap snapshot.Summary) systemStats {
	return systemStats{s.Snapshots + 1, s.Logical + snap.Stats.Bytes, snap.Stats.Bytes, s.Added + snap.Stats.Stored}
}

// ratio tells how many times a is b.
func ratio(a, b int64) string {
	if b <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2fx", float64(a)/float64(b))
}

type growthLine struct {
	Type      string    `json:"message_type"`
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	System    string    `json:"system"`
	Added     int64     `json:"added"`
	Sum       int64     `json:"sum"`        // of added, up to this snapshot
	SystemSum int64     `json:"system_sum"` // the same of its system
	Logical   int64     `json:"logical"`
}

// overTime tells how the repository grew.
func (p *program) overTime(c *cli.Context, steps []snapshot.Growth) error {
	if isSet(c, "json") {
		for _, g := range steps {
			writeJSON(p.out, growthLine{"growth", g.Summary.ID, g.Summary.Time, g.Summary.System, g.Added, g.Sum, g.SystemSum, g.Summary.Stats.Bytes})
		}
		return nil
	}
	t := newTable("Time", "ID", "System", "Added", "Sum", "Size")
	for _, g := range steps {
		t.row(localTime(g.Summary.Time), g.Summary.ID[:8], g.Summary.System, size(g.Added), size(g.Sum), size(g.Summary.Stats.Bytes))
	}
	t.write(p.out)
	p.note(c, "%d snapshots", len(steps))
	return nil
}

// draw writes the growth of each system as a chart.
func (p *program) draw(c *cli.Context, name string, steps []snapshot.Growth) error {
	if len(steps) == 0 {
		return withHint(fmt.Errorf("draw %s: there are no snapshots", name), "hakobune snapshots lists what there is; the flags may keep none")
	}
	if err := importer.WriteFile(name, func(w io.Writer) error { return drawGrowth(w, steps, time.Local) }); err != nil {
		return fmt.Errorf("draw %s: %w", name, err)
	}
	p.note(c, "drew %s", name)
	return nil
}
