package exporter

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Options are the options of Export and MakePlan. The zero value is ready for use.
type Options struct {
	Host    string   // name of the host in the snapshot; empty: what the engine calls its own
	Program string   // name and version of the program
	Tags    []string // of the snapshot

	// Site is where this is done. A system that belongs to another one is not backed up: see snapshot.CheckOwner,
	// which is asked before anything is done and once more before the snapshot is stored. No name: what the
	// engine's host is called.
	Site snapshot.Site

	// Mode says how running containers are held still: Pause (default), Stop or None. A container's
	// label io.github.hakobune-dr.stop asks for Stop where this is Pause.
	Mode snapshot.QuiesceMode
	// MaxPause is how long containers may stand still; then they are let go by force, and the
	// snapshot is incomplete. Default 30 s: ten times what a busy system needs (the copy is made
	// beforehand), and less than most health checks and clients bear.
	MaxPause time.Duration
	// MaxStop is MaxPause where containers are stopped, which alone may take minutes. Default 10 min.
	MaxStop time.Duration
	// Guard lets containers go when this process is killed. Without one, they then stand until the
	// next run with the same StateDir. The caller closes it.
	Guard *Guard
	// StateDir keeps, while containers are held, a journal of them. Empty: none is kept.
	StateDir string

	// Pre and Post are commands (argv) run in a container, by its name, before it is held and after
	// it was released. They replace those of its labels; an empty one runs nothing.
	Pre, Post map[string][]string
	// HookTime bounds each of them. Default 30 min: dumps of large databases take long.
	HookTime time.Duration
	// IgnoreHookErrors makes a failed command a problem of the snapshot; by default it fails the
	// backup.
	IgnoreHookErrors bool

	// Exclude holds patterns of what is not read: "VOLUME", "VOLUME/PATTERN", "CONTAINER/PATTERN" (of
	// its own changes), "/HOST/PATH" or a pattern of one (of bind mounts), and "**/PATTERN" of all of
	// them. For PATTERN see DirOptions.Exclude.
	Exclude []string
	// Include holds names of volumes and sources of binds that are read although they are large, on
	// a network file system or of a kind that is usually left out.
	Include []string
	// Own holds paths of the engine's host that are never read: the repository, caches.
	Own []string
	// MaxBind is the size in bytes above which a bind mount is not read, which is a problem of the
	// snapshot. Default 10 GiB: a bind mount may lead anywhere. Negative: no bound.
	MaxBind int64

	// TempDir keeps tars that an engine makes, for the ways commit and export; they may be as large as
	// the containers. Empty: the directory for temporary files.
	TempDir string

	// Rescan reads every file, also those that have not changed since the last snapshot.
	Rescan bool

	Observer snapshot.Observer
	Logger   *slog.Logger // nil: nothing is logged
}

// withDefaults returns o with defaults in place of zero values, or an error for values that mean
// nothing.
func (o Options) withDefaults() (Options, error) {
	o.Mode = cmp.Or(o.Mode, snapshot.Pause)
	o.MaxPause = cmp.Or(o.MaxPause, 30*time.Second)
	o.MaxStop = cmp.Or(o.MaxStop, 10*time.Minute)
	o.HookTime = cmp.Or(o.HookTime, 30*time.Minute)
	o.MaxBind = cmp.Or(o.MaxBind, 10<<30)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case !slices.Contains([]snapshot.QuiesceMode{snapshot.Pause, snapshot.Stop, snapshot.None}, o.Mode):
		return o, fmt.Errorf("quiesce mode %q: want pause, stop or none", o.Mode)
	case o.MaxPause < 0, o.MaxStop < 0, o.HookTime < 0:
		return o, fmt.Errorf("negative time")
	}
	for _, p := range o.Exclude {
		if _, err := parsePattern(p); err != nil {
			return o, err
		}
	}
	return o, nil
}
