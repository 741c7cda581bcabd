package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "how each system stands: its site, its newest good snapshot, its last drill and failover",
		ArgsUsage: "[SYSTEM...]",
		Description: `Tells of each system in the repository (or those named) which site it belongs to, how old its newest
complete snapshot is, and how long its last drill and its last failover took. Labels on containers say what
is wanted: io.github.hakobune-dr.rpo=24h, how old that snapshot may be, and .rto=30m, how long it may take
until the system runs elsewhere. It exits with 20 where that is missed, or was never shown; where a system
has no complete snapshot; and where its last drill failed. Other labels than those in the newest good
snapshot do not count.

   hakobune status
   hakobune status --json shop
   hakobune status --watch          on a terminal: again and again, until interrupted`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "show it again and again, on a terminal"},
			&cli.DurationFlag{Name: "interval", Usage: "with --watch, look every `TIME`", Value: 30 * time.Second},
		},
		Action: p.status,
	}
}

func (p *program) status(c *cli.Context) error {
	watch := c.Bool("watch")
	if watch && (isSet(c, "json") || !term.IsTerminal(int(p.out.Fd()))) {
		return usage("--watch needs a terminal").hint("without it, and with --json, the command is for scripts and timers")
	}
	if watch && c.Duration("interval") < time.Second {
		return usage("--interval %s is too short", c.Duration("interval"))
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	for {
		if watch {
			fmt.Fprint(p.out, "\x1b[H\x1b[2J") // from the top of an empty screen
		}
		if err := p.showStatus(c, repo, cat); err != nil || !watch {
			return err
		}
		fmt.Fprintf(p.out, "\n%s, every %s\n", localTime(time.Now()), c.Duration("interval"))
		select {
		case <-c.Context.Done():
			return c.Context.Err()
		case <-time.After(c.Duration("interval")):
		}
		if cat, err = p.catalog(c, repo); err != nil {
			return err
		}
	}
}

type systemStatusLine struct {
	Type string `json:"message_type"`
	snapshot.Status
}

// showStatus prints how the systems stand, and sets the exit code.
func (p *program) showStatus(c *cli.Context, repo *chunkstore.Repository, cat *snapshot.Catalog) error {
	all, err := cat.Statuses(c.Context, time.Now())
	if err == nil {
		err = p.readWhole(c, repo, cat)
	}
	if err != nil {
		return err
	}
	p.exit = 0
	p.tellDamage(cat)
	list, err := namedSystems(all, c.Args().Slice())
	if err != nil {
		return err
	}
	t := newTable("System", "Site", "Newest", "Age", "RPO", "Drill", "Failover", "RTO", "")
	for _, s := range list {
		if len(s.Missed) > 0 {
			p.exit = cmp.Or(p.exit, exitMissed)
		}
		if isSet(c, "json") {
			writeJSON(p.out, systemStatusLine{"system_status", s})
			continue
		}
		t.row(s.System, siteText(s.Owner), cmp.Or(s.Snapshot[:min(8, len(s.Snapshot))], "none"), spanOr(s.Age), spanOr(s.RPO),
			evidenceText(s.Drill), evidenceText(s.Failover), spanOr(s.RTO), verdict(s))
	}
	if isSet(c, "json") {
		return nil
	}
	t.write(p.out)
	for _, s := range list {
		for _, m := range s.Missed {
			fmt.Fprintf(p.out, "%s: %s\n", s.System, m)
		}
	}
	return nil
}

// namedSystems returns those of all that are named, all without names.
func namedSystems(all []snapshot.Status, names []string) ([]snapshot.Status, error) {
	if len(names) == 0 {
		return all, nil
	}
	byName := map[string]snapshot.Status{}
	var known []string
	for _, s := range all {
		byName[s.System], known = s, append(known, s.System)
	}
	var list []snapshot.Status
	for _, name := range names {
		s, ok := byName[name]
		if !ok {
			return nil, withHint(fmt.Errorf("there is no system %q in the repository", name), "there is %v", cmp.Or(fmt.Sprint(snapshot.Nearest(name, known)), "none"))
		}
		list = append(list, s)
	}
	return list, nil
}

func siteText(t *snapshot.Term) string {
	if t == nil {
		return "-"
	}
	return t.Site.Name
}

func spanOr(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return span(d)
}

func evidenceText(e *snapshot.Evidence) string {
	switch {
	case e == nil:
		return "-"
	case !e.Passed:
		return "FAILED " + e.Time.Local().Format(time.DateOnly)
	}
	return span(e.RTO) + " " + e.Time.Local().Format(time.DateOnly)
}

func verdict(s snapshot.Status) string {
	if len(s.Missed) > 0 {
		return "MISSED"
	}
	return "ok"
}
