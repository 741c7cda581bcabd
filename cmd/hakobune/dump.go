package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

func (p *program) dumpCommand() *cli.Command {
	return &cli.Command{
		Name:      "dump",
		Usage:     "write a file, or a directory as tar, to standard output",
		ArgsUsage: "SNAPSHOT:PART[/PATH]",
		Description: `   hakobune dump shop:web/etc/hosts
   hakobune dump shop:shop_db > shop_db.tar
   hakobune dump shop:shop_db/dumps | tar -x -C /tmp

` + selectorHelp,
		Flags:  filterFlags(),
		Action: p.dump,
	}
}

func (p *program) dump(c *cli.Context) error {
	selector, err := one(c, "SNAPSHOT:PART/PATH")
	if err != nil {
		return err
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
	part, path, err := findPart(&snap.System, sel)
	if err != nil {
		return err
	}
	entry, content, err := archive.Find(c.Context, repo, part.tree.Records, path)
	if err != nil {
		return err
	}
	if entry.Type == archive.File {
		_, err := io.Copy(p.out, content)
		return errors.Join(err, content.Close())
	}
	if content != nil {
		content.Close()
	}
	if entry.Type != archive.Dir {
		return fmt.Errorf("%s: %s is neither a file nor a directory", part.name, path)
	}
	if term.IsTerminal(int(p.out.Fd())) {
		return usage("a tar is nothing for a terminal").hint("redirect it: hakobune dump %s > FILE.tar", selector)
	}
	tree, err := archive.OpenSubtree(c.Context, repo, part.tree.Records, path)
	if err != nil {
		return err
	}
	defer tree.Close()
	lost, err := archive.WriteTar(c.Context, tree, p.out, archive.TarOptions{})
	for _, l := range lost {
		p.note(c, "not in the tar: %s: %s", printable(l.Path), l.Why)
	}
	return err
}
