package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) exportCommand() *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write a container of a snapshot as an image: for docker load, as OCI layout, or to a registry",
		ArgsUsage: "SNAPSHOT CONTAINER",
		Description: `The container's changes become the last layer of its image. Needs no Docker.

   hakobune export shop web | docker load
   hakobune export -o web.tar shop web
   hakobune export --layout /srv/web-layout shop web
   hakobune export --push registry.example.com/shop/web:recovered shop web

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write a docker load archive to `FILE` instead of standard output"},
			&cli.StringFlag{Name: "layout", Usage: "write an OCI image layout to the new directory `DIR`"},
			&cli.StringFlag{Name: "push", Usage: "push to a registry as `REFERENCE`, with the credentials of docker login"},
			&cli.BoolFlag{Name: "insecure", Usage: "speak plain HTTP to the registry"},
			&cli.BoolFlag{Name: "compress", Usage: "compress layers for the registry"},
			&cli.BoolFlag{Name: "base", Usage: "the image as it was, without the container's changes"},
			&cli.StringSliceFlag{Name: "ref", Usage: "name the image `REFERENCE`; by default as a restore would"},
		),
		Action: p.export,
	}
}

func (p *program) export(c *cli.Context) error {
	if c.NArg() != 2 {
		return usage("export wants a snapshot and a container").hint("hakobune snapshots --details SNAPSHOT lists the containers")
	}
	sink, err := p.sink(c)
	if err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	snap, err := p.chooseWhole(c, repo, c.Args().Get(0))
	if err != nil {
		return err
	}
	pr := p.newProgress(c)
	done, err := importer.ExportImage(c.Context, repo, snap, c.Args().Get(1), sink, importer.ExportOptions{
		Base: c.Bool("base"), Refs: c.StringSlice("ref"), Observer: pr.show,
	})
	pr.stop()
	if err != nil {
		return err
	}
	for _, n := range done.Notes {
		p.note(c, "note: %s: %s", n.Where, n.What)
	}
	if done.Location == "" { // standard output carries the image
		p.note(c, "wrote %s: %d layers, %s", strings.Join(done.Refs, ", "), done.Layers, size(done.Bytes))
		return nil
	}
	return p.result(c, exportLine{"summary", snap.ID, done}, func() {
		fmt.Fprintf(p.out, "wrote %s to %s: %d layers, %s\n", strings.Join(done.Refs, ", "), done.Location, done.Layers, size(done.Bytes))
	})
}

type exportLine struct {
	Type     string `json:"message_type"`
	Snapshot string `json:"snapshot"`
	*importer.Exported
}

// sink is where the flags want the image to go.
func (p *program) sink(c *cli.Context) (importer.Sink, error) {
	file, layout, push := c.String("output"), c.String("layout"), c.String("push")
	switch {
	case count(file != "", layout != "", push != "") > 1:
		return nil, usage("--output, --layout and --push exclude each other")
	case file != "" && file != "-":
		return importer.ToFile(file), nil
	case layout != "":
		return importer.ToLayout(layout), nil
	case push != "":
		return importer.ToRegistry(push, importer.PushOptions{Insecure: c.Bool("insecure"), Compress: c.Bool("compress")}), nil
	case isSet(c, "json"):
		return nil, usage("--json and an image cannot share standard output").hint("give --output FILE")
	case term.IsTerminal(int(p.out.Fd())):
		return nil, usage("an image is nothing for a terminal").hint("redirect it, or give --output FILE, --layout DIR or --push REFERENCE")
	}
	return importer.ToWriter(p.out), nil
}

func count(conditions ...bool) int {
	n := 0
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}
