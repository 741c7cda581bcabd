package main

import (
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
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
   hakobune repair snapshots      make new snapshots of what is left of broken ones
   hakobune check

A second place that is whole (hakobune sync, a versioned bucket) is better than any repair: copy the
damaged objects back from there first. And what a system still has, the next backup stores again: it
makes old snapshots whole that lack it.`,
		Subcommands: []*cli.Command{
			{
				Name: "index", Usage: "make the index list what is stored", Action: p.repairIndex,
				Description: `Packs that the index does not list are listed by their own tables, packs that are not there are taken
out, index objects that cannot be read are replaced, and marks of a prune that cannot be read are deleted.
No pack and no snapshot is touched. What is locked in the store stays, and is told among the problems, as what says to
be of a newer version there: anybody who can write to the bucket can put that.

   hakobune repair index -n
   hakobune repair index
   hakobune repair index --read-all-packs     believe no index object, read the tables of all packs`,
				Flags: []cli.Flag{dry, &cli.BoolFlag{Name: "read-all-packs", Usage: "make the whole index anew from the tables in the packs"}},
			},
			{
				Name: "packs", Usage: "save what can be read of damaged packs", ArgsUsage: "[ID...]", Action: p.repairPacks,
				Description: `Reads the packs with these ids (the last part of the name that check tells, or its beginning), or all,
stores the chunks that can still be read of damaged ones in new packs, and sets the damaged ones aside
under d/, until a prune has found everything that snapshots need elsewhere. One that is locked in the store
stays where it is until a prune may delete it, and counts for nothing. What could not be read is
missing from then on. Exits with 4 if something was lost, and with 1 if packs could not be read because they
lie in an archive of the store: these are named, and hakobune thaw --pack brings them back.

   hakobune repair packs -n
   hakobune repair packs 0a1b2c3d
   hakobune repair packs`,
				Flags: []cli.Flag{dry},
			},
			{
				Name: "snapshots", Usage: "make new snapshots of what is left of broken ones", ArgsUsage: "[SNAPSHOT...]", Action: p.repairSnapshots,
				Description: `Goes through these snapshots, or all that the filters leave. Of each that needs something that is not
stored any more it makes a new one of what can still be read: without the files whose content is lost, each
told by name among its problems, and without the layers of images of which one is lost. The new one is
incomplete, and goes by the times of the old one, which stays unless --forget says otherwise. Whether packs
can be read is not looked at: repair packs first. Exits with 4 if something is lost.

   hakobune repair snapshots -n
   hakobune repair snapshots shop
   hakobune repair snapshots --forget

` + selectorHelp,
				Flags: append(filterFlags(), dry, &cli.BoolFlag{Name: "forget", Usage: "forget each broken snapshot when its new one is stored"}),
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

// shortPackID is how many digits of a pack's id must be given at least.
const shortPackID = 8

type repairIndexLine struct {
	Type     string   `json:"message_type"`
	DryRun   bool     `json:"dry_run"`
	Packs    int      `json:"packs"`
	Read     int      `json:"read_tables"`
	Added    int      `json:"added_packs"`
	Missing  []string `json:"missing_packs,omitempty"`
	Damaged  []string `json:"damaged_index_objects,omitempty"`
	Marks    []string `json:"deleted_marks,omitempty"`
	Archived []string `json:"archived_packs,omitempty"`
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
		Missing: found.Missing, Damaged: found.Damaged, Marks: found.Marks, Archived: found.Archived, Problems: texts(found.Problems),
	}
	p.exitFor(len(line.Problems)+len(line.Missing) > 0, line.Archived)
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
	p.showArchived(l.Archived)
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
	Locked bool   `json:"locked,omitempty"`
	Stays  bool   `json:"stays,omitempty"`
}

type repairPacksLine struct {
	Type     string               `json:"message_type"`
	DryRun   bool                 `json:"dry_run"`
	Read     chunkstore.PackCount `json:"read"`
	Damaged  []damagedPackLine    `json:"damaged,omitempty"`
	Archived []string             `json:"archived_packs,omitempty"`
	Stored   int64                `json:"stored_bytes"`
	Lost     int                  `json:"lost_chunks"`
}

func (p *program) repairPacks(c *cli.Context) error {
	for _, id := range c.Args().Slice() {
		if len(id) < shortPackID {
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
	line := repairPacksLine{Type: "summary", DryRun: c.Bool("dry-run"), Read: found.Read, Stored: found.Stored, Archived: found.Archived}
	for _, d := range found.Damaged {
		line.Damaged = append(line.Damaged, damagedPackLine{d.Name, d.Err.Error(), d.Saved, d.Copied, d.Lost, d.Bytes, d.Locked, d.Stays})
		line.Lost += d.Lost
	}
	p.exitFor(line.Lost > 0, line.Archived)
	return p.result(c, line, func() { p.showRepairPacks(line) })
}

// exitFor sets the exit code of a repair that found damage which stays, or could not look at everything.
func (p *program) exitFor(damage bool, archived []string) {
	switch {
	case damage:
		p.exit = exitDamage
	case len(archived) > 0:
		p.exit = exitFailed
	}
}

// showArchived names the packs that could not be read before they are thawed, and says how that is done.
func (p *program) showArchived(names []string) {
	if len(names) == 0 {
		return
	}
	command := "hakobune thaw --pack all"
	if len(names) <= 8 {
		command = "hakobune thaw"
		for _, name := range names {
			command += " --pack " + path.Base(name)[:12]
		}
	}
	for _, name := range names {
		fmt.Fprintf(p.out, "ARCHIVED: pack %s was not read\n", name)
	}
	fmt.Fprintf(p.out, "%d packs are archived: bring them back with %s, then run this again\n", len(names), command)
}

func (p *program) showRepairPacks(l repairPacksLine) {
	locked, stay := 0, 0
	say := func(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
	for _, d := range l.Damaged {
		lost := "nothing is lost"
		if d.Lost > 0 {
			lost = fmt.Sprintf("%d chunks, %s, are lost", d.Lost, size(d.Bytes))
		}
		say("DAMAGED: %s: %s", d.Name, d.Error)
		if d.Stays {
			stay++
			say("  it is a put-only host's, and stays as it is: restore what its snapshots still have")
			continue
		}
		say("  %d chunks can be read, %d have a copy elsewhere; %s", d.Saved, d.Copied, lost)
		if d.Locked {
			locked++
			say("  it is locked, and stays where it is for now")
		}
	}
	p.showArchived(l.Archived)
	say("read %s; %d damaged", packs(l.Read), len(l.Damaged))
	switch {
	case l.DryRun || stay == len(l.Damaged) && stay > 0:
		say("nothing was changed")
	case locked+stay == len(l.Damaged) && locked > 0:
		say("stored %s anew; nothing counts any more that is in the damaged packs", size(l.Stored))
	case len(l.Damaged) > 0:
		say("stored %s anew; the damaged packs lie under d/ now", size(l.Stored))
	}
	if l.Lost > 0 {
		say("back up the systems again: what they still have makes old snapshots whole")
	}
}

type repairedLine struct {
	Type      string             `json:"message_type"`
	ID        string             `json:"id"`
	System    string             `json:"system"`
	Time      time.Time          `json:"time"`
	Lost      []snapshot.Problem `json:"lost"`
	New       string             `json:"new,omitempty"`
	Already   bool               `json:"already,omitempty"`
	Forgotten bool               `json:"forgotten,omitempty"`
	Error     string             `json:"error,omitempty"`
}

type repairSnapshotsLine struct {
	Type   string `json:"message_type"`
	DryRun bool   `json:"dry_run"`
	Whole  int    `json:"whole"`
	Broken int    `json:"broken"`
	Made   int    `json:"made"`
	Failed int    `json:"failed"`
}

func (p *program) repairSnapshots(c *cli.Context) error {
	repo, cat, err := p.openCatalog(c)
	if err == nil {
		err = p.readWhole(c, repo, cat)
	}
	if err != nil {
		return err
	}
	p.tellDamage(cat)
	list := filter(c).Apply(cat.Snapshots)
	if c.NArg() > 0 {
		if list, err = selected(cat, c.Args().Slice(), filter(c)); err != nil {
			return err
		}
	}
	o := exporter.RepairOptions{Host: hostName(), Program: "hakobune " + version(), DryRun: c.Bool("dry-run")}
	r, err := exporter.NewRepairer(c.Context, repo, cat, o)
	if err != nil {
		return err
	}
	sum := repairSnapshotsLine{Type: "summary", DryRun: o.DryRun, Failed: len(cat.Damaged)}
	for _, s := range list {
		line, err := p.repairOne(c, r, cat, s)
		if err != nil {
			return err
		}
		switch {
		case line.Error != "":
			sum.Failed++
		case len(line.Lost) == 0:
			sum.Whole++
			continue
		default:
			sum.Broken++
			if line.New != "" && !line.Already {
				sum.Made++
			}
		}
		p.exit = exitDamage
		_ = p.result(c, line, func() { p.showRepaired(line) })
	}
	return p.result(c, sum, func() {
		fmt.Fprintf(p.out, "%d snapshots are whole, %d are broken, %d were made anew, %d cannot be read at all\n", sum.Whole, sum.Broken, sum.Made, sum.Failed)
		if sum.DryRun {
			fmt.Fprintln(p.out, "nothing was changed")
		}
	})
}

// selected finds the snapshots that selectors name, each once.
func selected(cat *snapshot.Catalog, selectors []string, f snapshot.Filter) ([]snapshot.Summary, error) {
	var list []snapshot.Summary
	for _, selector := range selectors {
		sel, err := snapshot.Select(cat.Snapshots, selector, f, time.Local)
		if err != nil {
			return nil, withHint(err, "hakobune snapshots lists what there is")
		}
		if sel.Part != "" {
			return nil, usage("%q is a part of a snapshot: give whole ones", selector)
		}
		if !slices.ContainsFunc(list, func(s snapshot.Summary) bool { return s.ID == sel.Summary.ID }) {
			list = append(list, sel.Summary)
		}
	}
	return list, nil
}

// repairOne repairs one snapshot; that its description is lost keeps nothing from the others.
func (p *program) repairOne(c *cli.Context, r *exporter.Repairer, cat *snapshot.Catalog, s snapshot.Summary) (repairedLine, error) {
	line := repairedLine{Type: "repaired", ID: s.ID, System: s.System, Time: s.Time, Lost: []snapshot.Problem{}}
	found, err := r.Repair(c.Context, s)
	switch {
	case err != nil && exitCode(err, false) == exitDamage:
		line.Error = err.Error()
		return line, nil
	case err != nil:
		return line, err
	case len(found.Lost) > 0:
		line.Lost, line.Already = found.Lost, found.Already
	}
	if found.New == nil {
		return line, nil
	}
	line.New = found.New.ID
	if line.Forgotten = c.Bool("forget") && !c.Bool("dry-run"); line.Forgotten {
		err = cat.Forget(c.Context, hostName(), []snapshot.Summary{s})
	}
	return line, err
}

func (p *program) showRepaired(l repairedLine) {
	say := func(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
	say("%s  %s of %s", l.ID[:8], l.System, localTime(l.Time))
	for _, lost := range l.Lost {
		say("  LOST: %s: %s", lost.Where, lost.What)
	}
	switch {
	case l.Error != "":
		say("  DAMAGED: %s", l.Error)
	case l.Already:
		say("  was made anew before, as %s", l.New[:8])
	case l.New != "":
		say("  made anew, as %s", l.New[:8])
	}
	if l.Forgotten {
		say("  forgotten")
	}
}
