package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) drillCommand() *cli.Command {
	return &cli.Command{
		Name:      "drill",
		Usage:     "prove that a snapshot can be restored: boot it in isolation, measure, remove it",
		ArgsUsage: "SNAPSHOT",
		Description: `Restores the snapshot on this Docker host under throwaway names, waits until it is healthy, asks the probes,
removes everything again, and leaves a record in the repository (hakobune report shows these). It may run
beside the system itself: its networks are internal, no port is published, it gets no device, no socket and
no directory of the host, volumes and bind mounts are throwaway copies, and labels that others watch are left
out. What is other than in a real restore is told. It exits with 21 if the drill failed.

   hakobune drill shop
   hakobune drill --probe 'exec:db:mariadb -e "select count(*) from orders" shop' --expect '/[1-9]/' shop
   hakobune drill --probe http:web:80/health --expect ok shop@2026-11-20
   hakobune drill -n shop                           what would be booted

A probe is exec:CONTAINER:COMMAND, run by the container's shell, or http:CONTAINER:PORT/PATH, asked from inside
its network. It is tried until it passes or --probe-timeout is over. The first --expect belongs to the first
--probe, and so on: text that the answer must hold, or /a regular expression/. CONTAINER is a name at home or
a Compose service. What a killed drill left is removed by the next one, or by hakobune doctor --clean.

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.StringSliceFlag{Name: "probe", Usage: "ask `WHAT` when the system is healthy; may be given several times"},
			&cli.StringSliceFlag{Name: "expect", Usage: "`TEXT` or /REGEXP/ that the answer to the probe must hold"},
			&cli.DurationFlag{Name: "probe-timeout", Usage: "how long a probe may fail before it counts as failed", Value: time.Minute},
			&cli.DurationFlag{Name: "health-timeout", Usage: "how long each container may take to become healthy", Value: 5 * time.Minute},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "show what would be booted and do nothing"},
		),
		Action: p.drill,
	}
}

type drillLine struct {
	Type string `json:"message_type"`
	*importer.DrillRecord
}

func (p *program) drill(c *cli.Context) error {
	selector, err := one(c, "a snapshot or a system")
	if err != nil {
		return err
	}
	o, err := p.drillOptions(c)
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
	if c.Bool("dry-run") {
		plan, err := importer.PlanDrill(c.Context, snap, engine, o)
		if plan != nil {
			p.showPlan(c, plan)
		}
		return err
	}
	pr := p.newProgress(c)
	o.Observer = pr.show
	record, err := importer.Drill(c.Context, repo, snap, engine, o)
	pr.stop()
	if failed := (*importer.DrillError)(nil); err != nil && !errors.As(err, &failed) {
		return err
	}
	return errors.Join(p.result(c, drillLine{"summary", record}, func() { p.showDrill(snap, record) }), err)
}

func (p *program) drillOptions(c *cli.Context) (importer.DrillOptions, error) {
	o := importer.DrillOptions{Dir: p.stateDir(), ProbeTimeout: c.Duration("probe-timeout"), HealthTimeout: c.Duration("health-timeout")}
	probes, expect := c.StringSlice("probe"), c.StringSlice("expect")
	if len(expect) > len(probes) {
		return o, usage("%d times --expect, but %d times --probe", len(expect), len(probes))
	}
	expect = append(expect, make([]string, len(probes)-len(expect))...)
	for i, text := range probes {
		probe, err := importer.ParseProbe(text, expect[i])
		if err != nil {
			return o, usage("%v", err)
		}
		o.Probes = append(o.Probes, probe)
	}
	var err error
	o.Host, err = os.Hostname()
	return o, err
}

// showDrill prints what a drill proved.
func (p *program) showDrill(snap *snapshot.Snapshot, r *importer.DrillRecord) {
	p.problems("note", r.Notes)
	for _, probe := range r.Probes {
		if probe.Passed {
			fmt.Fprintf(p.out, "  probe %s passed after %s\n", probe.Probe, span(probe.Took))
		} else {
			fmt.Fprintf(p.out, "  probe %s failed: %s\n", probe.Probe, probe.Failure)
		}
	}
	for _, left := range r.Left {
		fmt.Fprintf(p.out, "  left: %s\n", left)
	}
	verdict := "failed"
	if r.Passed {
		verdict = "passed"
	}
	fmt.Fprintf(p.out, "drill of %s from snapshot %s (%s) %s", r.System, snap.ID[:8], localTime(snap.Time), verdict)
	if r.RTO > 0 {
		fmt.Fprintf(p.out, ": healthy after %s, %s restored", span(r.RTO), size(r.Bytes))
	}
	fmt.Fprintf(p.out, "; %s old, %s in all\n", span(r.Age), span(r.Took))
}
