package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) snapshotsCommand() *cli.Command {
	return &cli.Command{
		Name:      "snapshots",
		Usage:     "list the snapshots, or tell what one of them holds",
		ArgsUsage: "[SNAPSHOT]",
		Description: `Lists the snapshots in the repository, oldest first. With --details, tells of each (or of the one
named) what it holds, how it was read, and what is missing in it. STRAY is one that a site stored after it
had lost the system to another: it is kept, and only found by its id.

` + selectorHelp,
		Flags:  append(filterFlags(), &cli.BoolFlag{Name: "details", Usage: "tell what each snapshot holds"}),
		Action: p.snapshots,
	}
}

type snapshotLine struct {
	Type string `json:"message_type"`
	snapshot.Summary
	Stray bool `json:"stray,omitempty"`
}

func (p *program) snapshots(c *cli.Context) error {
	if c.NArg() > 1 {
		return usage("snapshots takes one snapshot at most, got %d", c.NArg())
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	p.tellDamage(cat)
	if selector := c.Args().First(); selector != "" {
		snap, err := p.chooseWhole(c, repo, selector)
		if err != nil {
			return err
		}
		return p.details(c, snap)
	}
	if c.Bool("details") {
		return p.eachSnapshot(c.Context, cat, filter(c), func(s *snapshot.Snapshot) error { return p.details(c, s) })
	}
	list := filter(c).Apply(cat.Snapshots)
	slices.Reverse(list) // the newest last, next to the prompt
	if isSet(c, "json") {
		for _, s := range list {
			writeJSON(p.out, snapshotLine{"snapshot", s, s.Stray})
		}
		return nil
	}
	t := newTable("ID", "Time", "System", "Host", "Size", "Added", "Still", "Tags", "")
	for _, s := range list {
		state := ""
		if !s.Complete {
			state = fmt.Sprintf("INCOMPLETE (%d)", s.Stats.Problems)
		}
		if s.Stray {
			state = strings.TrimPrefix(state+", STRAY", ", ")
		}
		t.row(s.ID[:8], localTime(s.Time), s.System, s.Host, size(s.Stats.Bytes), size(s.Stats.Stored),
			span(s.Stats.Paused), strings.Join(s.Tags, ","), state)
	}
	t.write(p.out)
	p.note(c, "%d snapshots", len(list))
	return nil
}

type detailsLine struct {
	Type string `json:"message_type"`
	snapshot.Summary
	Body *snapshot.System `json:"body"`
}

func (p *program) details(c *cli.Context, s *snapshot.Snapshot) error {
	return p.result(c, detailsLine{"snapshot_details", s.Summary, &s.System}, func() {
		fmt.Fprintf(p.out, "snapshot %s of %s, %s on %s\n", s.ID, s.System.Name, localTime(s.Time), s.Host)
		if o := s.Origin; o != nil {
			fmt.Fprintf(p.out, "  copy of     %s in repository %s, stored there %s\n", o.Snapshot[:min(8, len(o.Snapshot))], o.Repository[:min(8, len(o.Repository))], localTime(o.Stored))
		}
		if s.Pushed != nil {
			p.pushedDetails(s)
			return
		}
		fmt.Fprintf(p.out, "  engine      Docker %s, %s, %s/%s\n", s.Engine.Version, s.Engine.StorageDriver, s.Engine.OS, s.Engine.Arch)
		fmt.Fprintf(p.out, "  quiesced    %s, stood still for %s\n", s.System.Quiesce.Mode, span(s.System.Quiesce.Paused))
		p.images(s)
		for _, ct := range s.System.Containers {
			fmt.Fprintf(p.out, "  container   %s  %s, changes %s%s\n", ct.Name, ct.State, contents(ct.Changes), way(ct))
		}
		for _, v := range s.System.Volumes {
			fmt.Fprintf(p.out, "  volume      %s  %s\n", v.Name, contents(v.Content))
		}
		for _, b := range s.System.Binds {
			text := contents(b.Content)
			if b.Special != "" {
				text = "not read: " + b.Special
			}
			fmt.Fprintf(p.out, "  bind        %s  %s\n", b.Source, text)
		}
		for _, n := range s.System.Networks {
			fmt.Fprintf(p.out, "  network     %s  %s\n", n.Name, n.Driver)
		}
		p.problems("missing", s.System.Problems)
		p.problems("note", s.System.Notes)
	})
}

// pushedDetails shows what a snapshot of a pushed image has in the place of a system.
func (p *program) pushedDetails(s *snapshot.Snapshot) {
	fmt.Fprintf(p.out, "  pushed as   %s, %s\n  holds       %d manifests, %d blobs\n", s.Pushed.Name, s.Pushed.Digest, len(s.System.Manifests), len(s.System.Blobs))
	p.images(s)
	p.problems("missing", s.System.Problems)
	p.problems("note", s.System.Notes)
}

func (p *program) images(s *snapshot.Snapshot) {
	for _, i := range s.System.Images {
		fmt.Fprintf(p.out, "  image       %s  %d layers, %s\n", firstName(i), len(i.Layers), size(i.Size))
	}
}

func (p *program) problems(word string, list []snapshot.Problem) {
	for _, x := range list {
		fmt.Fprintf(p.out, "  %-10s  %s: %s\n", word, x.Where, x.What)
	}
}

func firstName(i snapshot.Image) string {
	if len(i.Tags) > 0 {
		return i.Tags[0]
	}
	return i.Config
}

func contents(a *snapshot.Archive) string {
	if a == nil {
		return "not read"
	}
	return fmt.Sprintf("%d entries, %s", a.Entries, size(a.Bytes))
}

func way(c snapshot.Container) string {
	if c.ChangesWay == "" {
		return ""
	}
	text := " by " + c.ChangesWay
	if len(c.WayLacks) > 0 {
		text += " (cannot carry " + strings.Join(slices.Sorted(slices.Values(c.WayLacks)), ", ") + ")"
	}
	return text
}
