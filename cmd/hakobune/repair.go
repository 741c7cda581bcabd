package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) repairCommand() *cli.Command {
	dry := &cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "change nothing, tell what would be done"}
	return &cli.Command{
		Name:  "repair",
		Usage: "save what can still be read of a damaged repository",
		Description: `After check has found damage. Nothing that can still be read is thrown away; each command may be
stopped at any moment and run again, beside backups and restores. In this order:

   hakobune repair index          list what is stored
   hakobune repair packs          save what can be read of damaged packs
   hakobune check

A second place that is whole (hakobune sync, a versioned bucket) is better than any repair: copy the
damaged objects back from there first. And what a system still has, the next backup stores again: it
makes old snapshots whole that lack it.`,
		Subcommands: []*cli.Command{
			{
				Name: "index", Usage: "make the index list what is stored", Action: p.repairIndex,
				Description: `Packs that the index does not list are listed by their own tables, packs that are not there are taken
out, index objects that cannot be read are replaced, and marks of a prune that cannot be read are deleted.
No pack and no snapshot is touched.

   hakobune repair index -n
   hakobune repair index
   hakobune repair index --read-all-packs     believe no index object, read the tables of all packs`,
				Flags: []cli.Flag{dry, &cli.BoolFlag{Name: "read-all-packs", Usage: "make the whole index anew from the tables in the packs"}},
			},
			{
				Name: "packs", Usage: "save what can be read of damaged packs", ArgsUsage: "[ID...]", Action: p.repairPacks,
				Description: `Reads the packs with these ids (the last part of the name that check tells, or its beginning), or all,
stores the chunks that can still be read of damaged ones in new packs, and sets the damaged ones aside
under d/, until a prune has found everything that snapshots need elsewhere. What could not be read is
missing from then on. Exits with 4 if something was lost.

   hakobune repair packs -n
   hakobune repair packs 0a1b2c3d
   hakobune repair packs`,
				Flags: []cli.Flag{dry},
			},
		},
	}
}

func (p *program) repairOptions(c *cli.Context, pr progress) chunkstore.RepairOptions {
	return chunkstore.RepairOptions{
		Host: hostName(), DryRun: c.Bool("dry-run"), ReadAll: c.Bool("read-all-packs"),
		Progress: func(phase string, done, total int64) {
			snapshot.Observer(pr.show).Notify(snapshot.Event{Phase: phase, Done: done, Total: total})
		},
	}
}

type repairIndexLine struct {
	Type     string   `json:"message_type"`
	DryRun   bool     `json:"dry_run"`
	Packs    int      `json:"packs"`
	Read     int      `json:"read_tables"`
	Added    int      `json:"added_packs"`
	Missing  []string `json:"missing_packs,omitempty"`
	Damaged  []string `json:"damaged_index_objects,omitempty"`
	Marks    []string `json:"deleted_marks,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

func (p *program) repairIndex(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	pr := p.newProgress(c)
	found, err := repo.RepairIndex(c.Context, p.repairOptions(c, pr))
	pr.stop()
	if err != nil {
		return err
	}
	line := repairIndexLine{
		Type: "summary", DryRun: c.Bool("dry-run"), Packs: found.Packs, Read: found.Read, Added: found.Added,
		Missing: found.Missing, Damaged: found.Damaged, Marks: found.Marks, Problems: texts(found.Problems),
	}
	if len(line.Problems)+len(line.Missing) > 0 {
		p.exit = exitDamage
	}
	return p.result(c, line, func() { p.showRepairIndex(line) })
}

func texts(errs []error) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

func (p *program) showRepairIndex(l repairIndexLine) {
	say := func(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
	for _, name := range l.Missing {
		say("MISSING: pack %s: taken out of the index", name)
	}
	for _, problem := range l.Problems {
		say("PROBLEM: %s", problem)
	}
	say("%d packs are stored; %d were not listed, %d tables read", l.Packs, l.Added, l.Read)
	say("%d index objects could not be read, %d marks; %d packs are missing", len(l.Damaged), len(l.Marks), len(l.Missing))
	if l.DryRun {
		say("nothing was changed")
	}
}

type damagedPackLine struct {
	Name   string `json:"name"`
	Error  string `json:"error"`
	Saved  int    `json:"saved_chunks"`
	Copied int    `json:"chunks_elsewhere"`
	Lost   int    `json:"lost_chunks"`
	Bytes  int64  `json:"lost_bytes"`
}

type repairPacksLine struct {
	Type    string               `json:"message_type"`
	DryRun  bool                 `json:"dry_run"`
	Read    chunkstore.PackCount `json:"read"`
	Damaged []damagedPackLine    `json:"damaged,omitempty"`
	Stored  int64                `json:"stored_bytes"`
	Lost    int                  `json:"lost_chunks"`
}

func (p *program) repairPacks(c *cli.Context) error {
	for _, id := range c.Args().Slice() {
		if len(id) < 8 {
			return usage("%q is too short for the id of a pack", id).hint("hakobune check tells the names of damaged packs")
		}
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	pr := p.newProgress(c)
	found, err := repo.RepairPacks(c.Context, c.Args().Slice(), p.repairOptions(c, pr))
	pr.stop()
	if err != nil {
		return err
	}
	line := repairPacksLine{Type: "summary", DryRun: c.Bool("dry-run"), Read: found.Read, Stored: found.Stored}
	for _, d := range found.Damaged {
		line.Damaged = append(line.Damaged, damagedPackLine{d.Name, d.Err.Error(), d.Saved, d.Copied, d.Lost, d.Bytes})
		line.Lost += d.Lost
	}
	if line.Lost > 0 {
		p.exit = exitDamage
	}
	return p.result(c, line, func() { p.showRepairPacks(line) })
}

func (p *program) showRepairPacks(l repairPacksLine) {
	say := func(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
	for _, d := range l.Damaged {
		lost := "nothing is lost"
		if d.Lost > 0 {
			lost = fmt.Sprintf("%d chunks, %s, are lost", d.Lost, size(d.Bytes))
		}
		say("DAMAGED: %s: %s", d.Name, d.Error)
		say("  %d chunks can be read, %d have a copy elsewhere; %s", d.Saved, d.Copied, lost)
	}
	say("read %s; %d damaged", packs(l.Read), len(l.Damaged))
	switch {
	case l.DryRun:
		say("nothing was changed")
	case len(l.Damaged) > 0:
		say("stored %s anew; the damaged packs lie under d/ now", size(l.Stored))
	}
	if l.Lost > 0 {
		say("back up the systems again: what they still have makes old snapshots whole")
	}
}
