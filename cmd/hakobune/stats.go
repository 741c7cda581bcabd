package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) statsCommand() *cli.Command {
	return &cli.Command{
		Name:  "stats",
		Usage: "tell how much the repository holds, and what it takes",
		Description: `Logical size is what all snapshots would take if each stood by itself; stored size is what the store
keeps for them.`,
		Flags:  filterFlags(),
		Action: p.stats,
	}
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

func (p *program) stats(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	cat, err := p.catalog(c, repo)
	if err != nil {
		return err
	}
	usage, err := repo.Usage(c.Context)
	if err != nil {
		return err
	}
	line := statsLine{Type: "stats", Systems: map[string]systemStats{}, Stored: usage.StoredBytes, Packs: usage.Packs, Chunks: usage.Chunks, Plain: usage.PlainBytes}
	for _, s := range filter(c).Apply(cat.Snapshots) {
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
