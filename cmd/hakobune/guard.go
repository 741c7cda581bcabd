package main

import (
	"os"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/exporter"
)

// guardName and helperName are the commands by which the program calls itself.
const (
	guardName  = "internal-guard"
	helperName = "internal-helper"
)

// guardCommand lets containers go that a killed backup left standing still. It reads on standard
// input what is held, and outlives the backup.
func (p *program) guardCommand() *cli.Command {
	return &cli.Command{
		Name:   guardName,
		Hidden: true,
		Flags:  globalFlags(),
		Action: func(c *cli.Context) error {
			engine, err := p.engine(c)
			if err != nil {
				return err
			}
			defer engine.Close()
			return exporter.RunGuard(c.Context, p.in, p.out, engine)
		},
	}
}

// helperCommand serves the files that it sees on standard input and output: it runs in a helper
// container on the host of an engine whose files the backup cannot see.
func (p *program) helperCommand() *cli.Command {
	return &cli.Command{
		Name:   helperName,
		Hidden: true,
		Action: func(c *cli.Context) error {
			return exporter.ServeTree(c.Context, duplex{p.in, p.out}, exporter.OpenRequest)
		},
	}
}

// duplex is standard input and output as one.
type duplex struct {
	in  *os.File
	out *os.File
}

func (d duplex) Read(b []byte) (int, error)  { return d.in.Read(b) }
func (d duplex) Write(b []byte) (int, error) { return d.out.Write(b) }
