package importer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// IntoDir writes a snapshot as plain files into a directory, which must be empty or not exist; no
// engine is needed:
//
//	containers/NAME/rootfs-changes   what the container wrote on top of its image
//	containers/NAME/rootfs-deleted   what it deleted there, a line for each: deleted "PATH", or
//	                                 replaced "PATH" of a directory of which nothing is left
//	volumes/NAME                     the content of a volume
//	binds/PATH                       the content of a bind mount, below its path on the host
//	inspect/KIND/NAME.json           what the engine said of containers, volumes, networks, images
//	system.json                      the whole description; written last
//
// The notes say what could not be restored, which is much without root. After a failure the
// directory is empty again, or gone if it was not there.
func IntoDir(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, dir string, observer snapshot.Observer) (notes []snapshot.Problem, err error) {
	w := &dirWriter{repo: repo, snap: snap, dir: dir, observer: observer}
	state, err := pathState(dir)
	if err != nil {
		return nil, fmt.Errorf("restore into directory: %w", err)
	}
	switch state {
	case PathDir:
		return nil, fmt.Errorf("restore into directory %s: %w", dir, extract.ErrNotEmpty)
	case PathFile:
		return nil, fmt.Errorf("restore into directory %s: it is a file", dir)
	case PathAbsent:
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("restore into directory: %w", err)
		}
	}
	if err := w.write(ctx); err != nil {
		if state == PathAbsent {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		return nil, errors.Join(err, emptyDir(dir))
	}
	return w.notes, nil
}

type dirWriter struct {
	repo     *chunkstore.Repository
	snap     *snapshot.Snapshot
	dir      string
	observer snapshot.Observer

	mu    sync.Mutex
	notes []snapshot.Problem
}

func (w *dirWriter) note(where, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, snapshot.Problem{Where: where, What: what})
}

func (w *dirWriter) write(ctx context.Context) error {
	for _, p := range w.snap.System.Problems {
		w.note(p.Where, "not in the snapshot: "+p.What)
	}
	trees, err := w.trees()
	if err != nil {
		return err
	}
	m := &meter{observer: w.observer, event: snapshot.Event{Phase: "files"}}
	for _, t := range trees {
		m.event.Total += t.content.Bytes
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fillers)
	for _, t := range trees {
		g.Go(func() error { return w.tree(gctx, t, m) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	m.whole()
	if err := w.inspections(); err != nil {
		return err
	}
	return w.json("system.json", w.snap)
}

// fileTree is a tree of the snapshot and where it goes.
type fileTree struct {
	what    string
	content *snapshot.Archive
	to      string // below the directory
	deleted string // file for the whiteouts; empty: the tree has none
	file    bool   // the tree holds one file, which goes into to
}

func (w *dirWriter) trees() ([]fileTree, error) {
	var ts []fileTree
	sys := &w.snap.System
	for _, c := range sys.Containers {
		if err := fileName(c.Name); err != nil {
			return nil, err
		}
		if c.Changes != nil {
			home := filepath.Join("containers", c.Name)
			ts = append(ts, fileTree{"container " + c.Name, c.Changes, filepath.Join(home, "rootfs-changes"), filepath.Join(home, "rootfs-deleted"), false})
		}
	}
	for _, v := range sys.Volumes {
		if err := fileName(v.Name); err != nil {
			return nil, err
		}
		if v.Content != nil {
			ts = append(ts, fileTree{"volume " + v.Name, v.Content, filepath.Join("volumes", v.Name), "", false})
		}
	}
	for _, b := range sys.Binds {
		if b.Content == nil || partOfAnother(b, sys.Binds) {
			continue
		}
		// Cleaned as an absolute path it cannot lead upwards.
		to := filepath.Join("binds", filepath.FromSlash(path.Clean("/"+b.Source)))
		if b.File {
			to = filepath.Dir(to)
		}
		ts = append(ts, fileTree{"bind " + b.Source, b.Content, to, "", b.File})
	}
	return ts, nil
}

// partOfAnother reports whether another bind of the system holds the content of b with its own.
// No two trees then share a directory, so that no link in one leads another astray.
func partOfAnother(b snapshot.Bind, all []snapshot.Bind) bool {
	for _, o := range all {
		if rest, ok := under(b.Source, o.Source); ok && rest != "" && o.Content != nil && !o.File {
			return true
		}
	}
	return false
}

// engineName is what engines allow as names of containers and volumes.
var engineName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// fileName refuses a name from a snapshot that could lead out of a directory.
func fileName(name string) error {
	if !engineName.MatchString(name) {
		return fmt.Errorf("name %q: not one that an engine allows", name)
	}
	return nil
}

func (w *dirWriter) tree(ctx context.Context, t fileTree, m *meter) error {
	reader := archive.OpenTree(ctx, w.repo, t.content.Records)
	source := &keptTree{tree: reader, Reader: m.reader(reader, t.what)}
	opts := extract.Options{KeepRoot: t.file, Note: func(path, what string) {
		if path != "" {
			path = ": " + path
		}
		w.note(t.what+path, what)
	}}
	if t.file { // beside others, in a directory that is not its own
		opts.Existing = extract.Keep
	}
	_, err := extract.Tree(ctx, source, filepath.Join(w.dir, t.to), opts)
	if err := errors.Join(err, reader.Close()); err != nil {
		return fmt.Errorf("%s: %w", t.what, err)
	}
	if t.deleted == "" {
		return nil
	}
	return w.file(t.deleted, source.deleted.Bytes())
}

// keptTree is a read-write layer's tree without its deletions, which are written down instead.
type keptTree struct {
	tree *archive.TreeReader
	io.Reader
	deleted bytes.Buffer
}

func (t *keptTree) Next() (archive.Entry, error) {
	for {
		e, err := t.tree.Next()
		switch {
		case err != nil:
			return e, err
		case e.Type == archive.Whiteout:
			t.deleted.WriteString("deleted " + strconv.Quote(e.Path) + "\n")
			continue
		case e.Opaque:
			t.deleted.WriteString("replaced " + strconv.Quote(e.Path) + "\n")
			e.Opaque = false
		}
		return e, nil
	}
}

func (w *dirWriter) inspections() error {
	sys := &w.snap.System
	for _, c := range sys.Containers {
		if err := w.inspection("containers", c.Name, c.Inspect); err != nil {
			return err
		}
	}
	for _, v := range sys.Volumes {
		if err := w.inspection("volumes", v.Name, v.Inspect); err != nil {
			return err
		}
	}
	for _, n := range sys.Networks {
		if err := w.inspection("networks", n.Name, n.Inspect); err != nil {
			return err
		}
	}
	for _, i := range sys.Images {
		if err := w.inspection("images", shortDigest(i.Config), i.Inspect); err != nil {
			return err
		}
	}
	return nil
}

func (w *dirWriter) inspection(kind, name string, inspect json.RawMessage) error {
	if err := fileName(name); err != nil {
		return err
	}
	if len(inspect) == 0 {
		return nil
	}
	return w.json(filepath.Join("inspect", kind, name+".json"), inspect)
}

func (w *dirWriter) json(name string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.file(name, append(data, '\n'))
}

// file writes a file that only its owner reads: inspections hold passwords.
func (w *dirWriter) file(name string, data []byte) error {
	to := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return WriteFile(to, func(f io.Writer) error {
		_, err := f.Write(data)
		return err
	})
}
