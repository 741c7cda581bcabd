package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

func (p *program) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look whether everything that a backup and a restore need is in order",
		Description: `Asks the Docker engine and, if one is named, the repository's store, and tells what it finds: which way
of reading containers' changes will be used, whether the store creates objects conditionally, how far
its clock is from this host's, how much space is left. It changes nothing but a probe object in the
store, which it removes. It exits with 1 if something must be mended.

With --clean it also removes what drills and restores of this host left that were killed; but nothing of a
restore of which containers run already, for somebody may use them.`,
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "clean", Usage: "remove what killed drills and restores left"}},
		Action: p.doctor,
	}
}

// finding is one line of the doctor's report.
type finding struct {
	Type  string `json:"message_type"`
	Check string `json:"check"`
	State string `json:"state"` // ok, warning, failed
	Text  string `json:"text"`
}

// examination collects findings.
type examination struct {
	p        *program
	c        *cli.Context
	failures int
}

func (e *examination) tell(state, check, format string, args ...any) {
	f := finding{"finding", check, state, fmt.Sprintf(format, args...)}
	if state == "failed" {
		e.failures++
	}
	if isSet(e.c, "json") {
		writeJSON(e.p.out, f)
		return
	}
	fmt.Fprintf(e.p.out, "%-8s %-18s %s\n", f.State, f.Check, f.Text)
}

func (p *program) doctor(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	e := &examination{p: p, c: c}
	e.engine(c.Context)
	if name, _ := p.flag(c, "repo", "REPOSITORY"); name != "" {
		e.store(c.Context)
	}
	e.space("temporary files", os.TempDir())
	if e.failures > 0 {
		return fmt.Errorf("%d of the checks failed", e.failures)
	}
	return nil
}

func (e *examination) engine(ctx context.Context) {
	engine, err := e.p.engine(e.c)
	if err != nil {
		e.tell("failed", "engine", "%v", err)
		return
	}
	defer engine.Close()
	f := engine.Facts()
	e.tell("ok", "engine", "Docker %s (API %s) on %s, %s/%s, kernel %s", f.Version, f.APIVersion, f.Host, f.OS, f.Arch, f.Kernel)
	store := "graph driver"
	if f.Containerd {
		store = "containerd's image store"
	}
	e.tell("ok", "storage", "%s, %s, in %s", f.StorageDriver, store, f.RootDir)
	if f.Local {
		e.tell("ok", "place", "this process sees the engine's files: changes and volumes are read directly")
		e.space("engine", f.RootDir)
	} else {
		e.tell("warning", "place", "the engine's files are not visible from here: they are read by a helper container on its host")
	}
	e.changes(ctx, engine)
	e.drills(ctx, engine)
	e.restores(ctx, engine)
}

// drills tells of what killed drills left, and removes it with --clean.
func (e *examination) drills(ctx context.Context, engine *docker.Engine) {
	host, err := os.Hostname()
	if err != nil {
		e.tell("failed", "drills", "%v", err)
		return
	}
	look := importer.DeadDrills
	if e.c.Bool("clean") {
		look = importer.CleanDrills
	}
	switch ids, err := look(ctx, engine, e.p.stateDir(), host); {
	case err != nil:
		e.tell("failed", "drills", "%v", err)
	case len(ids) == 0:
		e.tell("ok", "drills", "no killed drill has left anything")
	case e.c.Bool("clean"):
		e.tell("ok", "drills", "what %d killed drills left is removed", len(ids))
	default:
		e.tell("warning", "drills", "%d killed drills have left something; hakobune doctor --clean removes it, and so does the next drill", len(ids))
	}
}

