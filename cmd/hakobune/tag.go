package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) tagCommand() *cli.Command {
	return &cli.Command{
		Name:      "tag",
		Usage:     "give snapshots other tags",
		ArgsUsage: "SNAPSHOT...",
		Description: `Tags serve to find snapshots (--tag), and to keep them (forget --keep-tag). A snapshot itself never changes:
what it is tagged with later is a record of its own, which everybody sees from then on. Where two hosts tag
one snapshot at once, the one that the store saw last has it.

   hakobune tag --add before-upgrade shop
   hakobune tag --remove before-upgrade --add kept 1f0c9a52 7be01d44
   hakobune tag --set "" 1f0c9a52                   none any more

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.StringSliceFlag{Name: "add", Usage: "add `TAG`; may be given several times"},
			&cli.StringSliceFlag{Name: "remove", Usage: "remove `TAG`; may be given several times"},
			&cli.StringSliceFlag{Name: "set", Usage: "these in the place of all tags: `TAG`; may be given several times, \"\" for none"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "change nothing, show the tags as they would be"},
		),
		Action: p.tag,
	}
}

type tagLine struct {
	Type    string   `json:"message_type"`
	ID      string   `json:"id"`
	System  string   `json:"system"`
	Before  []string `json:"before"`
	Tags    []string `json:"tags"`
	Changed bool     `json:"changed"`
	DryRun  bool     `json:"dry_run"`
}

// tagChange reads the flags.
func tagChange(c *cli.Context) (snapshot.TagChange, error) {
	change := snapshot.TagChange{Add: c.StringSlice("add"), Remove: c.StringSlice("remove")}
	if c.IsSet("set") {
		var tags []string
		for _, tag := range c.StringSlice("set") {
			if tag != "" {
				tags = append(tags, tag)
			}
		}
		change.Set = &tags
	}
	if change.Set == nil && len(change.Add)+len(change.Remove) == 0 {
		return change, usage("tag with what?").hint("hakobune tag --add TAG SNAPSHOT")
	}
	for _, tag := range change.Apply(change.Remove) {
		if err := snapshot.ValidTag(tag); err != nil {
			return change, usage("%v", err)
		}
	}
	return change, nil
}

func (p *program) tag(c *cli.Context) error {
	change, err := tagChange(c)
	if err != nil {
		return err
	}
	if c.NArg() == 0 {
		return usage("tag which snapshots?").hint("hakobune snapshots lists what there is")
	}
	_, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	list, err := selected(cat, c.Args().Slice(), filter(c))
	if err != nil {
		return err
	}
	for _, s := range list {
		line := tagLine{Type: "tagged", ID: s.ID, System: s.System, Before: some(s.Tags), DryRun: c.Bool("dry-run")}
		if line.DryRun {
			s.Tags = change.Apply(s.Tags)
		} else if s, err = cat.Tag(c.Context, hostName(), s, change); err != nil {
			return err
		}
		line.Tags = some(s.Tags)
		line.Changed = strings.Join(line.Before, ",") != strings.Join(line.Tags, ",")
		_ = p.result(c, line, func() { p.showTags(line) })
	}
	return nil
}

// some is a list that JSON shows as one, also when it is empty.
func some(tags []string) []string { return append([]string{}, tags...) }

func (p *program) showTags(l tagLine) {
	tags := strings.Join(l.Tags, ",")
	if tags == "" {
		tags = "no tags"
	}
	what := ""
	switch {
	case !l.Changed:
		what = " (as before)"
	case l.DryRun:
		what = " (would have)"
	}
	fmt.Fprintf(p.out, "%s  %s  %s%s\n", l.ID[:8], l.System, tags, what)
}
