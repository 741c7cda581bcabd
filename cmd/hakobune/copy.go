package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/transfer"
)

func (p *program) copyCommand() *cli.Command {
	return &cli.Command{
		Name:      "copy",
		Usage:     "copy snapshots from another repository, which has other keys",
		ArgsUsage: "[SNAPSHOT...]",
		Description: `Copies snapshots of the repository --from-repo into the repository (-r), which must exist (hakobune init):
those named, or all that the filters leave but strays. Each has keys of its own, so that whoever can open one cannot
open the other. Contents are read, verified, and encrypted anew; what the destination has is not stored
again, and what an earlier copy of the same system had is not read again.

A copy remembers where it comes from: copying again copies nothing, and lists and forget go by the time of
the original. A snapshot is at the destination whole or not at all; a run that was interrupted goes on.

   hakobune -r s3:https://s3.elsewhere.example/ark copy --from-repo s3:https://s3.example.com/ark
   hakobune -r /mnt/disk/ark copy --from-repo s3:https://s3.example.com/ark shop
   hakobune -r /mnt/disk/ark copy -n --from-repo s3:https://s3.example.com/ark     only show which

What opens the repository opens the other one too, unless one of the flags --from-... says otherwise, or
HAKOBUNE_FROM_PASSWORD_FILE, _PASSWORD, _PASSWORD_COMMAND or _KEY_FILE. For a second place with the same keys,
see hakobune sync.

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.StringFlag{Name: "from-repo", Usage: "copy from `REPO`, as after -r [HAKOBUNE_FROM_REPOSITORY]"},
			&cli.StringFlag{Name: "from-password-file", Usage: "its password is the first line of `FILE`"},
			&cli.StringFlag{Name: "from-password-command", Usage: "its password is the first line that `COMMAND` prints"},
			&cli.StringFlag{Name: "from-key-file", Usage: "open it with the key in `FILE`"},
			&cli.StringFlag{Name: "from-profile", Usage: "its S3 keys are those of the section `NAME` of AWS's shared files, not the environment's"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "only show what would be copied"},
		),
		Action: p.copy,
	}
}

type copyLine struct {
	Type string `json:"message_type"`
	snapshot.Summary
	Read int64 `json:"read"`
}

type copySummary struct {
	Type   string `json:"message_type"`
	DryRun bool   `json:"dry_run,omitempty"`
	Copied int    `json:"copied"`
	There  int    `json:"there"`
	Failed int    `json:"failed"`
	Read   int64  `json:"read"`
	Stored int64  `json:"stored"`
}

func (p *program) copy(c *cli.Context) error {
	copier, list, err := p.openCopier(c)
	if err != nil {
		return err
	}
	sum := copySummary{Type: "summary", DryRun: c.Bool("dry-run")}
	var errs []error
	for _, s := range list {
		if _, ok := copier.There(s); ok {
			sum.There++
			continue
		}
		if sum.DryRun {
			sum.Copied++
			p.showCopy(c, copyLine{Type: "would_copy", Summary: s})
			continue
		}
		pr := p.newProgress(c)
		copied, err := copier.Copy(c.Context, s, pr.show)
		pr.stop()
		if err != nil {
			sum.Failed++
			errs = append(errs, err)
			if c.Context.Err() != nil {
				break
			}
			continue // one that is damaged does not keep the others here
		}
		sum.Copied++
		sum.Read += copied.Read
		sum.Stored += copied.Stats.Stored
		p.showCopy(c, copyLine{"copied", copied.Summary, copied.Read})
	}
	if err := errors.Join(errs...); err != nil && sum.Copied == 0 {
		return err
	}
	return errors.Join(p.result(c, sum, func() { p.showCopies(sum) }), errors.Join(errs...))
}

func (p *program) showCopy(c *cli.Context, l copyLine) {
	_ = p.result(c, l, func() {
		if l.Type == "would_copy" {
			fmt.Fprintf(p.out, "would copy %s of %s, %s: %s\n", l.ID[:8], l.System, localTime(l.Time), size(l.Stats.Bytes))
			return
		}
		fmt.Fprintf(p.out, "copied %s of %s, %s, as %s: %s read, %s stored\n", l.Origin.Snapshot[:8], l.System, localTime(l.Time),
			l.ID[:8], size(l.Read), size(l.Stats.Stored))
	})
}

func (p *program) showCopies(s copySummary) {
	if s.DryRun {
		fmt.Fprintf(p.out, "%d snapshots to copy; %d were there already; nothing was changed\n", s.Copied, s.There)
		return
	}
	fmt.Fprintf(p.out, "copied %d snapshots, %s read, %s stored; %d were there already", s.Copied, size(s.Read), size(s.Stored), s.There)
	if s.Failed > 0 {
		fmt.Fprintf(p.out, "; %d FAILED", s.Failed)
	}
	fmt.Fprintln(p.out)
}

// openCopier opens both repositories, and finds the snapshots that the command line names, oldest first.
func (p *program) openCopier(c *cli.Context) (*transfer.Copier, []snapshot.Summary, error) {
	source, err := p.copySource(c)
	if err != nil {
		return nil, nil, err
	}
	to, err := p.open(c)
	if err != nil {
		return nil, nil, err
	}
	from, err := p.openOther(c, source, chunkstore.Open)
	if err != nil {
		return nil, nil, err
	}
	cat, err := p.catalog(c, from)
	if err != nil {
		return nil, nil, err
	}
	p.tellDamage(cat)
	list, err := selectAll(c, cat)
	if err != nil {
		return nil, nil, err
	}
	if c.NArg() == 0 { // nothing at the destination would tell that they are strays
		list = slices.DeleteFunc(list, func(s snapshot.Summary) bool { return s.Stray })
	}
	copier, err := p.newCopier(c, from, cat, to)
	return copier, transfer.OldestFirst(list), err
}

// newCopier returns a copier of this program's.
func (p *program) newCopier(c *cli.Context, from *chunkstore.Repository, cat *snapshot.Catalog, to *chunkstore.Repository) (*transfer.Copier, error) {
	copier, err := transfer.New(c.Context, from, cat, to, transfer.Options{
		Host: hostName(), Program: "hakobune " + version(),
	})
	if errors.Is(err, transfer.ErrSame) {
		err = withHint(err, "a place that holds the same repository is filled by: hakobune sync --to REPO")
	}
	return copier, err
}

// copySource returns what the flags and the environment say of the repository to copy from.
func (p *program) copySource(c *cli.Context) (other, error) {
	o := other{
		name: c.String("from-repo"), passwordFile: c.String("from-password-file"), passwordCommand: c.String("from-password-command"),
		keyFile: c.String("from-key-file"), profile: c.String("from-profile"), env: "FROM_", flags: "--from-",
	}
	if o.name == "" {
		var err error
		if o.name, err = p.env.own("FROM_REPOSITORY"); err != nil {
			return o, err
		}
	}
	if o.name == "" {
		return o, usage("copy from where?").hint("give --from-repo DIR or --from-repo s3:https://host/bucket/prefix; the destination is -r")
	}
	return o, nil
}

// selectAll returns the snapshots that the arguments name, or without any all that the filters leave.
func selectAll(c *cli.Context, cat *snapshot.Catalog) ([]snapshot.Summary, error) {
	if c.NArg() == 0 {
		return filter(c).Apply(cat.Snapshots), nil
	}
	var list []snapshot.Summary
	for _, selector := range c.Args().Slice() {
		sel, err := snapshot.Select(cat.Snapshots, selector, filter(c), time.Local)
		if err != nil {
			return nil, withHint(err, "hakobune -r REPO snapshots lists what the source has")
		}
		if sel.Part != "" {
			return nil, usage("%s takes whole snapshots, not a part (%q) of one", c.Command.FullName(), sel.Part)
		}
		list = append(list, sel.Summary)
	}
	return list, nil
}
