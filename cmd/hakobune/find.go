package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) findCommand() *cli.Command {
	return &cli.Command{
		Name:      "find",
		Usage:     "find files by name in all snapshots",
		ArgsUsage: "PATTERN...",
		Description: `Shows in which snapshots there is a file of that name, in containers' changes, volumes and bind
mounts; what only an image holds is not searched. A pattern knows * ? [a-z] and \; put it in quotes,
or the shell expands it. With a slash in it, it means the whole path inside the container, volume or
bind mount.

   hakobune find shop.sql
   hakobune find --system shop '*.conf' '*.env'
   hakobune find --newest -i '*secret*'
   hakobune find '/dumps/shop-2026-11-*.sql'
   hakobune find '[-]n'                   a name that begins with a dash

What is found is shown as PART/PATH, under its snapshot: take it out with

   hakobune dump SNAPSHOT:PART/PATH`,
		Flags: append(filterFlags(),
			&cli.BoolFlag{Name: "ignore-case", Aliases: []string{"i"}, Usage: "take upper and lower case for the same"},
			&cli.BoolFlag{Name: "newest", Usage: "search only the newest snapshot of each system"}),
		Action: p.find,
	}
}

func (p *program) find(c *cli.Context) error {
	patterns, err := patternsOf(c)
	if err != nil {
		return err
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	p.tellDamage(cat)
	list := filter(c).Apply(cat.Snapshots)
	if c.Bool("newest") {
		list = snapshot.NewestOfEach(list)
	}
	f := finder{program: p, c: c, searcher: archive.NewSearcher(repo, patterns...)}
	for _, s := range slices.Backward(list) { // the newest last, next to the prompt
		snap, err := cat.Load(c.Context, s)
		if err == nil {
			err = f.search(snap)
		}
		if err != nil {
			return err
		}
	}
	p.note(c, "%d found in %d of %d snapshots", f.entries, f.snapshots, len(list))
	return nil
}

func patternsOf(c *cli.Context) ([]archive.Pattern, error) {
	if c.NArg() == 0 {
		return nil, usage("find what?").hint("hakobune find --help")
	}
	var patterns []archive.Pattern
	for _, text := range c.Args().Slice() {
		pattern, err := archive.ParsePattern(text, c.Bool("ignore-case"))
		if err != nil {
			return nil, usage("%v", err).hint(`a pattern knows * ? [a-z], and \ before one of these that is meant as it stands`)
		}
		patterns = append(patterns, pattern)
	}
	return patterns, nil
}

// finder prints what is found.
type finder struct {
	*program
	c         *cli.Context
	searcher  *archive.Searcher
	entries   int
	snapshots int // in which something was found
}

func (f *finder) search(s *snapshot.Snapshot) error {
	before := f.entries
	for _, x := range parts(&s.System) {
		if x.tree == nil {
			continue
		}
		for e, err := range f.searcher.Search(f.c.Context, x.tree.Records) {
			if err != nil {
				return fmt.Errorf("snapshot %s: %s %s: %w", s.ID[:8], x.kind, x.name, err)
			}
			if f.entries == before {
				f.heading(s)
			}
			f.entries++
			f.found(s, x, e)
		}
	}
	return nil
}

func (f *finder) heading(s *snapshot.Snapshot) {
	if f.snapshots++; isSet(f.c, "json") {
		return
	}
	if f.snapshots > 1 {
		fmt.Fprintln(f.out)
	}
	fmt.Fprintf(f.out, "snapshot %s of %s, %s on %s\n", s.ID[:8], s.System.Name, localTime(s.Time), s.Host)
}

type matchLine struct {
	Type     string    `json:"message_type"`
	Snapshot string    `json:"snapshot"`
	System   string    `json:"system"`
	Time     time.Time `json:"time"`
	Part     string    `json:"part"`
	PartKind string    `json:"kind"`
	entryFields
}

func (f *finder) found(s *snapshot.Snapshot, x part, e archive.Entry) {
	if isSet(f.c, "json") {
		writeJSON(f.out, matchLine{"match", s.ID, s.System.Name, s.Time, x.name, x.kind, newEntryFields(e)})
		return
	}
	fmt.Fprintln(f.out, entryText(e, x.name+"/"+e.Path))
}
