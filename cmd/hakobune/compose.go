package main

import (
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/compose"
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

With --stack what a swarm knows nothing of is left out, and told. Its nodes pull the images from a registry, which
hakobune registry serve is; volumes are of one node each, so a container that has some is constrained to the node
on which they were restored:

   hakobune registry serve --listen :5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users
   hakobune restore --only volumes shop         on the node standby1
   hakobune compose --stack --registry ark.example.com:5000 --constraint db=node.hostname==standby1 -o stack.yaml shop
   docker login ark.example.com:5000 && docker stack deploy --with-registry-auth -c stack.yaml shop

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.BoolFlag{Name: "stack", Usage: "for docker stack deploy"},
			&cli.StringFlag{Name: "registry", Usage: "take the images from hakobune registry serve at `HOST:PORT`"},
			&cli.StringSliceFlag{Name: "constraint", Usage: "with --stack, let a container run only where `CONTAINER=CONSTRAINT` says, as in db=node.hostname==standby1; may be given several times"},
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
	o, err := composeOptions(c)
	if err != nil {
		return err
	}
	_, snap, err := p.openWhole(c, selector)
	if err != nil {
		return err
	}
	text, notes, err := compose.File(snap, o)
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

func composeOptions(c *cli.Context) (compose.Options, error) {
	o := compose.Options{Stack: c.Bool("stack"), Registry: c.String("registry"), Constraints: map[string][]string{}}
	for _, text := range c.StringSlice("constraint") {
		name, constraint, _ := strings.Cut(text, "=")
		if name == "" || !strings.Contains(constraint, "=") {
			return o, usage("--constraint %q is not CONTAINER=CONSTRAINT, as in db=node.hostname==standby1", text)
		}
		o.Constraints[name] = append(o.Constraints[name], constraint)
	}
	if len(o.Constraints) > 0 && !o.Stack {
		return o, usage("--constraint is for --stack")
	}
	return o, nil
}
