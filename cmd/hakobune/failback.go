package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
)

func (p *program) failbackCommand() *cli.Command {
	return &cli.Command{
		Name:      "failback",
		Usage:     "bring a system home, with what was written at the site that stood in for it",
		ArgsUsage: "SYSTEM",
		Description: `On the home host, after the stand-in has stored a last snapshot and was stopped: takes the system for this
site, so that the stand-in's backups stop with exit code 22; moves what has the system's names here aside, and
keeps it; restores the stand-in's newest snapshot, of which only what home lacks is fetched: layers that the
engine has are not sent, and content that lies in what was moved aside is copied from there, each piece held
against its id; and goes on as a failover does: health, gates, hooks, record. What was moved aside is named at
the end, to be removed by you.

It refuses a snapshot from before the stand-in got the system. What is written at the stand-in after its last
snapshot stays there: stop it first. If the command is killed, run it again.

   hakobune backup shop && docker compose -p shop stop      at the stand-in
   hakobune failback -n shop                                at home: only show what would be done
   hakobune failback --gate http://127.0.0.1:8080/health --hook /etc/hakobune/dns.sh shop

The flags are those of failover.`,
		Flags:  p.failoverCommand().Flags,
		Action: p.failback,
	}
}

func (p *program) failback(c *cli.Context) error {
	return p.move(c, snapshot.WhyFailback)
}

// cameHome prints what a failback did, and what is left for a person.
func (p *program) cameHome(c *cli.Context, r *failover.Result) error {
	return p.result(c, failoverLine{"failback", r}, func() {
		p.moved(r)
		fmt.Fprintf(p.out, "%s is home again since %s after go; its snapshot %s was %s old%s\n", r.System, span(r.RTO), r.Snapshot[:8], span(r.RPO), sourcesText(r.Restore))
		if left := r.Restore.Left; len(left) > 0 {
			fmt.Fprintf(p.out, "what was here before is kept, until you remove it (do not start the containers: their volumes have other names now):\n  %s\n", strings.Join(left, "\n  "))
		}
		fmt.Fprintf(p.out, `
what is left to do:
  - point DNS, load balancers and firewalls here: %s
  - the stand-in: its backups of %[2]s stop with exit code 22 from now on; leave it stopped
  - back the system up from here, by the same timer as before: hakobune backup %[2]s
`, strings.Join(r.Ports, ", "), r.System)
	})
}

// homewards are the options of a restore over what a site had before.
func homewards(o importer.Options) importer.Options {
	o.Replace, o.KeepReplaced = true, true
	return o
}
