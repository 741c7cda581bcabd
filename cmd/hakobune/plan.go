package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

func (p *program) planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "tell what a restore would do here, whether it can, and how long it will take",
		ArgsUsage: "SNAPSHOT",
		Description: `Shows what a restore of the snapshot on this Docker host would create, rename and leave out, then holds that
against the host: its architecture, drivers, runtimes and devices, the space that is needed and free, ports
that others listen on, subnets that overlap networks and routes, secrets that no snapshot has. It takes the
flags of restore and changes nothing. It exits with 0 if the restore can go, with 1 if something stands
against it. How long it will take is reckoned from the last drill.

   hakobune plan shop                               the newest snapshot of shop, on this host
   hakobune plan --as test --port 8080:18080 shop   beside the original
   hakobune --json plan shop                        for a machine: "go", "findings", "estimate"

` + selectorHelp,
		Flags:  append(filterFlags(), placementFlags()...),
		Action: p.planAction,
	}
}

// assessmentLine is a plan with what stands for and against it.
type assessmentLine struct {
	Type string `json:"message_type"`
	*importer.Plan
	*importer.Assessment
}

// errNoGo says that a restore would not do.
var errNoGo = errors.New("no-go")

func (p *program) planAction(c *cli.Context) error {
	selector, err := one(c, "a snapshot")
	if err != nil {
		return err
	}
	opts, err := restoreOptions(c)
	if err != nil {
		return err
	}
	repo, snap, err := p.openWhole(c, selector)
	if err != nil {
		return err
	}
	engine, err := p.engine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	plan, a, err := assess(c, repo, snap, engine, opts)
	if err != nil {
		return clashHint(err)
	}
	if isSet(c, "json") {
		writeJSON(p.out, assessmentLine{"plan", plan, a})
	} else {
		p.showPlan(c, plan)
		p.showFindings(a)
	}
	if !a.Go {
		return withHint(fmt.Errorf("%w: something stands against a restore of %s on this host", errNoGo, snap.System.Name), "the lines that begin with no-go say what, and what to do")
	}
	return nil
}

// assess makes a plan, which may clash, and holds it against the host.
func assess(c *cli.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, engine *docker.Engine, opts importer.Options) (*importer.Plan, *importer.Assessment, error) {
	target, err := importer.Survey(c.Context, engine, snap, opts)
	if err != nil {
		return nil, nil, err
	}
	plan, err := importer.NewPlan(snap, target, opts)
	if clash := (*importer.ClashError)(nil); err != nil && !errors.As(err, &clash) {
		return nil, nil, err
	}
	around, err := importer.LookAround(c.Context, engine, target, plan, os.TempDir())
	if err != nil {
		return nil, nil, err
	}
	records, err := repo.Records(c.Context)
	if err != nil {
		return nil, nil, err
	}
	around.Rate = importer.Rate(records)
	return plan, importer.Assess(snap, plan, target, around), nil
}

// showFindings prints what was looked at, with a last line that says it all.
func (p *program) showFindings(a *importer.Assessment) {
	for _, f := range a.Findings {
		fmt.Fprintf(p.out, "%-8s %-10s %s\n", f.Level, f.Check, f.Text)
		if f.Hint != "" && f.Level != importer.LevelOK {
			fmt.Fprintf(p.out, "%-8s %-10s hint: %s\n", "", "", f.Hint)
		}
	}
	switch {
	case !a.Go:
		fmt.Fprintln(p.out, "no-go")
	case a.Estimate > 0:
		fmt.Fprintf(p.out, "go: about %s\n", span(a.Estimate))
	default:
		fmt.Fprintln(p.out, "go")
	}
}
