package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// way is one way back.
type way struct {
	name string
	env  []string
	line string // ends when the container is healthy
}

// restore brings the system back on an empty engine, by each way twice, and takes the faster.
func (b *bench) restore(ctx context.Context) error {
	s, err := b.start(ctx)
	if err != nil {
		return err
	}
	for _, t := range s.all {
		if (t.name == aHakobune || t.name == aRegistry || t.name == aStdin) && !s.backed {
			if _, err := b.backup(ctx, t); err != nil {
				return err
			}
		}
	}
	archive := b.path("save.tar")
	if _, err := b.host.output(ctx, nil, "docker commit "+s.name+" hkbench-save && docker save -o "+archive+" hkbench-save"); err != nil {
		return err
	}
	content, err := b.checksum(ctx)
	if err != nil {
		return err
	}
	ways := b.waysBack(s, archive)
	var names []string
	for _, w := range ways {
		names = append(names, w.name)
	}
	t := b.newTable("Back on an empty engine", false, names)
	t.intro = "The same system, until its container is healthy and its content was compared. Each way twice, each time on an engine with a new data directory and without any program's cache; the better time."
	if _, err := b.host.output(ctx, nil, "docker rm -fv "+s.name); err != nil {
		return err
	}
	b.system = nil
	for i, w := range append(ways, ways...) {
		if err := b.host.standby(ctx); err != nil {
			return err
		}
		home := b.path("home", fmt.Sprint("standby", i)) // there are no caches on the standby host
		if err := os.Mkdir(home, 0o700); err != nil {
			return err
		}
		out, c, err := b.host.timed(ctx, append(slices.Clip(w.env), at(home)...), w.line)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		now, err := b.checksum(ctx)
		if err == nil && now != content {
			err = errors.New("the content is not the same")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if _, err := b.host.output(ctx, nil, "docker rm -fv "+s.name); err != nil {
			return err
		}
		const step = "restore until healthy"
		if old, again := t.cells[step][w.name]; !again || c.took < old.took {
			b.add(t, step, w.name, measure{cost: c, told: parse(out)})
		}
	}
	return nil
}

// waysBack: what a tar of files does not tell (command, health check) a user must know.
func (b *bench) waysBack(s *system, archive string) []way {
	run := "docker run -d --name " + s.name + " -p " + sitePort + ":80 "
	healthy := untilHealthy(s.name)
	load := "docker load -q -i " + archive + " && " + run + "hkbench-save" + healthy
	pull := "docker pull -q " + registry + "/" + s.name + " && " + run + registry + "/" + s.name + healthy
	dump := "restic dump -q latest system.tar | docker import - hkbench-import && " + run +
		"--health-cmd healthy.sh --health-interval 2s hkbench-import all.sh" + healthy
	var ways []way
	for _, t := range s.all {
		switch t.name {
		case aHakobune:
			ways = append(ways, way{aHakobune, t.env, b.hakobune + " restore --json " + s.name})
		case aRegistry:
			ways = append(ways, way{"registry: pull, run", t.env, pull})
		case aStdin:
			ways = append(ways, way{"restic dump | docker import, run", t.env, dump})
		}
	}
	return append(ways, way{"docker load, run", nil, load})
}
