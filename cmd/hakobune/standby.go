package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) standbyCommand() *cli.Command {
	return &cli.Command{
		Name:  "standby",
		Usage: "hold systems ready on another Docker host",
		Subcommands: []*cli.Command{{
			Name:      "sync",
			Usage:     "bring what a restore will need to this host, before it is needed",
			ArgsUsage: "[SYSTEM...]",
			Description: `Run on the standby host, beside its Docker engine, it loads the images of each system's newest snapshot,
named as a restore names them, and fills volumes of other names (hakobune-stage-...) with the content of the
system's, and directories of other names (.hakobune-stage-..., beside its place, or beside the first directory
above it that is not there) with that of its bind mounts. Nothing is started. The next time only what differs
is fetched. A restore or failover on this host then moves the content to where the system has it and fetches
only what the stage does not have; with the newest snapshot staged, that is next to nothing.

What is staged counts only while nobody has changed it. The next sync looks what of a volume that somebody
wrote to, or that a killed sync was at, is still right, and fetches the rest; one that a container has mounted
is an error. Bind mounts of single files, and volumes that a driver keeps elsewhere, are not staged. "restore
--as" leaves the stage alone.

   hakobune standby sync                     every system of the repository
   hakobune standby sync -n shop             only show what would be fetched
   hakobune standby sync --watch shop        stay, and follow the snapshots that are made`,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "watch", Usage: "go on until interrupted: look for newer snapshots again and again"},
				&cli.DurationFlag{Name: "every", Usage: "with --watch: the time between two looks, give or take a tenth", Value: 5 * time.Minute},
				&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "show what would be done and do nothing"},
			},
			Action: p.standbySync,
		}},
	}
}

func (p *program) standbySync(c *cli.Context) error {
	watch, every := c.Bool("watch"), c.Duration("every")
	switch {
	case watch && c.Bool("dry-run"):
		return usage("--watch and --dry-run exclude each other")
	case watch && every < time.Second:
		return usage("--every %v is less than a second", every)
	case p.stateDir() == "":
		return usage("there is no directory for what is staged").hint("set XDG_STATE_HOME")
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	told := make(map[string]bool)
	for {
		err := p.standbyRound(c, repo, told)
		if !watch || c.Context.Err() != nil {
			return err
		}
		if err != nil { // the next look may find the store or the engine well again
			p.logger(c).Error("standby sync", "error", err)
		}
		if err := pause(c.Context, every); err != nil {
			return err
		}
	}
}

// pause waits for the time, give or take a tenth, so that many hosts do not ask at once.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d + time.Duration((rand.Float64()-0.5)*0.2*float64(d)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// standbyRound stages the newest snapshot of each system that is meant. What cannot be staged of one keeps none of
// the others from it. told are the snapshots that a round before has told about: only news are told.
func (p *program) standbyRound(c *cli.Context, repo *chunkstore.Repository, told map[string]bool) error {
	cat, err := p.catalog(c, repo)
	if err != nil {
		return err
	}
	engine, err := p.engine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	systems := c.Args().Slice()
	if len(systems) == 0 {
		systems = systemsOf(cat)
	}
	var failed error
	for _, system := range systems {
		snap, _, err := p.pick(c, cat, system)
		if err == nil {
			err = p.stageOne(c, repo, snap, engine, told)
		}
		if err != nil && c.Context.Err() != nil {
			return err
		}
		if err != nil && failed != nil {
			p.logger(c).Error("standby sync", "error", failed)
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// systemsOf lists the systems of which there are snapshots.
func systemsOf(cat *snapshot.Catalog) []string {
	var names []string
	for _, s := range cat.Snapshots {
		if !slices.Contains(names, s.System) {
			names = append(names, s.System)
		}
	}
	slices.Sort(names)
	return names
}

type standbyLine struct {
	Type   string `json:"message_type"`
	DryRun bool   `json:"dry_run,omitempty"`
	*importer.StageResult
}

func (p *program) stageOne(c *cli.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, engine importer.Engine, told map[string]bool) error {
	dry := c.Bool("dry-run")
	pr := p.newProgress(c)
	r, err := importer.SyncStage(c.Context, repo, snap, engine, importer.StageOptions{Dir: p.stateDir(), DryRun: dry, Observer: pr.show})
	pr.stop()
	if err != nil {
		return withHint(err, "what is complete stays staged; run the command again to go on")
	}
	news := !told[snap.ID] || slices.ContainsFunc(r.Steps, func(s importer.StageStep) bool {
		return s.Action != importer.StageKeep && s.Action != importer.StageSkip
	})
	told[snap.ID] = true
	if !news {
		return nil
	}
	return p.result(c, standbyLine{"summary", dry, r}, func() { p.showStage(r, dry) })
}

func (p *program) showStage(r *importer.StageResult, dry bool) {
	for _, s := range r.Steps {
		fmt.Fprintf(p.out, "  %-8s %-10s %s  %s", s.Action, s.Kind, s.Name, size(s.Bytes))
		if s.Detail != "" {
			fmt.Fprintf(p.out, ", %s", s.Detail)
		}
		fmt.Fprintln(p.out)
	}
	p.problems("note", r.Notes)
	if dry {
		fmt.Fprintf(p.out, "would stage %s from snapshot %s (%s)\n", r.System, r.Snapshot[:8], localTime(r.Time))
		return
	}
	local := ""
	if r.Local > 0 {
		local = fmt.Sprintf(" %s were in the system's own volumes here,", size(r.Local))
	}
	fmt.Fprintf(p.out, "staged %s from snapshot %s (%s) in %s: %s fetched,%s %s held\n",
		r.System, r.Snapshot[:8], localTime(r.Time), span(r.Took), size(r.Fetched), local, size(r.Bytes))
}
