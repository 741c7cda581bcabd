package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

func (p *program) failoverCommand() *cli.Command {
	return &cli.Command{
		Name:      "failover",
		Usage:     "make a system run here, because its site is lost",
		ArgsUsage: "SYSTEM",
		Description: `On the standby host: shows the plan; takes the system for this site, so that the backups of the old home stop
with exit code 22 should it come back; restores the newest snapshot (or that of SYSTEM@TIME) in the order
of its dependencies; waits until all is healthy and every --gate is passed; runs the hooks that bring the
traffic; and says what is left for a person to do. Of two sites that do it at once one gets the system,
the other ends with exit code 22. How long it took and how old the snapshot was is put on record in the
repository.

--sorry-page, or --sorry-page=FILE with a page of your own, answers people who come meanwhile with status 503, from
the first second until the container that publishes the port is started: at all ports of this host at which the
system publishes a container's port 80, 3000, 5000 or 8000 to 8999, and at each --sorry-port. What standby sync holds ready here is used.

If it is killed, at any step, the same command again goes on. Nothing that exists is touched.

Gates, which may be given several times, are passed one after the other:
   health                    all containers are healthy, which is waited for anyway
   tcp:HOST:PORT             somebody answers there
   http:URL                  a GET is answered with a status below 400
   exec:CONTAINER:COMMAND    the command ends with 0 in the container

Hooks run in order; a command has HAKOBUNE_SYSTEM, HAKOBUNE_SNAPSHOT, HAKOBUNE_SITE, HAKOBUNE_TERM,
HAKOBUNE_ADDRESSES (of containers) and HAKOBUNE_PORTS (published) in its environment, a webhook gets the
result as JSON by POST.

   hakobune failover -n shop                        only show what would be done
   hakobune failover --gate http://127.0.0.1:8080/health --hook /etc/hakobune/dns.sh shop
   hakobune failover --sorry-page=/etc/hakobune/back-soon.html shop
   hakobune failover --site cloud --port 80:8080 shop@2026-11-20T02:00`,
		Flags: append([]cli.Flag{
			siteFlag(),
			&cli.StringSliceFlag{Name: "gate", Usage: "wait until `GATE` is passed: health, tcp:HOST:PORT, http:URL or exec:CONTAINER:COMMAND"},
			&cli.DurationFlag{Name: "gate-timeout", Usage: "how long each gate may take", Value: 2 * time.Minute},
			&cli.StringSliceFlag{Name: "hook", Usage: "then run `COMMAND` by the shell of this host"},
			&cli.StringSliceFlag{Name: "webhook", Usage: "then post the result to `URL`"},
			&cli.GenericFlag{Name: "sorry-page", Value: &sorryFile{}, Usage: "until the system answers at its HTTP ports, answer there with status 503 and a page: `[=FILE]`"},
			&cli.IntSliceFlag{Name: "sorry-port", Usage: "show that page at the port `PORT` of this host, too; may be given several times"},
			&cli.DurationFlag{Name: "health-timeout", Usage: "how long each container may take to become healthy", Value: 5 * time.Minute},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "show the plan and do nothing"},
		}, placeFlags()...),
		Action: p.failover,
	}
}

func (p *program) failover(c *cli.Context) error { return p.move(c, snapshot.WhyFailover) }

// move is a failover, or a failback.
func (p *program) move(c *cli.Context, why string) error {
	selector, err := one(c, "a system")
	if err != nil {
		return err
	}
	opts, err := p.failoverOptions(c)
	if err != nil {
		return err
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	snap, sel, err := p.pick(c, cat, selector)
	if err != nil {
		return err
	}
	if sel.Part != "" {
		return usage("%s takes a whole snapshot, not a part (%q) of one", why, sel.Part)
	}
	engine, err := p.engine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	if opts.Site, err = p.site(c, engine.Facts().Host); err != nil {
		return err
	}
	if opts.Why = why; why == snapshot.WhyFailback {
		opts.Restore = homewards(opts.Restore)
		if err := failover.ReadyForFailback(cat, snap.Summary, opts.Site, c.String("stand-in") != ""); err != nil {
			return err
		}
		standIn, closing, err := p.homeFrom(c, repo, cat, snap, selector, engine)
		if err != nil {
			return err
		}
		defer closing()
		if standIn != nil {
			opts.StandIn = standIn
		}
		opts.Stay = c.Bool("stay")
		opts.Incomplete, opts.Told = c.Bool("incomplete"), func(what string) { p.note(c, "%s", what) }
	}
	p.tellOwner(c, cat.Owner(snap.System.Name), opts.Site)
	if c.Bool("dry-run") {
		return p.failoverPlan(c, engine, snap, opts.Restore)
	}
	opts.Planned = func(plan *importer.Plan) {
		if !isSet(c, "quiet") {
			p.showPlan(c, plan)
		}
	}
	pr := p.newProgress(c)
	opts.Restore.Observer = pr.show
	result, err := failover.Run(c.Context, repo, cat, snap, engine, opts)
	pr.stop()
	if err != nil {
		for _, n := range result.Notes {
			p.note(c, "%s", n)
		}
		if len(result.Kept) > 0 {
			p.note(c, "what was here before is kept: %s", strings.Join(result.Kept, ", "))
		}
		return clashHint(err)
	}
	if why == snapshot.WhyFailback {
		return p.cameHome(c, result)
	}
	return p.failedOver(c, result)
}

// failoverOptions reads the flags.
func (p *program) failoverOptions(c *cli.Context) (failover.Options, error) {
	o := failover.Options{Host: hostName(), StateDir: p.stateDir(), GateTimeout: c.Duration("gate-timeout"), HookOutput: p.err}
	if o.StateDir == "" {
		return o, usage("a failover needs a place to remember how far it came").hint("set HOME or XDG_STATE_HOME")
	}
	var err error
	if o.Restore, err = restoreOptions(c); err != nil {
		return o, err
	}
	if o.Restore.As == "" { // as restore does
		o.Restore.Stage = o.StateDir
	}
	if o.SorryPage, err = sorryPage(c); err != nil {
		return o, err
	}
	for _, s := range c.StringSlice("gate") {
		g, err := failover.ParseGate(s)
		if err != nil {
			return o, usage("%v", err)
		}
		o.Gates = append(o.Gates, g)
	}
	for _, s := range c.StringSlice("hook") {
		o.Hooks = append(o.Hooks, failover.Hook{Command: s})
	}
	for _, s := range c.StringSlice("webhook") {
		if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
			return o, usage("--webhook wants a URL that begins with http:// or https://")
		}
		o.Hooks = append(o.Hooks, failover.Hook{URL: s})
	}
	return o, nil
}

