// Package mount shows the snapshots of a repository as a file system, read-only, by way of FUSE:
//
//	SYSTEM/TIME-ID/system.json           what was recorded of the system
//	SYSTEM/TIME-ID/containers/NAME/...   a container's own changes; what it deleted is a character device 0:0
//	SYSTEM/TIME-ID/volumes/NAME/...
//	SYSTEM/TIME-ID/binds/SOURCE/...      its slashes written as %2F
//	SYSTEM/latest                        a link to the newest
//
// Everything is read when it is asked for: the description of a snapshot when its directory is opened, the records of a
// tree when that is entered, a chunk when a byte of it is read. The list of snapshots is that of the moment of mounting.
//
// Memory: chunks of 64 MiB at most that were read last, and of the trees entered last about 60 bytes for each of 4
// million entries (of one tree all, however many it has). Nothing is written to disk.
//
// What cannot be read is EIO; no call waits longer than the backend's own retries, or two minutes.
package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Options of Serve. The zero value is ready for use.
type Options struct {
	// AllowOther lets other users in, as far as the modes of the files do.
	AllowOther bool
	// Ready is called when the file system is mounted. May be nil.
	Ready func()
	// Logger is told what could not be read. Nil: discarded.
	Logger *slog.Logger
}

// patience bounds one call of the kernel.
const patience = 2 * time.Minute

// Serve mounts the snapshots of a list, which is of cat, at the directory dir, and returns when that was unmounted: by
// somebody else, or because ctx ended. A file system that is in use then vanishes for all who come later.
func Serve(ctx context.Context, repo *chunkstore.Repository, cat *snapshot.Catalog, list []snapshot.Summary, dir string, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	v := newView(repo, cat, o.Logger)
	long := 24 * time.Hour // nothing of a snapshot changes
	server, err := fs.Mount(dir, v.root(list), &fs.Options{
		MountOptions: fuse.MountOptions{
			AllowOther: o.AllowOther, Options: []string{"default_permissions"}, DirectMount: true,
			DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY, FsName: "hakobune", Name: "hakobune",
			MaxReadAhead: 1 << 20,
		},
		EntryTimeout: &long, AttrTimeout: &long, NullPermissions: true,
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	unmounted := make(chan struct{})
	go func() {
		server.Wait()
		close(unmounted)
	}()
	if o.Ready != nil {
		o.Ready()
	}
	select {
	case <-unmounted:
		return nil
	case <-ctx.Done():
	}
	if err := server.Unmount(); err != nil { // somebody is in it
		if lazy := unix.Unmount(dir, unix.MNT_DETACH); lazy != nil {
			return fmt.Errorf("unmount %s: %w", dir, errors.Join(err, lazy))
		}
		return nil
	}
	<-unmounted
	return nil
}

// root has a directory for each system.
func (v *view) root(list []snapshot.Summary) *static {
	systems := map[string][]snapshot.Summary{}
	var names []string
	for _, s := range list {
		if systems[s.System] == nil {
			names = append(names, s.System)
		}
		systems[s.System] = append(systems[s.System], s)
	}
	slices.Sort(names)
	return v.fixed(func(context.Context) ([]item, error) {
		var items []item
		for _, name := range names {
			items = append(items, item{escape(name), unix.S_IFDIR, func() fs.InodeEmbedder { return v.system(systems[name]) }})
		}
		return items, nil
	})
}

// system has a directory for each snapshot, and a link to the newest that is of the system's own history.
func (v *view) system(list []snapshot.Summary) *static {
	return v.fixed(func(context.Context) ([]item, error) {
		var items []item
		newest := -1
		for i, s := range list {
			items = append(items, item{dirName(s), unix.S_IFDIR, func() fs.InodeEmbedder { return v.snapshot(s) }})
			if !s.Stray && (newest < 0 || s.Time.After(list[newest].Time)) {
				newest = i
			}
		}
		if newest >= 0 {
			target := dirName(list[newest])
			items = append(items, item{snapshot.Latest, unix.S_IFLNK, func() fs.InodeEmbedder { return &fs.MemSymlink{Data: []byte(target)} }})
		}
		return items, nil
	})
}

// dirName names a snapshot so that names sort by time.
func dirName(s snapshot.Summary) string {
	return s.Time.UTC().Format("2006-01-02T15.04.05Z") + "-" + s.ID[:min(8, len(s.ID))]
}

// escape makes a name of anything.
func escape(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// snapshot has what a snapshot holds.
func (v *view) snapshot(s snapshot.Summary) *static {
	return v.fixed(func(ctx context.Context) ([]item, error) {
		snap, err := v.cat.Load(ctx, s)
		if err != nil {
			return nil, err
		}
		text, err := json.MarshalIndent(snap, "", "  ")
		if err != nil {
			return nil, err
		}
		containers, volumes, binds := map[string]*snapshot.Archive{}, map[string]*snapshot.Archive{}, map[string]*snapshot.Archive{}
		for _, c := range snap.System.Containers {
			containers[c.Name] = c.Changes
		}
		for _, vol := range snap.System.Volumes {
			volumes[vol.Name] = vol.Content
		}
		for _, b := range snap.System.Binds {
			binds[b.Source] = b.Content
		}
		return []item{
			{"binds", unix.S_IFDIR, func() fs.InodeEmbedder { return v.parts(binds) }},
			{"containers", unix.S_IFDIR, func() fs.InodeEmbedder { return v.parts(containers) }},
			{"system.json", unix.S_IFREG, func() fs.InodeEmbedder {
				return &fs.MemRegularFile{Data: append(text, '\n'), Attr: fuse.Attr{Mode: 0o400}} // environments have secrets
			}},
			{"volumes", unix.S_IFDIR, func() fs.InodeEmbedder { return v.parts(volumes) }},
		}, nil
	})
}

// parts has the trees of one kind, but those that were recorded and not read.
func (v *view) parts(trees map[string]*snapshot.Archive) *static {
	return v.fixed(func(context.Context) ([]item, error) {
		var items []item
		for name, tree := range trees {
			if tree != nil {
				p := v.part(tree.Records)
				items = append(items, item{escape(name), unix.S_IFDIR, func() fs.InodeEmbedder { return &node{p: p} }})
			}
		}
		slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.name, b.name) })
		return items, nil
	})
}
