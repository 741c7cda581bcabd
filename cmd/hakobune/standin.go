package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// standInFlags say where a system runs until it is home, and how its last snapshot is made.
func standInFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "stand-in", Usage: "stop the system at the Docker engine `HOST`, as ssh://root@cloud, make its last snapshot there, and go on from that"},
		&cli.DurationFlag{Name: "max-stop", Usage: "with --stand-in: start it there again if after `TIME` home does not have all it needs", Value: time.Hour},
		&cli.StringSliceFlag{Name: "exclude", Usage: "with --stand-in: do not read `PATTERN`, as for a backup"},
		&cli.StringSliceFlag{Name: "include", Usage: "with --stand-in: read the volume or bind mount `NAME` although it is large or on a network file system"},
		&cli.StringFlag{Name: "max-bind", Usage: "with --stand-in: do not read bind mounts larger than `SIZE`", Value: "10GiB"},
		&cli.BoolFlag{Name: "stay", Usage: "with --stand-in: leave the system here, and the stand-in stopped, although a gate is not passed"},
		&cli.BoolFlag{Name: "incomplete", Usage: "with --stand-in: go on although the last snapshot lacks something"},
	}
}

// standIn connects to where the system runs, as the site that owns it. The caller calls close.
func (p *program) standIn(c *cli.Context, repo *chunkstore.Repository, cat *snapshot.Catalog, system string, home snapshot.Facts) (s *exporter.StandIn, closing func(), err error) {
	o := exporter.Options{
		Program: "hakobune " + version(), MaxStop: c.Duration("max-stop"), StateDir: p.stateDir(),
		Exclude: c.StringSlice("exclude"), Include: c.StringSlice("include"), Logger: p.logger(c),
	}
	if o.MaxBind, err = maxBind(c); err != nil {
		return nil, nil, err
	}
	if o.Own, err = p.ownPaths(c); err != nil {
		return nil, nil, err
	}
	if t := cat.Owner(system); t != nil {
		o.Site = t.Site
	}
	host := c.String("stand-in")
	engine, err := docker.Connect(c.Context, docker.Options{Host: host, Env: p.env.get, Logger: p.logger(c)})
	if err != nil {
		return nil, nil, err
	}
	if f := engine.Facts(); f.Host == home.Host && f.RootDir == home.RootDir {
		engine.Close()
		return nil, nil, usage("--stand-in %s is the engine that the system is to come home to", host).hint("run failback at home, and name the engine of the site that stood in for it")
	}
	if o.Guard, err = p.startGuard(host); err != nil {
		engine.Close()
		return nil, nil, err
	}
	return exporter.NewStandIn(repo, engine, system, o), func() {
		o.Guard.Close()
		engine.Close()
	}, nil
}

// tellStandIn says what a failback without --stand-in goes by.
func (p *program) tellStandIn(c *cli.Context, snap *snapshot.Snapshot) {
	p.note(c, "it comes home as the snapshot %s has it, which is %s old: what was written at the stand-in since stays there.\n"+
		"The stand-in is to be backed up and stopped first; with --stand-in HOST this command does that itself",
		snap.Summary.ID[:8], span(time.Since(snap.Summary.Time)))
}

// planStandIn says what --stand-in would do.
func (p *program) planStandIn(c *cli.Context, s *exporter.StandIn) error {
	running, err := s.Running(c.Context)
	if err != nil {
		return err
	}
	p.note(c, "at the stand-in these would be stopped, for a last snapshot that is newer than the one below:")
	for _, name := range running {
		p.note(c, "  container  %s", name)
	}
	return nil
}
