// Package extract writes the tree of an archive into a directory: with all that its records say,
// durably, and without touching anything outside, whatever they say.
package extract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// Source gives the records of a tree in Compare order, the root first, and in lockstep the
// contents of its files.
type Source interface {
	// Next returns the next record, io.EOF after the last one. What was not read of the content of
	// the file before is skipped.
	Next() (archive.Entry, error)
	// Read reads the data of the file that Next returned: its data extents back to back, without
	// the holes; io.EOF at their end. What is Inline is not read. A file that the record calls Kept
	// has none: its content is what the directory has there, with Keep or Remove.
	io.Reader
}

// Existing says what Tree does with what is in the directory already.
type Existing uint8

// The ways to meet what exists.
const (
	Refuse Existing = iota // the directory has to be empty, but for lost+found
	Keep                   // what the tree does not have stays, what it has is replaced
	Remove                 // afterwards there is what the tree has, and nothing else
)

// ErrNotEmpty says that something is in a directory that was to be filled.
var ErrNotEmpty = errors.New("the directory is not empty")

// Options are options of Tree. The zero value fills an empty directory with everything.
type Options struct {
	// Overlay says that the directory is the upper directory of an overlay that is not mounted, of
	// a container that does not run: whiteouts and opaque directories are written as the overlay
	// driver of Linux wants them.
	Overlay bool
	// KeepRoot leaves owner, mode, times and attributes of the directory itself as they are.
	KeepRoot bool
	// Existing says what is done with what is there.
	Existing Existing
	// Note is told what of a node could not be restored: a device or an owner without the right to
	// make it, an attribute that the file system does not take. What concerns all nodes is noted
	// once, with an empty path.
	Note func(path, what string)
}

// Stats says what Tree did.
type Stats struct {
	Entries int64 // nodes made
	Bytes   int64 // of content written, without holes
	Notes   int64 // things that could not be restored
}

// Tree writes a tree into a directory, which is made if it is not there: owners, modes (setuid
// survives), extended attributes, times to the nanosecond, hard links, devices, FIFOs, sockets, and
// holes as holes. When it returns nil, all of that is on disk. When it fails the directory is
// incomplete, though no file in it has its name and half its content; which file it was that
// failed, the error says.
//
// Whatever the records say, nothing outside the directory is touched: each name is made in a
// directory that was itself opened from its parent, no symbolic link is ever followed, nor one that
// another process puts there meanwhile. A record that does not fit (a path with "..", one beneath
// something that is no directory of the tree, a second one of the same name) ends it.
//
// Without root what only root can do is noted and left out; of a file whose owner could not be set,
// the setuid and setgid bits are too.
func Tree(ctx context.Context, tree Source, dir string, opts Options) (Stats, error) {
	x := &extractor{opts: opts, tree: tree, buf: make([]byte, copyBuffer)}
	err := x.open(dir)
	if err == nil {
		err = x.run(ctx)
	}
	if err == nil {
		err = x.sync()
	}
	x.close()
	if err != nil {
		return x.stats, fmt.Errorf("extract into %q: %w", dir, err)
	}
	return x.stats, nil
}

// copyBuffer is how much content is written at a time.
const copyBuffer = 256 << 10

// extractor is one run of Tree.
type extractor struct {
	opts  Options
	tree  Source
	root  int     // the directory
	stack []level // directories being filled, from the root down; the last one is open
	last  string  // path of the record before
	none  map[string]bool
	alien bool // owners cannot be set, which was noted
	buf   []byte
	stats Stats
}

// level is a directory that is being filled. Its attributes are set when it is left, because
// filling it changes its times and may need more permissions.
type level struct {
	archive.Entry
	fd       int // -1: closed meanwhile, see openDirs
	ino, dev uint64
	there    bool     // it was there before
	extra    []string // sorted names that were there and that no record has met yet, with Remove
}

// openDirs is how many directories are kept open. Those further up are opened again, from the one
// below, when it is left.
const openDirs = 64

func (x *extractor) open(dir string) error {
	x.none, x.root = map[string]bool{}, -1
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	x.root = fd
	if x.opts.Existing != Refuse {
		return nil
	}
	names, err := listNames(fd)
	if err == nil && len(names) > 0 && (len(names) > 1 || names[0] != LostFound) {
		err = ErrNotEmpty
	}
	return err
}

// LostFound is the directory that the tools of ext4 make in every root.
const LostFound = "lost+found"

func (x *extractor) run(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := x.tree.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := x.add(ctx, &e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
	}
	if len(x.stack) == 0 {
		return fmt.Errorf("the tree has no root: %w", io.ErrUnexpectedEOF)
	}
	for len(x.stack) > 0 {
		if err := x.leave(); err != nil {
			return err
		}
	}
	return nil
}

// add makes the node of one record.
func (x *extractor) add(ctx context.Context, e *archive.Entry) error {
	if len(x.stack) == 0 {
		if e.Path != "" || e.Type != archive.Dir {
			return errors.New("the first record is not the root directory")
		}
		x.stats.Entries++
		return x.enterRoot(e)
	}
	name, err := x.place(e.Path)
	if err != nil {
		return err
	}
	if err := x.dropExtra(name); err != nil {
		return err
	}
	made, err := x.make(ctx, e, name)
	if made && err == nil {
		x.stats.Entries++
	}
	if !made && e.Type != archive.Whiteout {
		x.none[e.Path] = true
	}
	return err
}

// place leaves the directories that a path is not in, checks it, and returns its last element.
func (x *extractor) place(path string) (name string, err error) {
	if archive.Compare(x.last, path) >= 0 {
		return "", fmt.Errorf("comes after %q", x.last)
	}
	x.last = path
	for !beneath(path, x.top().Path) {
		if err := x.leave(); err != nil {
			return "", err
		}
	}
	name = path
	if dir := x.top().Path; dir != "" {
		name = path[len(dir)+1:]
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", errors.New("not a name in a directory of the tree")
	}
	return name, nil
}

// beneath tells whether a path begins with a directory of the tree. Everything does with the root.
func beneath(path, dir string) bool {
	return dir == "" || len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

func (x *extractor) top() *level { return &x.stack[len(x.stack)-1] }

func (x *extractor) note(path, format string, args ...any) {
	x.stats.Notes++
	if x.opts.Note != nil {
		x.opts.Note(path, fmt.Sprintf(format, args...))
	}
}

func (x *extractor) sync() error {
	if err := unix.Syncfs(x.root); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

func (x *extractor) close() {
	for _, l := range x.stack {
		if l.fd >= 0 {
			unix.Close(l.fd)
		}
	}
	if x.root >= 0 {
		unix.Close(x.root)
	}
}

// checkSize wants the extents of a file to be its size.
func checkSize(e *archive.Entry) error {
	left := e.Size
	if len(e.Inline) > 0 {
		left -= int64(len(e.Inline))
	}
	for _, extent := range e.Extents {
		if extent.Length < 0 || extent.Length > left {
			left = math.MinInt64
			break
		}
		left -= extent.Length
	}
	if left != 0 || len(e.Inline) > 0 && len(e.Extents) > 0 {
		return fmt.Errorf("the content does not fit its size of %d", e.Size)
	}
	return nil
}