// restores tells of what killed restores left, and removes it with --clean.
func (e *examination) restores(ctx context.Context, engine *docker.Engine) {
	if !e.c.Bool("clean") {
		systems, err := importer.Killed(engine.Facts(), e.p.stateDir())
		switch {
		case err != nil:
			e.tell("failed", "restores", "%v", err)
		case len(systems) == 0:
			e.tell("ok", "restores", "no killed restore has left anything")
		default:
			e.tell("warning", "restores", "killed restores of %s have left something; the same command again takes it from there, hakobune doctor --clean removes it", strings.Join(systems, ", "))
		}
		return
	}
	found, err := importer.Recover(ctx, engine, e.p.stateDir(), "")
	if err != nil {
		e.tell("failed", "restores", "%v", err)
	}
	for _, what := range found.Left {
		e.tell("warning", "restores", "still there: %s", what)
	}
	for _, u := range found.Unfinished {
		e.tell("warning", "restores", "%v; %s", u, u.Hint())
	}
	e.tell("ok", "restores", "%d things that killed restores had left are removed", len(found.Removed))
	if len(found.Returned) > 0 {
		e.tell("ok", "restores", "what killed restores had moved aside is back: %s", strings.Join(found.Returned, ", "))
	}
}

// changes tells how the read-write layers of the containers that there are will be read.
func (e *examination) changes(ctx context.Context, engine *docker.Engine) {
	containers, err := engine.Containers(ctx)
	if err != nil {
		e.tell("failed", "containers", "%v", err)
		return
	}
	direct, example := 0, ""
	for _, c := range containers {
		if _, err := engine.Upper(ctx, c); err == nil {
			direct++
		} else if example == "" {
			example = fmt.Sprintf("%s: %v", c.Name, err)
		}
	}
	state := "ok"
	text := fmt.Sprintf("of %d containers %d have changes that can be read directly", len(containers), direct)
	if direct < len(containers) {
		state, text = "warning", text+"; of the others, "+example
	}
	e.tell(state, "changes", "%s", text)
}

// store looks at the repository's place without opening the repository: no password is needed.
func (e *examination) store(ctx context.Context) {
	b, exists, err := e.p.backend(e.c, false)
	if err != nil {
		e.tell("failed", "store", "%v", err)
		return
	}
	what := "no repository yet"
	if exists {
		what = "a repository is there"
	}
	e.tell("ok", "store", "%s answers, %s", b.Location(), what)
	conditional, err := chunkstore.ConditionalWrites(ctx, b)
	switch {
	case err != nil:
		e.tell("failed", "conditional writes", "%v", err)
	case conditional:
		e.tell("ok", "conditional writes", "the store creates objects only where there are none")
	default:
		e.tell("warning", "conditional writes", "the store does not know them: commits use the slower fallback")
	}
	e.clock(ctx, b)
}

// maxSkew is how far a store's clock may be from ours; S3 refuses requests at 15 minutes.
const maxSkew = time.Minute

func (e *examination) clock(ctx context.Context, b chunkstore.Backend) {
	var random [8]byte
	rand.Read(random[:])
	name := "probe/clock-" + hex.EncodeToString(random[:])
	before := time.Now()
	err := b.Put(ctx, name, []byte("clock"))
	if err == nil {
		defer b.Delete(context.WithoutCancel(ctx), name)
	}
	after := time.Now()
	info, serr := b.Stat(ctx, name)
	if err != nil || serr != nil {
		e.tell("failed", "writing", "%v", firstOf(err, serr))
		return
	}
	e.tell("ok", "writing", "an object could be written, read and removed")
	var skew time.Duration
	if info.Modified.Before(before.Add(-time.Second)) { // stores tell whole seconds
		skew = before.Sub(info.Modified)
	} else if info.Modified.After(after) {
		skew = info.Modified.Sub(after)
	}
	if skew > maxSkew {
		e.tell("failed", "clock", "this host's clock and the store's differ by %s: set them by NTP", span(skew))
		return
	}
	e.tell("ok", "clock", "this host's and the store's agree")
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lowSpace is what a restore or an upload should find free at least.
const lowSpace = 1 << 30

func (e *examination) space(what, dir string) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		e.tell("failed", "space", "%s: %s: %v", what, dir, err)
		return
	}
	free := int64(fs.Bavail) * fs.Bsize
	state := "ok"
	if free < lowSpace {
		state = "warning"
	}
	e.tell(state, "space", "%s free for %s in %s", size(free), what, dir)
}