// sorryFile is a flag that needs no value: the file of a page.
type sorryFile struct {
	given bool
	name  string
}

// IsBoolFlag has the parser take the flag alone; its value is "true" then.
func (f *sorryFile) IsBoolFlag() bool { return true }

func (f *sorryFile) String() string { return f.name }

// Set takes the name of a file, or what the parser puts in the place of one.
func (f *sorryFile) Set(value string) error {
	f.given, f.name = value != "false", value
	if value == "true" || value == "false" {
		f.name = ""
	}
	return nil
}

// sorryPage reads what is shown while the system is on its way.
func sorryPage(c *cli.Context) (page failover.SorryPage, err error) {
	file, _ := c.Generic("sorry-page").(*sorryFile)
	page.Ports, page.Published = c.IntSlice("sorry-port"), file.given
	if err := page.ValidPorts(); err != nil {
		return page, usage("--sorry-port: %v", err)
	}
	if file.name != "" {
		page.Body, err = os.ReadFile(file.name)
	}
	return page, err
}

// tellOwner says whose the system is before it changes.
func (p *program) tellOwner(c *cli.Context, t *snapshot.Term, site snapshot.Site) {
	switch {
	case t == nil:
		p.note(c, "no site has claimed the system yet; this one, %s, takes it", site.Name)
	case t.Site.Is(site):
		p.note(c, "the system belongs to this site, %s, already (term %d)", site.Name, t.Number)
	default:
		p.note(c, "the system belongs to site %s since %s (term %d); this one, %s, takes it", t.Site.Name, localTime(t.Since), t.Number, site.Name)
	}
}

func (p *program) failoverPlan(c *cli.Context, engine *docker.Engine, snap *snapshot.Snapshot, o importer.Options) error {
	target, err := importer.Survey(c.Context, engine, snap, o)
	if err != nil {
		return err
	}
	plan, err := importer.NewPlan(snap, target, o)
	if plan != nil {
		p.showPlan(c, plan)
	}
	return clashHint(err)
}

type failoverLine struct {
	Type string `json:"message_type"`
	*failover.Result
}

// failedOver prints what was done, and what is left for a person.
func (p *program) failedOver(c *cli.Context, r *failover.Result) error {
	return p.result(c, failoverLine{"failover", r}, func() {
		p.moved(r)
		fmt.Fprintf(p.out, "%s runs here since %s after go; its snapshot %s was %s old\n", r.System, span(r.RTO), r.Snapshot[:8], span(r.RPO))
		fmt.Fprintf(p.out, `
what is left to do:
  - point DNS, load balancers and firewalls here: %s
  - the old home: its backups of %[2]s stop with exit code 22 from now on. Its containers know nothing of it:
    should that host come back, stop them before anybody uses them.
  - back the system up from here, by the same timer as before: hakobune backup %[2]s
  - when home is to have it again: back up here and stop it here, then, there, hakobune failback %[2]s
`, strings.Join(r.Ports, ", "), r.System)
	})
}

// moved prints what runs now.
func (p *program) moved(r *failover.Result) {
	for _, o := range r.Restore.Objects {
		if o.Kind == importer.KindContainer {
			fmt.Fprintf(p.out, "  %-10s %s%s\n", o.Kind, o.Name, objectText(o))
		}
	}
	for _, g := range r.Gates {
		fmt.Fprintf(p.out, "  %-10s %s passed\n", "gate", g.Gate)
	}
	p.problems("note", r.Restore.Notes)
	for _, n := range r.Notes {
		fmt.Fprintf(p.out, "  %-10s %s\n", "note", n)
	}
}
