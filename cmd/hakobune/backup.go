package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

func (p *program) backupCommand() *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "store a snapshot of running systems",
		ArgsUsage: "NAME...",
		Description: `NAME is a Compose project, a system named by the label io.github.hakobune-dr.system, or a container. A
snapshot holds images, the containers' own changes, volumes, bind mounts, configuration and networks;
what the repository knows is not read again.

Containers are paused together for the moment in which the last changes are copied (see --quiesce). They
go on whatever happens to this command. What could not be captured is listed, stands in the snapshot,
and makes the command exit with 3.

Labels of a container: io.github.hakobune-dr.enable=false leaves it out of --all, .stop=true stops it
instead of pausing, .pre and .post are commands run in it before and after, .exclude lists paths.

A system that another site has taken over, by a failover or a handover, is not backed up: exit code 22. So
a home that comes back after it was lost cannot mix its state with that of the site that stood in for it.

With --also, one run stores the snapshot in several repositories, each with keys of its own. It is made in
the first that can be reached and copied to the others (see hakobune copy). One that is down keeps it from
none of the others; the command names it and exits with 3. The same password opens them all, unless
--also-password-file or --also-key-file say otherwise, or HAKOBUNE_ALSO_1_PASSWORD_FILE and the like.

A put-only host (see hakobune key add-host) gives its credential as --key-file, and needs nothing else. It can
read nothing that it stored, so it reads everything anew each time; what is there already it does not store again.
With --also it makes a snapshot of its own in each repository.

   hakobune backup shop
   hakobune backup --all
   hakobune backup --all --also s3:https://s3.elsewhere.example/ark --also /mnt/disk/ark
   hakobune backup -n shop          only show what would be read, and how`,
		Flags: append(alsoFlags(),
			&cli.BoolFlag{Name: "all", Usage: "back up every system of this engine"},
			&cli.StringSliceFlag{Name: "tag", Usage: "tag the snapshot with `TAG`; may be given several times"},
			&cli.StringFlag{Name: "quiesce", Usage: "hold containers by `MODE`: pause, stop or none", Value: string(snapshot.Pause)},
			&cli.DurationFlag{Name: "max-pause", Usage: "let paused containers go after `TIME` at the latest; the snapshot is then incomplete", Value: 30 * time.Second},
			&cli.DurationFlag{Name: "max-stop", Usage: "the same for stopped ones", Value: 10 * time.Minute},
			&cli.StringSliceFlag{Name: "pre", Usage: "run `CONTAINER=COMMAND` in the container before it is held"},
			&cli.StringSliceFlag{Name: "post", Usage: "run `CONTAINER=COMMAND` in the container after it was released"},
			&cli.BoolFlag{Name: "ignore-hook-errors", Usage: "go on when such a command fails; the snapshot is then incomplete"},
			&cli.StringSliceFlag{Name: "exclude", Usage: "do not read `PATTERN`: VOLUME, VOLUME/PATTERN, CONTAINER/PATTERN, /HOST/PATH or **/PATTERN"},
			&cli.StringSliceFlag{Name: "include", Usage: "read the volume or bind mount `NAME` although it is large or on a network file system"},
			&cli.StringFlag{Name: "max-bind", Usage: "do not read bind mounts larger than `SIZE`", Value: "10GiB"},
			&cli.BoolFlag{Name: "rescan", Usage: "read every file, also those that look unchanged"},
			&cli.StringFlag{Name: "host-name", Usage: "record `NAME` as the host's name"},
			siteFlag(),
			&cli.StringFlag{Name: "force", Usage: "take the system `NAME` for this site first, although it belongs to another"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "show the plan and do nothing"},
		),
		Action: p.backup,
	}
}

