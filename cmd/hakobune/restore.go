package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "bring a system back on a Docker host",
		ArgsUsage: "SNAPSHOT",
		Description: `Makes images, volumes, networks and containers of the snapshot on this Docker host, starts what ran, in
the order of its dependencies, and waits until it is healthy. What the engine has already is not sent
again. Nothing that exists is touched: if something is in the way, the plan says what, and nothing is
done, unless --replace, --skip-existing or --as say what to do. If it fails half-way, what it made is
removed. If it is killed, the same command again removes what that left, puts back what --replace had
moved aside, and begins anew; or, once containers were being started, goes on there. What somebody has
changed meanwhile is left as it is, and named.

   hakobune restore shop                            the newest snapshot of shop
   hakobune restore -n shop                         only show what would be done
   hakobune restore --as test --port 8080:18080 shop    beside the original
   hakobune restore --only volumes shop             the data alone
   hakobune restore --into-dir /mnt/shop shop       plain files, without Docker

` + selectorHelp,
		Flags: append(append(filterFlags(), placementFlags()...),
			&cli.BoolFlag{Name: "keep", Usage: "after a failure, leave what was made and say what it is"},
			&cli.DurationFlag{Name: "health-timeout", Usage: "how long each container may take to become healthy", Value: 5 * time.Minute},
			&cli.StringFlag{Name: "into-dir", Usage: "write plain files into the empty or new directory `DIR` instead; needs no Docker"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "show the plan and do nothing; hakobune plan tells more"},
		),
		Action: p.restore,
	}
}

// placementFlags say what of a snapshot is restored, and where.
func placementFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringSliceFlag{Name: "only", Usage: "restore only `WHAT`: " + strings.Join(importer.Parts(), ", ") + ", or the name of a container; may be given several times"},
		&cli.BoolFlag{Name: "no-start", Usage: "create containers, do not start them"},
		&cli.BoolFlag{Name: "replace", Usage: "move aside what exists, and remove it when the new system is healthy"},
		&cli.BoolFlag{Name: "skip-existing", Usage: "use what exists as it is"},
	}, placeFlags()...)
}

// placeFlags say where and how a system comes to stand.
func placeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "as", Usage: "restore under another `NAME`: containers, volumes and networks are renamed after it"},
		&cli.BoolFlag{Name: "without-binds", Usage: "leave bind-mounted paths of the host as they are"},
		&cli.BoolFlag{Name: "fit", Usage: "leave out of the containers' configuration what this host cannot honour"},
		&cli.StringSliceFlag{Name: "port", Usage: "publish a port elsewhere: `OLD:NEW` as in 8080:18080 or 8080:127.0.0.1:18080; 8080:- does not publish it"},
		&cli.StringSliceFlag{Name: "bind", Usage: "mount another host path: `OLD:NEW`"},
		&cli.StringSliceFlag{Name: "network", Usage: "use another network: `OLD:NEW`"},
	}
}

func (p *program) restore(c *cli.Context) error {
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
	if !c.Bool("dry-run") {
		if _, err := p.thawSnapshot(c, repo, snap.Summary, chunkstore.ThawOptions{}); err != nil {
			return err
		}
	}
	if dir := c.String("into-dir"); dir != "" {
		return p.restoreFiles(c, repo, snap, dir)
	}
	engine, err := p.engine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	if c.Bool("dry-run") {
		target, err := importer.Survey(c.Context, engine, snap, opts)
		if err != nil {
			return err
		}
		plan, err := importer.NewPlan(snap, target, opts)
		if plan != nil {
			p.showPlan(c, plan)
		}
		return clashHint(err)
	}
	if opts.As == "" { // what is staged is for the day of need: a copy beside it does not use it up
		opts.Stage = p.stateDir()
	}
	pr := p.newProgress(c)
	opts.Observer, opts.StateDir = pr.show, p.stateDir()
	result, err := importer.Restore(c.Context, repo, snap, engine, opts)
	pr.stop()
	return p.restored(c, snap, result, err)
}

func restoreOptions(c *cli.Context) (importer.Options, error) {
	o := importer.Options{
		As: c.String("as"), Only: c.StringSlice("only"), NoStart: c.Bool("no-start"), Replace: c.Bool("replace"),
		SkipExisting: c.Bool("skip-existing"), WithoutBinds: c.Bool("without-binds"), Fit: c.Bool("fit"),
		Keep: c.Bool("keep"), HealthTimeout: c.Duration("health-timeout"),
	}
	var err error
	if o.Ports, err = remaps(c, "port"); err != nil {
		return o, err
	}
	if o.Binds, err = remaps(c, "bind"); err != nil {
		return o, err
	}
	o.Networks, err = remaps(c, "network")
	return o, err
}

