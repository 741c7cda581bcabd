package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) diffCommand() *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "tell what changed between two snapshots",
		ArgsUsage: "SNAPSHOT[:PART[/PATH]] SNAPSHOT[:PART[/PATH]]",
		Description: `Compares images and their layers, the configuration of containers field by field, volumes, bind
mounts and networks, and all files: from the first snapshot to the second, which may be two nights of
one system or any two. With a part (or a part and a path) of each, only the files there.

   hakobune diff shop@2026-11-19 shop
   hakobune diff 1f0c9a52 7e55b0d1
   hakobune diff shop@2026-11-01:shop_db shop:shop_db
   hakobune diff shop@2026-11-19:web/etc shop:web/etc

Each line begins with a letter:

   +  it came
   -  it went
   M  content is another
   U  only owner, mode, time or attributes are others
   T  it is another type of file

Ids, process numbers, times and addresses of containers, which always change, are passed over, and so
are the times of directories.

` + selectorHelp,
		Flags:  filterFlags(),
		Action: p.diff,
	}
}

func (p *program) diff(c *cli.Context) error {
	if c.NArg() != 2 {
		return usage("diff wants two snapshots, got %d", c.NArg()).hint("hakobune diff shop@2026-11-19 shop; hakobune diff --help tells more")
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	a, selA, err := p.pick(c, cat, c.Args().Get(0))
	if err != nil {
		return err
	}
	b, selB, err := p.pick(c, cat, c.Args().Get(1))
	if err != nil {
		return err
	}
	d := comparison{program: p, c: c, repo: repo, a: a, b: b, sum: diffSummary{Type: "summary", A: a.ID, B: b.ID, NotCompared: []string{}}}
	if (selA.Part == "") != (selB.Part == "") {
		return usage("diff wants two whole snapshots, or a part of each").hint("hakobune ls %s lists the parts", a.ID[:8])
	}
	if selA.Part != "" {
		return d.part(selA, selB)
	}
	return d.whole()
}

// comparison prints what differs between two snapshots.
type comparison struct {
	*program
	c    *cli.Context
	repo *chunkstore.Repository
	a, b *snapshot.Snapshot
	sum  diffSummary
}

type diffSummary struct {
	Type    string `json:"message_type"`
	A       string `json:"a"`
	B       string `json:"b"`
	Objects int    `json:"objects"` // images, containers, volumes, bind mounts, networks
	archive.DiffStats
	NotCompared []string `json:"not_compared"` // parts that one of the snapshots did not read
}

// part compares a part of one snapshot with a part of the other.
func (d *comparison) part(selA, selB snapshot.Selection) error {
	a, pathA, err := findPart(&d.a.System, selA)
	if err != nil {
		return err
	}
	b, pathB, err := findPart(&d.b.System, selB)
	if err != nil {
		return err
	}
	d.heading(":"+place(a.name, pathA), ":"+place(b.name, pathB))
	if err := d.files(a, b, pathA, pathB); err != nil {
		return err
	}
	return d.summary()
}

// place joins the name of a part and a path in it, which may be empty.
func place(part, path string) string { return strings.TrimSuffix(part+"/"+path, "/") }

// whole compares all that the snapshots hold.
func (d *comparison) whole() error {
	d.heading("", "")
	for _, x := range snapshot.Diff(&d.a.System, &d.b.System) {
		d.sum.Objects++
		d.object(x)
	}
	for _, pair := range snapshot.PairTrees(&d.a.System, &d.b.System) {
		if err := d.pair(pair); err != nil {
			return err
		}
	}
	return d.summary()
}

func (d *comparison) heading(partA, partB string) {
	if isSet(d.c, "json") {
		return
	}
	for _, side := range []struct {
		word string
		s    *snapshot.Snapshot
		part string
	}{{"from", d.a, partA}, {"to  ", d.b, partB}} {
		fmt.Fprintf(d.out, "%s %s%s of %s, %s on %s\n", side.word, side.s.ID[:8], printable(side.part), side.s.System.Name, localTime(side.s.Time), side.s.Host)
	}
}

type objectLine struct {
	Type string `json:"message_type"`
	snapshot.ObjectDiff
}

// object prints an object that is not as it was.
func (d *comparison) object(x snapshot.ObjectDiff) {
	if isSet(d.c, "json") {
		writeJSON(d.out, objectLine{"object", x})
		return
	}
	letter := map[string]string{snapshot.ObjectAdded: "+", snapshot.ObjectRemoved: "-", snapshot.ObjectChanged: "M"}[x.Change]
	fmt.Fprintf(d.out, "%s  %s %s\n", letter, x.Kind, printable(x.Name))
	for _, l := range x.LayersRemoved {
		fmt.Fprintf(d.out, "     - layer %s  %s\n", l.DiffID, size(l.Size))
	}
	for _, l := range x.LayersAdded {
		fmt.Fprintf(d.out, "     + layer %s  %s\n", l.DiffID, size(l.Size))
	}
	for _, f := range x.Fields {
		fmt.Fprintf(d.out, "     %s\n", fieldText(f))
	}
}

// fieldText shows a field as "name: old -> new", or what only one side has after a sign.
func fieldText(f snapshot.FieldDiff) string {
	name, before, after := readable(f.Field), readable(f.Old), readable(f.New)
	switch {
	case before == "":
		return fmt.Sprintf("+ %s: %s", name, after)
	case after == "":
		return fmt.Sprintf("- %s: %s", name, before)
	}
	return fmt.Sprintf("M %s: %s -> %s", name, before, after)
}

// pair compares the trees of one part.
func (d *comparison) pair(x snapshot.TreePair) error {
	a, b := part{name: x.Name, kind: x.Kind, tree: x.A}, part{name: x.Name, kind: x.Kind, tree: x.B}
	switch {
	case x.A == nil && x.B == nil:
		return nil
	case x.InA && x.A == nil:
		d.notCompared(x, d.a)
		return nil
	case x.InB && x.B == nil:
		d.notCompared(x, d.b)
		return nil
	case x.A == nil:
		return d.only(b, archive.Added)
	case x.B == nil:
		return d.only(a, archive.Removed)
	}
	return d.files(a, b, "", "")
}

// notCompared notes a part that the snapshot s has on record without its files.
func (d *comparison) notCompared(x snapshot.TreePair, s *snapshot.Snapshot) {
	d.sum.NotCompared = append(d.sum.NotCompared, fmt.Sprintf("%s %s: %s did not read it", x.Kind, x.Name, s.ID[:8]))
}

// files prints the files that differ from part a to part b, from the paths in them on.
func (d *comparison) files(a, b part, pathA, pathB string) error {
	before, after := archive.Subtree{Tree: a.tree.Records, Path: pathA}, archive.Subtree{Tree: b.tree.Records, Path: pathB}
	for diff, err := range archive.DiffTrees(d.c.Context, d.repo, before, after) {
		switch {
		case err != nil:
			return fmt.Errorf("compare %s %s: %w", b.kind, b.name, err)
		case diff.Change == archive.Removed:
			d.file(a, place(pathA, diff.Path), diff)
		default:
			d.file(b, place(pathB, diff.Path), diff)
		}
	}
	return nil
}

// only prints the files of a part that only one snapshot has.
func (d *comparison) only(x part, change archive.Change) error {
	for e, err := range archive.Records(d.c.Context, d.repo, x.tree.Records) {
		if err != nil {
			return fmt.Errorf("read %s %s: %w", x.kind, x.name, err)
		}
		diff := archive.Difference{Change: change, Path: e.Path, New: e}
		if change == archive.Removed {
			diff.Old, diff.New = e, archive.Entry{}
		}
		d.file(x, e.Path, diff)
	}
	return nil
}

type changeLine struct {
	Type     string       `json:"message_type"`
	Part     string       `json:"part"`
	PartKind string       `json:"kind"`
	Change   string       `json:"change"`
	Path     string       `json:"path"`
	Old      *entryFields `json:"old,omitempty"`
	New      *entryFields `json:"new,omitempty"`
}

func (d *comparison) file(x part, path string, diff archive.Difference) {
	d.sum.Count(diff)
	path = strings.TrimPrefix(path, "/")
	if !isSet(d.c, "json") {
		fmt.Fprintf(d.out, "%c  %s%s\n", diff.Change, printable(x.name+"/"+path), fileRemark(diff))
		return
	}
	line := changeLine{Type: "change", Part: x.name, PartKind: x.kind, Change: string(rune(diff.Change)), Path: printable(path)}
	if diff.Change != archive.Added {
		line.Old = fieldsAt(diff.Old, path)
	}
	if diff.Change != archive.Removed {
		line.New = fieldsAt(diff.New, path)
	}
	writeJSON(d.out, line)
}

func fieldsAt(e archive.Entry, path string) *entryFields {
	e.Path = path
	f := newEntryFields(e)
	return &f
}

// fileRemark tells of a difference what its letter does not say.
func fileRemark(d archive.Difference) string {
	switch {
	case d.Change == archive.TypeChanged:
		return fmt.Sprintf("  (%s -> %s)", d.Old.Type, d.New.Type)
	case d.Change == archive.Added && d.New.Type == archive.Whiteout:
		return "  (deleted from the image)"
	case d.Change == archive.Removed && d.Old.Type == archive.Whiteout:
		return "  (no longer deleted from the image)"
	case d.Change == archive.Modified && d.Old.Link != d.New.Link:
		return fmt.Sprintf("  (to %s -> %s)", printable(d.Old.Link), printable(d.New.Link))
	case d.Change == archive.Modified && d.Old.Size != d.New.Size:
		return fmt.Sprintf("  (%s -> %s)", size(d.Old.Size), size(d.New.Size))
	}
	return ""
}

func (d *comparison) summary() error {
	return d.result(d.c, d.sum, func() {
		for _, text := range d.sum.NotCompared {
			fmt.Fprintf(d.out, "not compared: %s\n", text)
		}
		s := d.sum
		fmt.Fprintf(d.out, "\n%d objects changed; files: %d added (%s), %d removed (%s), %d modified (%s), %d updated, %d of another type\n",
			s.Objects, s.Added, size(s.AddedBytes), s.Removed, size(s.RemovedBytes), s.Modified, size(s.ModifiedBytes), s.Updated, s.TypeChanged)
	})
}