func (p *program) backup(c *cli.Context) error {
	if (c.NArg() == 0) == !c.Bool("all") {
		return usage("back up what? Name systems or give --all, one of the two").hint("hakobune backup NAME..., or hakobune backup --all")
	}
	opts, err := p.exportOptions(c)
	if err != nil {
		return err
	}
	engine, err := p.engine(c)
	if err != nil {
		return err
	}
	defer engine.Close()
	if c.Bool("dry-run") {
		systems, err := p.discover(c, engine)
		if err != nil {
			return err
		}
		return p.backupPlans(c, engine, systems, opts)
	}
	to, systems, err := p.openAndDiscover(c, engine)
	if err != nil {
		return err
	}
	if opts.Guard, err = p.startGuard(given(c, "host").String("host")); err != nil {
		return err
	}
	defer opts.Guard.Close()
	if opts.Site, err = p.site(c, engine.Facts().Host); err != nil {
		return err
	}
	if err := p.takeByForce(c, to, systems, opts.Site); err != nil {
		return err
	}
	// One system that fails does not keep the others from being backed up.
	var errs []error
	for _, sys := range systems {
		if err := p.backupOne(c, to, engine, sys, opts); err != nil {
			errs = append(errs, err)
		}
		if c.Context.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// takeByForce makes this site the owner of the system that --force names, which must be one of systems, at every
// destination that can be reached.
func (p *program) takeByForce(c *cli.Context, list []*destination, systems []snapshot.System, site snapshot.Site) error {
	name := c.String("force")
	if name == "" {
		return nil
	}
	if !slices.ContainsFunc(systems, func(s snapshot.System) bool { return s.Name == name }) {
		return usage("--force %q is none of the systems that are to be backed up", name)
	}
	for _, d := range list {
		repo, err := d.get()
		if err != nil {
			continue // it is told when the snapshot cannot be stored there
		}
		cat, err := p.catalog(c, repo)
		if err != nil {
			return err
		}
		if _, err = cat.Claim(c.Context, snapshot.Term{System: name, Site: site, Why: snapshot.WhyForced, Host: hostName()}); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) discover(c *cli.Context, engine *docker.Engine) ([]snapshot.System, error) {
	if err := p.recover(c, engine); err != nil {
		return nil, err
	}
	return exporter.Discover(c.Context, engine, c.Args().Slice(), c.Bool("all"))
}

// openAndDiscover asks the engine while the password becomes a key: on a night without changes either
// is a good part of the time. One of the destinations at least is open then.
func (p *program) openAndDiscover(c *cli.Context, engine *docker.Engine) ([]*destination, []snapshot.System, error) {
	list, err := p.destinations(c)
	if err != nil {
		return nil, nil, err
	}
	var g errgroup.Group
	g.Go(func() error { return openFirst(list) })
	systems, err := p.discover(c, engine)
	err = cmp.Or(err, g.Wait())
	return list, systems, err
}

// recover lets go what an earlier run left standing still.
func (p *program) recover(c *cli.Context, engine *docker.Engine) error {
	freed, err := exporter.Recover(c.Context, engine, engine.Facts(), p.stateDir())
	for _, name := range freed {
		p.logger(c).Warn("let a container go that an earlier backup had left standing still", "container", name)
	}
	return err
}

// startGuard starts this program once more, to let containers go if this process is killed. It gets
// what it needs to reach the engine at host, or without one that of the environment, and nothing of the repository.
func (p *program) startGuard(host string) (*exporter.Guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	argv := []string{self, guardName}
	if host != "" {
		argv = append(argv, "--host", host)
	}
	var env []string
	for _, name := range []string{
		"PATH", "HOME", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG",
		"DOCKER_CERT_PATH", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION",
	} {
		if v := p.env.get(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return exporter.StartGuard(argv, env)
}

func (p *program) exportOptions(c *cli.Context) (exporter.Options, error) {
	o := exporter.Options{
		Host: c.String("host-name"), Program: "hakobune " + version(), Tags: c.StringSlice("tag"),
		Mode: snapshot.QuiesceMode(c.String("quiesce")), MaxPause: c.Duration("max-pause"), MaxStop: c.Duration("max-stop"),
		StateDir: p.stateDir(), IgnoreHookErrors: c.Bool("ignore-hook-errors"), Exclude: c.StringSlice("exclude"),
		Include: c.StringSlice("include"), Rescan: c.Bool("rescan"), Logger: p.logger(c),
	}
	var err error
	if o.MaxBind, err = maxBind(c); err != nil {
		return o, err
	}
	switch o.Mode {
	case snapshot.Pause, snapshot.Stop, snapshot.None:
	default:
		return o, usage("--quiesce %q: want pause, stop or none", string(o.Mode))
	}
	if o.Pre, err = hooks(c, "pre"); err != nil {
		return o, err
	}
	if o.Post, err = hooks(c, "post"); err != nil {
		return o, err
	}
	o.Own, err = p.ownPaths(c)
	return o, err
}

// maxBind reads the size above which a bind mount is not read.
func maxBind(c *cli.Context) (int64, error) {
	n, err := humanize.ParseBytes(c.String("max-bind"))
	if err != nil || n > 1<<62 {
		return 0, usage("--max-bind %q is not a size", c.String("max-bind"))
	}
	return int64(n), nil
}

// hooks reads CONTAINER=COMMAND flags; the command is a line for the container's shell.
func hooks(c *cli.Context, flag string) (map[string][]string, error) {
	m := map[string][]string{}
	for _, s := range c.StringSlice(flag) {
		name, command, ok := strings.Cut(s, "=")
		if !ok || name == "" || command == "" {
			return nil, usage("--%s %q is not CONTAINER=COMMAND", flag, s)
		}
		m[name] = []string{"/bin/sh", "-c", command}
	}
	return m, nil
}

// ownPaths are the places of this program that a backup must not take for data.
func (p *program) ownPaths(c *cli.Context) ([]string, error) {
	cache, err := p.cacheDir(c)
	if err != nil {
		return nil, err
	}
	paths := []string{p.stateDir(), cache}
	if name, err := p.flag(c, "repo", "REPOSITORY"); err == nil {
		paths = append(paths, name)
	}
	others, err := p.others(c)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		paths = append(paths, o.name)
	}
	var own []string
	for _, path := range paths {
		if path == "" || s3.IsURL(path) {
			continue
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		own = append(own, abs)
	}
	return own, nil
}

func (p *program) backupPlans(c *cli.Context, engine *docker.Engine, systems []snapshot.System, o exporter.Options) error {
	for _, sys := range systems {
		plan, err := exporter.MakePlan(c.Context, engine, sys, o)
		if err != nil {
			return err
		}
		if err := p.showBackupPlan(c, plan); err != nil {
			return err
		}
	}
	return nil
}

type backupPlanLine struct {
	Type string `json:"message_type"`
	*exporter.Plan
}

func (p *program) showBackupPlan(c *cli.Context, plan *exporter.Plan) error {
	return p.result(c, backupPlanLine{"plan", plan}, func() {
		fmt.Fprintf(p.out, "plan: backup of %s (found by %s), held by %s\n", plan.System.Name, plan.System.Source, plan.Mode)
		for _, i := range plan.System.Images {
			fmt.Fprintf(p.out, "  image       %s, %d layers\n", firstName(i), len(i.Layers))
		}
		for _, t := range plan.Trees {
			way := exporter.Way("not at all")
			if len(t.Ways) > 0 {
				way = t.Ways[0]
			}
			fmt.Fprintf(p.out, "  %-10s  %s, by %s\n", t.Kind, t.Name, way)
		}
		for _, h := range plan.Hooks {
			fmt.Fprintf(p.out, "  command     %v\n", h)
		}
		for _, h := range plan.Holds {
			fmt.Fprintf(p.out, "  hold        %s by %s\n", h.Name, h.Mode)
		}
		p.problems("missing", plan.System.Problems)
		p.problems("note", plan.System.Notes)
	})
}

type backupLine struct {
	Type       string `json:"message_type"`
	Repository string `json:"repository,omitempty"` // of several, that in which it was made
	snapshot.Summary
	Problems []snapshot.Problem `json:"problems"`
	Notes    []snapshot.Problem `json:"notes"`
}

// backupOne backs one system up, in the first of the destinations that takes it, prints its snapshot, and copies
// it to the others.
func (p *program) backupOne(c *cli.Context, list []*destination, engine *docker.Engine, sys snapshot.System, o exporter.Options) error {
	store := func(repo *chunkstore.Repository) (*snapshot.Snapshot, error) {
		pr := p.newProgress(c)
		defer pr.stop()
		o.Observer = pr.show
		return exporter.Export(c.Context, repo, engine, sys, o)
	}
	taker, snap, err := p.tryAll(c, list, store)
	if err != nil {
		return err
	}
	if !snap.Complete {
		p.exit = exitIncomplete
	}
	where := ""
	if len(list) > 1 {
		where = taker.name
	}
	p.showBackup(c, snap, where)
	p.copyToOthers(c, list, taker, snap, store)
	return nil
}

// showBackup prints a snapshot that was made, and where, unless that is empty.
func (p *program) showBackup(c *cli.Context, snap *snapshot.Snapshot, where string) {
	_ = p.result(c, backupLine{"summary", where, snap.Summary, snap.System.Problems, snap.System.Notes}, func() {
		s := snap.Stats
		word := "snapshot"
		if !snap.Complete {
			word = "INCOMPLETE snapshot"
		}
		fmt.Fprintf(p.out, "%s %s of %s: %s in %d files, %s read, %s new, %s stored, in %s\n", word, snap.ID[:8], snap.Summary.System,
			size(s.Bytes), s.Files, size(s.Read), size(s.NewBytes), size(s.Stored), span(snap.Took))
		if q := snap.System.Quiesce; q.Mode != snapshot.None {
			fmt.Fprintf(p.out, "  containers stood still for %s (%s)\n", span(cmp.Or(q.Paused, s.Paused)), q.Mode)
		}
		p.problems("missing", snap.System.Problems)
		p.problems("note", snap.System.Notes)
		if where != "" {
			fmt.Fprintf(p.out, "  in %s as %s\n", where, snap.ID[:8])
		}
	})
}
