package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) pruneCommand() *cli.Command {
	return &cli.Command{
		Name:  "prune",
		Usage: "give back the space of what no snapshot needs any more",
		Description: `Deletes what only forgotten snapshots needed, rewrites packs of which little is still needed, and merges
the index. It may run beside backups, restores and other prunes, from any host, and may be killed
at any moment: the next one goes on. What a backup that runs meanwhile may rely on is deleted by the
next prune. Packs of the last 24 hours stay. It needs some room in the store to begin with: what goes is
put on record first, and what is rewritten is stored anew before the old goes.

Of a repository made with init --object-lock, only what is not locked any more is deleted; nothing is rewritten.

   hakobune forget --keep-daily 14 --keep-monthly 12
   hakobune prune -n                       what would it free?
   hakobune prune
   hakobune prune --max-repack-size 2G     not all of the rewriting in one night
   hakobune prune --max-reencrypt 2G       after key rotate: some of the old packs every night, until none is left`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "change nothing, tell what would be done"},
			&cli.StringFlag{Name: "max-unused", Value: "5%", Usage: "rewrite packs until no more than `SHARE` of what is needed lies beside it unused: 5%, 0, unlimited"},
			&cli.DurationFlag{Name: "min-age", Value: 24 * time.Hour, Usage: "leave packs alone that are younger than `TIME`; less than the default only where the store lists at once what was put, as directories and MinIO do"},
			&cli.StringFlag{Name: "max-reencrypt", Usage: "after key rotate: rewrite packs of no more than `SIZE` in all that are sealed with older keys; 64M at least, or unlimited"},
			&cli.StringFlag{Name: "max-repack-size", Usage: "rewrite packs of no more than `SIZE` in all: 2G, 500M"},
		},
		Action: p.prune,
	}
}

type pruneLine struct {
	Type      string               `json:"message_type"`
	DryRun    bool                 `json:"dry_run"`
	Snapshots int                  `json:"snapshots"`
	Stored    chunkstore.PackCount `json:"stored"`
	Unneeded  chunkstore.PackCount `json:"unneeded"`
	Orphans   chunkstore.PackCount `json:"orphans"`
	Young     chunkstore.PackCount `json:"young"`
	Unused    int64                `json:"unused_bytes"`
	Repack    chunkstore.PackCount `json:"repack"`
	Repacked  int64                `json:"repacked_bytes"`
	Old       chunkstore.PackCount `json:"old_keys"`
	Deleted   chunkstore.PackCount `json:"deleted"`
	Locked    chunkstore.PackCount `json:"locked"`
	Rescued   int                  `json:"rescued_packs"`
	Waits     []waitLine           `json:"waits,omitempty"`
	Fenced    []string             `json:"fenced,omitempty"`
	Indexes   [2]int               `json:"index_objects"`
	Records   int                  `json:"deleted_records"`
	Resealed  int                  `json:"resealed_records"`
	Problems  []string             `json:"problems,omitempty"`
}

type waitLine struct {
	Host   string    `json:"host"`
	Writer string    `json:"writer"`
	Since  time.Time `json:"silent_since"`
}

