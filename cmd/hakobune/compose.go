package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) composeCommand() *cli.Command {
	return &cli.Command{
		Name:      "compose",
		Usage:     "write a snapshot's system as a Compose file",
		ArgsUsage: "SNAPSHOT",
		Description: `Prints a Compose file from which the system can be run by other means: its services run the images that a restore
makes (or those of hakobune registry serve, tagged so), with the volumes and networks of the snapshot by their
names. It holds the containers' environments, passwords included, so -o makes a file that only you can read.

   hakobune restore --only images --only changes --only volumes shop
   hakobune compose -o compose.yaml shop && docker compose up -d
   hakobune compose --stack -o stack.yaml shop && docker stack deploy -c stack.yaml shop

With --stack what a swarm knows nothing of is left out, and told.

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.BoolFlag{Name: "stack", Usage: "for docker stack deploy"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write into `FILE`, which has its name only once it is complete"},
		),
		Action: p.compose,
	}
}

type composeLine struct {
	Type     string             `json:"message_type"`
	Snapshot string             `json:"snapshot"`
	Compose  string             `json:"compose"`
	Notes    []snapshot.Problem `json:"notes,omitempty"`
}

func (p *program) compose(c *cli.Context) error {
	selector, err := one(c, "a snapshot")
	if err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	snap, err := p.chooseWhole(c, repo, selector)
	if err != nil {
		return err
	}
	text, notes, err := importer.Compose(snap, c.Bool("stack"))
	if err != nil {
		return err
	}
	for _, n := range notes {
		p.note(c, "note: %s: %s", n.Where, n.What)
	}
	write := func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	}
	if file := c.String("output"); file != "" {
		return importer.WriteFile(file, write)
	}
	if isSet(c, "json") {
		writeJSON(p.out, composeLine{"compose", snap.ID, string(text), notes})
		return nil
	}
	return write(p.out)
}
