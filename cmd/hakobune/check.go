package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "verify the repository: everything a restore would need is there and whole",
		Description: `Reads all metadata from the store, not from the cache, and follows every snapshot down to the packs
that it needs. With --read-data it reads every byte of them too. It reports every fault with the systems
and snapshots that it touches, repairs nothing, and exits with 4 if there is one. What the store just did not
give is no fault: it is told as unread, and the exit code is 1 if there are no faults beside.

   hakobune check
   hakobune check --read-data
   hakobune check --read-data-subset 2/7      the second of seven parts: one each night of a week
   hakobune check --immutable                 do the locks hold?

With --immutable, of a repository made with --object-lock: is all that snapshots need locked for as long as it
should be? And can this host's keys of the store delete or replace what is locked? It tries, on an object of no
meaning, which stays for some minutes.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "immutable", Usage: "verify that what is locked can be neither deleted nor replaced"},
			&cli.BoolFlag{Name: "read-data", Usage: "read and verify every byte"},
			&cli.StringFlag{Name: "read-data-subset", Usage: "read and verify a part: `5%`, 2/7 or 2G"},
		},
		Action: p.check,
	}
}

type faultLine struct {
	Type      string   `json:"message_type"`
	Object    string   `json:"object,omitempty"`
	Error     string   `json:"error"`
	Unread    bool     `json:"unread,omitempty"` // no fault: the store did not give it for now
	Systems   []string `json:"systems,omitempty"`
	Snapshots []string `json:"snapshots,omitempty"`
}

type checkLine struct {
	Type      string `json:"message_type"`
	Faults    int    `json:"faults"`
	Unread    int    `json:"unread"` // what the store did not give for now, beside the faults
	Snapshots int    `json:"snapshots"`
	Packs     int    `json:"packs"`
	Unindexed int    `json:"unindexed_packs"`
	Chunks    int    `json:"chunks"`
	Bytes     int64  `json:"bytes"`
	ReadPacks int    `json:"read_packs"`
	ReadBytes int64  `json:"read_bytes"`
	Locks     int    `json:"locks,omitempty"`
	Archived  int    `json:"archived_packs,omitempty"`
}

func (p *program) check(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	opts := chunkstore.CheckOptions{Immutable: c.Bool("immutable")}
	if c.Bool("read-data") {
		opts.Data = chunkstore.Everything
	}
	if s := c.String("read-data-subset"); s != "" {
		var err error
		if opts.Data, err = chunkstore.ParseSubset(s); err != nil {
			return usage("--read-data-subset: %v", err)
		}
	}
	repo, err := p.openWith(c, chunkstore.Options{Logger: p.logger(c)}) // without cache
	if err != nil {
		return err
	}
	pr := p.newProgress(c)
	opts.Walk = importer.Refs(repo)
	opts.Progress = func(done, total int64) {
		snapshot.Observer(pr.show).Notify(snapshot.Event{Phase: "read", Done: done, Total: total})
	}
	report, err := repo.Check(c.Context, opts)
	pr.stop()
	if opts.Immutable && errors.Is(err, chunkstore.ErrUnsupported) {
		return withHint(err, "a repository is locked from the first: hakobune init --object-lock compliance; copy the snapshots to it")
	}
	if err != nil {
		return err
	}
	var unread error
	faults := 0
	for _, f := range report.Faults {
		line := faultOf(f)
		if line.Unread {
			unread = f.Err
		} else {
			faults++
			p.exit = exitDamage
		}
		p.showFault(c, line)
	}
	line := checkLine{
		"summary", faults, len(report.Faults) - faults, report.Snapshots, report.Packs, report.Unindexed, report.Chunks, report.Bytes,
		report.ReadPacks, report.ReadBytes, report.Locks, report.Archived,
	}
	if err := p.result(c, line, func() { p.showCheck(line) }); err != nil || unread == nil || faults > 0 {
		return err
	}
	return fmt.Errorf("%d times the store did not give what was to be verified: %w", line.Unread, unread)
}

func faultOf(f chunkstore.Fault) faultLine {
	line := faultLine{Type: "error", Object: f.Object, Error: f.Err.Error(), Unread: chunkstore.IsPassing(f.Err)}
	seen := map[string]bool{}
	for _, o := range f.Snapshots {
		line.Snapshots = append(line.Snapshots, o.Session.Random())
		if s, err := snapshot.ParseSummary(o); err == nil && !seen[s.System] {
			seen[s.System] = true
			line.Systems = append(line.Systems, s.System)
		}
	}
	return line
}

func (p *program) showFault(c *cli.Context, f faultLine) {
	if isSet(c, "json") {
		writeJSON(p.out, f)
		return
	}
	object := f.Object
	if object == "" {
		object = "snapshot"
	}
	word := "fault"
	if f.Unread {
		word = "unread"
	}
	fmt.Fprintf(p.out, "%s: %s: %s\n", word, object, f.Error)
	if len(f.Snapshots) > 0 {
		var ids []string
		for _, id := range f.Snapshots {
			ids = append(ids, id[:8])
		}
		fmt.Fprintf(p.out, "  touches %s: snapshots %s\n", strings.Join(f.Systems, ", "), strings.Join(ids, " "))
	}
}

func (p *program) showCheck(l checkLine) {
	fmt.Fprintf(p.out, "%d snapshots, %d packs with %s, %d chunks", l.Snapshots, l.Packs, size(l.Bytes), l.Chunks)
	if l.ReadPacks > 0 {
		fmt.Fprintf(p.out, "; read %d packs, %s", l.ReadPacks, size(l.ReadBytes))
	}
	if l.Archived > 0 {
		fmt.Fprintf(p.out, "; %d packs are archived and were NOT read (hakobune thaw)", l.Archived)
	}
	if l.Locks > 0 {
		fmt.Fprintf(p.out, "; looked at %d locks", l.Locks)
	}
	fmt.Fprintln(p.out)
	if l.Unindexed > 0 {
		fmt.Fprintf(p.out, "%d packs belong to no finished session: one that runs, or that was killed; they do no harm\n", l.Unindexed)
	}
	switch {
	case l.Unread > 0 && l.Faults == 0:
		fmt.Fprintf(p.out, "no faults in what could be read; %d things could NOT be read for now\n", l.Unread)
		return
	case l.Unread > 0:
		fmt.Fprintf(p.out, "%d things could not be read for now\n", l.Unread)
	case l.Faults == 0:
		fmt.Fprintln(p.out, "no faults")
		return
	}
	fmt.Fprintf(p.out, "%d FAULTS; nothing was changed\n", l.Faults)
}