func (p *program) prune(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	opts := chunkstore.CollectOptions{Host: hostName(), DryRun: c.Bool("dry-run"), MinAge: c.Duration("min-age")}
	if opts.MinAge <= 0 {
		opts.MinAge = -1
	}
	var err error
	if opts.MaxUnused, err = parseShare(c.String("max-unused")); err != nil {
		return usage("--max-unused: %v", err)
	}
	if opts.MaxRepack, err = bound(c, "max-repack-size"); err != nil {
		return err
	}
	if opts.MaxReencrypt, err = bound(c, "max-reencrypt"); err != nil {
		return err
	}
	if n := opts.MaxReencrypt; n > 0 && n < minReencrypt {
		return usage("--max-reencrypt %q would come to no end: want 64M at least", c.String("max-reencrypt"))
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	return p.collect(c, repo, opts)
}

// minReencrypt is more than any pack has.
const minReencrypt = 64e6

// bound reads a flag of a size: 0 where it is not given, -1 for "unlimited".
func bound(c *cli.Context, flag string) (int64, error) {
	s := c.String(flag)
	switch s {
	case "":
		return 0, nil
	case "unlimited":
		return -1, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > 1<<60 {
		return 0, usage("--%s %q is not a size", flag, s)
	}
	return int64(n), nil
}

// collect runs a collection and tells what it did.
func (p *program) collect(c *cli.Context, repo *chunkstore.Repository, opts chunkstore.CollectOptions) error {
	pr := p.newProgress(c)
	opts.Walk = importer.RefsOnce(repo)
	opts.Progress = func(phase string, done, total int64) {
		snapshot.Observer(pr.show).Notify(snapshot.Event{Phase: phase, Done: done, Total: total})
	}
	report, err := repo.Collect(c.Context, opts)
	pr.stop()
	if err != nil {
		return err
	}
	line := pruneOf(report, opts.DryRun)
	p.wentWithout(report.Problems)
	return p.result(c, line, func() { p.showPrune(line) })
}

func pruneOf(r *chunkstore.CollectReport, dry bool) pruneLine {
	line := pruneLine{
		Type: "summary", DryRun: dry, Snapshots: r.Snapshots, Stored: r.Stored, Unneeded: r.Unneeded, Orphans: r.Orphans,
		Young: r.Young, Unused: r.Unused, Old: r.Old, Repack: r.Repack, Repacked: r.Repacked, Deleted: r.Deleted, Locked: r.Locked, Rescued: r.Rescued,
		Fenced: r.Fenced, Indexes: r.Indexes, Records: r.Records, Resealed: r.Resealed,
	}
	for _, w := range r.Waits {
		line.Waits = append(line.Waits, waitLine{w.Host, w.Writer.String(), w.Since})
	}
	for _, err := range r.Problems {
		line.Problems = append(line.Problems, err.Error())
	}
	return line
}

func (p *program) showPrune(l pruneLine) {
	say := func(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
	say("%d snapshots; the store keeps %s", l.Snapshots, packs(l.Stored))
	say("  not needed        %s", packs(l.Unneeded))
	if l.Orphans.Packs > 0 {
		say("  of dead sessions  %s", packs(l.Orphans))
	}
	if l.Young.Packs > 0 {
		say("  not yet           %s: of the last day, or of a backup that runs", packs(l.Young))
	}
	if l.Locked.Packs > 0 {
		say("  locked still      %s: not needed, and deleted once their time is up", packs(l.Locked))
	}
	say("  needed in part    %s of it unused; to be rewritten: %s", size(l.Unused), packs(l.Repack))
	if l.Old.Packs > 0 {
		say("  of older keys     %s stay: hakobune prune --max-reencrypt 2G rewrites them, once they are a day old", packs(l.Old))
	}
	for _, problem := range l.Problems {
		say("PROBLEM: %s", problem)
	}
	if l.DryRun {
		say("nothing was changed")
		return
	}
	say("deleted %s, stored %s anew, index objects %d -> %d", packs(l.Deleted), size(l.Repacked), l.Indexes[0], l.Indexes[1])
	if l.Resealed > 0 {
		say("sealed %d records with the new keys", l.Resealed)
	}
	if l.Rescued > 0 {
		say("%d packs that were to be deleted have come to be needed, and stay", l.Rescued)
	}
	if len(l.Fenced) > 0 {
		say("%d sessions that showed no life for days were given up", len(l.Fenced))
	}
	for _, w := range l.Waits {
		say("a backup on host %s runs (last sign of life %s): what it may rely on is deleted by the next prune", w.Host, localTime(w.Since))
	}
}

func packs(n chunkstore.PackCount) string { return fmt.Sprintf("%d packs, %s", n.Packs, size(n.Bytes)) }

// parseShare reads "5%", "0" or "unlimited", which is -1.
func parseShare(s string) (float64, error) {
	if s == "unlimited" {
		return -1, nil
	}
	var percent float64
	number := strings.TrimSuffix(s, "%")
	if _, err := fmt.Sscanf(number+"\n", "%g\n", &percent); err != nil || percent < 0 || number == s && percent != 0 {
		return 0, fmt.Errorf("%q is no share: write it as 5%%, 0 or unlimited", s)
	}
	return percent / 100, nil
}
