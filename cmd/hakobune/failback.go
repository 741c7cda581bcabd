package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

func (p *program) failbackCommand() *cli.Command {
	return &cli.Command{
		Name:      "failback",
		Usage:     "bring a system home, with what was written at the site that stood in for it",
		ArgsUsage: "SYSTEM",
		Description: `On the home host. With --stand-in, while the system still runs there: makes a snapshot of it and brings what
home lacks of that here, under other names, as standby sync does; then stops it, makes the last snapshot, and
brings what that has more. So the system is down only from there until it is healthy here, which is measured
and put on record. Until home has all that it needs, whatever fails or kills this command, the stand-in's
containers are started again, at the latest after --max-stop. If the system does not become healthy here, or does
not pass a gate, it moves back: it is stopped here, is the stand-in's site's again, and is started there, in this
order; the command ends with exit code 23 then. What it was here stays, stopped, with all that was written to it,
until the next failback, which moves it aside and keeps it. With --stay a gate that is not passed moves nothing.

Without --stand-in the newest snapshot that the stand-in has stored counts, and somebody has to stop it there;
what was written there since that snapshot stays there. A snapshot from before it got the system is refused. A
gate that is not passed leaves the system here then, and the commands that give it back are shown.

Either way the command takes the system for this site, so that the stand-in's backups stop with exit code 22;
moves what has the system's names here aside, and keeps it; restores the snapshot, of which only what home
lacks is fetched: layers that the engine has are not sent, and content that lies in what was moved aside is
copied from there, each piece held against its id; and goes on as a failover does: health, gates, hooks, record.
What was moved aside, with all that was written here before the disaster, is named at the end, to be removed
by you. If the command is killed, run it again.

   hakobune failback -n --stand-in ssh://root@cloud.example shop        only show what would be done
   hakobune failback --stand-in ssh://root@cloud.example --gate http://127.0.0.1:8080/health shop
   hakobune failback --hook /etc/hakobune/dns.sh shop                   the stand-in was backed up and stopped by hand

The other flags are those of failover.`,
		Flags:  append(standInFlags(), p.failoverCommand().Flags...),
		Action: p.failback,
	}
}

func (p *program) failback(c *cli.Context) error {
	return p.move(c, snapshot.WhyFailback)
}

// homeFrom is where the system runs, if --stand-in says so. closing is never nil where there is no error.
func (p *program) homeFrom(c *cli.Context, repo *chunkstore.Repository, cat *snapshot.Catalog, snap *snapshot.Snapshot, selector string, home *docker.Engine) (s *exporter.StandIn, closing func(), err error) {
	name := snap.System.Name
	switch {
	case c.String("stand-in") == "":
		p.tellStandIn(c, snap)
		return nil, func() {}, nil
	case selector != name:
		return nil, nil, usage("with --stand-in the snapshot is still to be made: %q is not the name of a system alone", selector).hint("hakobune failback --stand-in HOST %s", name)
	}
	s, closing, err = p.standIn(c, repo, cat, name, home.Facts())
	if err == nil && c.Bool("dry-run") {
		if err = p.planStandIn(c, s); err != nil {
			closing()
		}
	}
	return s, closing, err
}

// cameHome prints what a failback did, and what is left for a person.
func (p *program) cameHome(c *cli.Context, r *failover.Result) error {
	return p.result(c, failoverLine{"failback", r}, func() {
		p.moved(r)
		fmt.Fprintf(p.out, "%s is home again since %s after go; its snapshot %s was %s old%s\n", r.System, span(r.RTO), r.Snapshot[:8], span(r.RPO), sourcesText(r.Restore))
		if r.Downtime > 0 {
			fmt.Fprintf(p.out, "it was down for %s; in all %s were fetched, %s were here already\n", span(r.Downtime), size(r.Fetched), size(r.Local))
		}
		if left := r.Kept; len(left) > 0 {
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