// remaps reads OLD:NEW flags.
func remaps(c *cli.Context, flag string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range c.StringSlice(flag) {
		before, after, ok := strings.Cut(s, ":")
		if !ok || before == "" {
			return nil, usage("--%s %q is not OLD:NEW", flag, s)
		}
		m[before] = after
	}
	return m, nil
}

func (p *program) restoreFiles(c *cli.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, dir string) error {
	pr := p.newProgress(c)
	notes, err := importer.IntoDir(c.Context, repo, snap, dir, pr.show)
	pr.stop()
	if err != nil {
		return err
	}
	line := map[string]any{"message_type": "summary", "snapshot": snap.ID, "directory": dir, "notes": notes}
	return p.result(c, line, func() {
		p.problems("note", notes)
		fmt.Fprintf(p.out, "wrote snapshot %s of %s to %s\n", snap.ID[:8], snap.System.Name, dir)
	})
}

type planLine struct {
	Type string `json:"message_type"`
	*importer.Plan
}

func (p *program) showPlan(c *cli.Context, plan *importer.Plan) {
	if isSet(c, "json") {
		writeJSON(p.out, planLine{"plan", plan})
		return
	}
	fmt.Fprintf(p.out, "plan: snapshot %s of %s, %s\n", plan.Snapshot.ID[:8], plan.Snapshot.System, localTime(plan.Snapshot.Time))
	t := newTable("  Action", "Kind", "Name", "Bytes", "")
	for _, s := range plan.Steps {
		name := s.Name
		if s.As != "" && s.As != s.Name {
			name += " as " + s.As
		}
		t.row("  "+string(s.Action), string(s.Kind), name, size(s.Bytes), s.Detail)
	}
	t.write(p.out)
	p.problems("note", plan.Notes)
}

type restoreLine struct {
	Type     string `json:"message_type"`
	Snapshot string `json:"snapshot"`
	System   string `json:"system"`
	*importer.Result
}

// restored prints what came of a restore.
func (p *program) restored(c *cli.Context, snap *snapshot.Snapshot, r *importer.Result, err error) error {
	var clash *importer.ClashError
	if errors.As(err, &clash) && r.Plan != nil {
		p.showPlan(c, r.Plan)
	}
	if err != nil {
		for _, n := range r.Notes {
			if r.Plan == nil || !slices.Contains(r.Plan.Notes, n) { // those were shown, or are of what was not done
				p.note(c, "%s: %s", n.Where, n.What)
			}
		}
		switch {
		case len(r.Left) > 0 && !isSet(c, "json"):
			fmt.Fprintf(p.err, "left on this host:\n  %s\n", strings.Join(r.Left, "\n  "))
		case clash == nil && r.Plan != nil:
			p.note(c, "the restore failed; what it had made on this host was removed again")
		}
		return clashHint(err)
	}
	return p.result(c, restoreLine{"summary", snap.ID, r.Plan.System, r}, func() {
		for _, o := range r.Objects {
			fmt.Fprintf(p.out, "  %-8s %-10s %s%s\n", o.Action, o.Kind, o.Name, objectText(o))
		}
		p.problems("note", r.Notes)
		fmt.Fprintf(p.out, "restored %s from snapshot %s (%s) in %s", r.Plan.System, snap.ID[:8], localTime(snap.Time), span(r.Took))
		if r.Healthy > 0 {
			fmt.Fprintf(p.out, ", healthy after %s", span(r.Healthy))
		}
		fmt.Fprintln(p.out, sourcesText(r))
	})
}

// sourcesText says where the content came from, if not all of it was fetched.
func sourcesText(r *importer.Result) string {
	text := ""
	if r.Staged > 0 {
		text += fmt.Sprintf("; %s were staged here", size(r.Staged))
	}
	if r.Local > 0 {
		text += fmt.Sprintf("; %s were in what was here before", size(r.Local))
	}
	if text != "" {
		text += fmt.Sprintf(", %s fetched", size(r.Fetched))
	}
	return text
}

func objectText(o importer.Object) string {
	var words []string
	if o.Way != "" {
		words = append(words, o.Way)
	}
	if o.Bytes > 0 {
		words = append(words, size(o.Bytes))
	}
	if o.State != "" {
		words = append(words, o.State)
	}
	if o.Health != "" {
		words = append(words, o.Health)
	}
	words = append(words, slices.Concat(o.Addresses, o.Ports)...)
	if len(words) == 0 {
		return ""
	}
	return "  " + strings.Join(words, ", ")
}

// clashHint adds the ways out of a clash.
func clashHint(err error) error {
	var clash *importer.ClashError
	var wrong *importer.UsageError
	switch {
	case errors.As(err, &wrong):
		return usage("%v", err)
	case errors.As(err, &clash):
		return withHint(err, "nothing was changed; --replace moves aside what is in the way, --skip-existing uses it, --as NAME and --port OLD:NEW go beside it")
	}
	return err
}
