package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) syncCommand() *cli.Command {
	return &cli.Command{
		Name:  "sync",
		Usage: "copy the repository, as it is stored, to another place",
		Description: `Makes another place (a second region, another provider, a disk) hold what the repository holds: the same
keys and passwords open it. Nothing is decrypted, and no password is asked for. What is there already is
not sent again, so a run that was interrupted goes on. At any moment the other place holds whole
snapshots only. Each pack is compared with its name, which is a checksum, on the way.

The repository may be in use meanwhile. The other place is for reading: back up to one of the two only.

   hakobune sync --to s3:https://s3.elsewhere.example/bucket --to-profile elsewhere
   hakobune -r s3:https://s3.elsewhere.example/bucket check`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "the other place: `REPO`, as after -r; a directory is created where it is missing"},
			&cli.BoolFlag{Name: "create-bucket", Usage: "create the bucket of the other place, if it does not exist"},
			&cli.StringFlag{Name: "to-profile", Usage: "its keys are those of the section `NAME` of AWS's shared files, not the environment's"},
			&cli.BoolFlag{Name: "delete", Usage: "delete there what the repository does not hold any more"},
		},
		Action: p.sync,
	}
}

type syncLine struct {
	Type    string `json:"message_type"`
	Copied  int    `json:"copied"`
	Kept    int    `json:"kept"`
	Deleted int    `json:"deleted"`
	Bytes   int64  `json:"bytes"`
}

func (p *program) sync(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	if c.String("to") == "" {
		return usage("sync to where?").hint("give --to DIR or --to s3:https://host/bucket/prefix")
	}
	from, err := p.repository(c)
	if err != nil {
		return err
	}
	to, err := p.otherPlace(c, c.String("to"), c.String("to-profile"), c.Bool("create-bucket"))
	if err != nil {
		return err
	}
	pr := p.newProgress(c)
	report, err := chunkstore.Sync(c.Context, from, to, chunkstore.SyncOptions{
		Delete: c.Bool("delete"),
		Progress: func(done, total int64) {
			snapshot.Observer(pr.show).Notify(snapshot.Event{Phase: "copy", Done: done, Total: total})
		},
	})
	pr.stop()
	switch {
	case errors.Is(err, chunkstore.ErrOther):
		return withHint(err, "give an empty place, or the one that an earlier sync filled; nothing was changed")
	case errors.Is(err, chunkstore.ErrNoStore):
		return withHint(err, "create the bucket first, or let it be created: hakobune sync --create-bucket")
	case err != nil && c.Context.Err() == nil:
		return withHint(err, "what was copied stays; run the command again to go on")
	case err != nil:
		return err
	}
	return p.result(c, syncLine{"summary", report.Copied, report.Kept, report.Deleted, report.Bytes}, func() {
		fmt.Fprintf(p.out, "copied %d objects, %s; %d were there already", report.Copied, size(report.Bytes), report.Kept)
		if report.Deleted > 0 {
			fmt.Fprintf(p.out, "; deleted %d", report.Deleted)
		}
		fmt.Fprintln(p.out)
	})
}
