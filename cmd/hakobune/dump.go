package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) dumpCommand() *cli.Command {
	return &cli.Command{
		Name:      "dump",
		Usage:     "write a file, or a directory as tar or zip, to standard output",
		ArgsUsage: "SNAPSHOT:PART[/PATH]",
		Description: `   hakobune dump shop:web/etc/hosts
   hakobune dump shop:shop_db > shop_db.tar
   hakobune dump shop:shop_db/dumps | tar -x -C /tmp
   hakobune dump --target hosts shop:web/etc/hosts
   hakobune dump --archive zip --target dumps.zip shop:shop_db/dumps

A tar keeps owners, attributes, links and devices; a zip is for systems that have nothing for a tar.
What an archive cannot hold is told on standard error.

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.StringFlag{Name: "target", Aliases: []string{"t"}, Usage: "write to `FILE`, which has its name only once it is complete"},
			&cli.StringFlag{Name: "archive", Aliases: []string{"a"}, Value: "tar", Usage: "write a directory as `FORMAT`: tar or zip"}),
		Action: p.dump,
	}
}

func (p *program) dump(c *cli.Context) error {
	selector, err := one(c, "SNAPSHOT:PART/PATH")
	if err != nil {
		return err
	}
	if format := c.String("archive"); format != "tar" && format != "zip" {
		return usage("--archive %q is not a format", format).hint("tar or zip")
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	snap, sel, err := p.choose(c, repo, selector)
	if err != nil {
		return err
	}
	if sel.Part == "" {
		return usage("dump wants a part of a snapshot").hint("hakobune ls %s lists the parts", selector)
	}
	x, inside, err := findPart(&snap.System, sel)
	if err != nil {
		return err
	}
	if inside == "" && x.single {
		inside = path.Base(x.name)
	}
	d := dumper{program: p, c: c, repo: repo, part: x, path: inside, selector: selector}
	if target := c.String("target"); target != "" {
		if err := importer.WriteFile(target, func(w io.Writer) error { return d.write(c.Context, w) }); err != nil {
			return fmt.Errorf("dump to %s: %w", target, err)
		}
		return nil
	}
	return d.write(c.Context, p.out)
}

// dumper writes what lies at a path of a part.
type dumper struct {
	*program
	c        *cli.Context
	repo     *chunkstore.Repository
	part     part
	path     string
	selector string
}

func (d *dumper) write(ctx context.Context, w io.Writer) error {
	entry, content, err := archive.Find(ctx, d.repo, d.part.tree.Records, d.path)
	if err != nil {
		return err
	}
	if entry.Type == archive.File {
		_, err := io.Copy(w, content)
		return errors.Join(err, content.Close())
	}
	if err := content.Close(); err != nil {
		return err
	}
	if entry.Type != archive.Dir {
		return fmt.Errorf("%s: %s is neither a file nor a directory", d.part.name, d.path)
	}
	if w == d.out && term.IsTerminal(int(d.out.Fd())) {
		return usage("an archive is nothing for a terminal").hint("redirect it: hakobune dump %s > FILE.%s, or give --target FILE", d.selector, d.c.String("archive"))
	}
	lost, err := d.archive(ctx, w)
	for _, l := range lost {
		d.note(d.c, "not in the %s: %s: %s", d.c.String("archive"), printable(l.Path), l.Why)
	}
	return err
}

func (d *dumper) archive(ctx context.Context, w io.Writer) ([]archive.Lost, error) {
	if d.c.String("archive") == "zip" {
		return archive.WriteZip(ctx, d.repo, d.part.tree.Records, d.path, w)
	}
	tree, err := archive.OpenSubtree(ctx, d.repo, d.part.tree.Records, d.path)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	return archive.WriteTar(ctx, tree, w, archive.TarOptions{})
}
