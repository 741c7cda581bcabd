package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// TarOptions say what a tar is for.
type TarOptions struct {
	// Layer makes an image layer of the tree of a read-write layer: whiteouts and opaque
	// directories by the names that engines know, and nothing that an engine would take for such.
	// Without it the tar is for tar programs, and for the archive API of engines.
	Layer bool
}

// Lost is something of a tree that a tar cannot carry.
type Lost struct {
	Path string
	Why  string
}

// The names by which a layer says that something below is hidden.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

const (
	xattrRecord = "SCHILY.xattr."
	xattrSpace  = 900 << 10 // of one node: archive/tar and engines refuse extended headers above 1 MiB
)

// WriteTar writes a tree, read from its start, as a tar in PAX format: times with nanoseconds,
// extended attributes, names and ids of any length. The same tree always gives the same bytes.
// Holes are filled. What a tar cannot carry is left out, the rest of its node is not, and all of it
// is returned.
func WriteTar(ctx context.Context, t *TreeReader, w io.Writer, opts TarOptions) ([]Lost, error) {
	buf := bufio.NewWriterSize(w, 64<<10)
	tw := &tarWriter{tree: t, w: tar.NewWriter(buf), layer: opts.Layer, out: map[string]bool{}}
	if err := tw.findLinked(ctx); err != nil {
		return nil, err
	}
	for {
		e, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = tw.add(&e)
		}
		if err != nil {
			return nil, err
		}
	}
	return tw.lost, errors.Join(tw.w.Close(), buf.Flush())
}

type tarWriter struct {
	tree  *TreeReader
	w     *tar.Writer
	layer bool
	lost  []Lost

	linked map[string]*tar.Header // of nodes that have a further name, by their first one
	out    map[string]bool        // of these, the ones that were left out
}

// findLinked looks ahead for nodes with several names. Whoever unpacks a hard link gives the node
// the mode, owner and time that the link's header has, so it must be those of the node; and its
// attributes, because a new owner takes the capabilities of a file away, even if it is the old one.
func (tw *tarWriter) findLinked(ctx context.Context) error {
	tw.linked = map[string]*tar.Header{}
	for e, err := range tw.tree.entries(ctx) {
		if err != nil {
			return err
		}
		if e.Type == Hardlink {
			tw.linked[e.Link] = nil
		}
	}
	return nil
}

func (tw *tarWriter) lose(path, why string) { tw.lost = append(tw.lost, Lost{path, why}) }

// add writes one entry, or says why not.
func (tw *tarWriter) add(e *Entry) error {
	if why := tw.refuse(e); why != "" {
		tw.lose(e.Path, why)
		tw.out[e.Path] = true
		return nil
	}
	if e.Type == Whiteout {
		dir, name := path.Split(e.Path)
		return tw.marker(dir + whiteoutPrefix + name)
	}
	if err := tw.node(e); err != nil {
		return fmt.Errorf("tar %q: %w", e.Path, err)
	}
	if !e.Opaque {
		return nil
	}
	if !tw.layer {
		tw.lose(e.Path, "that it hides what lies below")
		return nil
	}
	return tw.marker(path.Join(e.Path, opaqueName))
}

// refuse returns why a node cannot be in the tar at all.
func (tw *tarWriter) refuse(e *Entry) string {
	switch {
	case e.Type == Socket:
		return "socket"
	case e.Type == Whiteout && !tw.layer:
		return "whiteout"
	case e.Type == CharDevice && e.Rdev == 0 && tw.layer:
		return "device 0:0, which a layer takes for a whiteout"
	case tw.layer && markerName(e.Path):
		return "name that a layer takes for a whiteout"
	case e.Type == Hardlink && tw.out[e.Link]:
		return "hard link to what is left out"
	case (e.Type == CharDevice || e.Type == BlockDevice) && (unix.Major(e.Rdev) > maxDevice || unix.Minor(e.Rdev) > maxDevice):
		return "device number"
	}
	return ""
}

// maxDevice is what a device field holds: seven octal digits.
const maxDevice = 1<<21 - 1

// markerName says whether some part of the path is a name that layers reserve.
func markerName(path string) bool {
	return strings.HasPrefix(path, whiteoutPrefix) || strings.Contains(path, "/"+whiteoutPrefix)
}

// marker writes an empty file whose name is all that it says.
func (tw *tarWriter) marker(name string) error {
	return tw.w.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)})
}

func (tw *tarWriter) node(e *Entry) error {
	h, err := tw.header(e)
	if err != nil {
		return err
	}
	if _, ok := tw.linked[e.Path]; ok {
		tw.linked[e.Path] = h
	}
	if err := tw.w.WriteHeader(h); err != nil {
		return err
	}
	if e.Type != File {
		return nil
	}
	_, err = io.Copy(tw.w, tw.tree.Filled(*e))
	return err
}

func (tw *tarWriter) header(e *Entry) (*tar.Header, error) {
	h := &tar.Header{Format: tar.FormatPAX, Name: e.Path}
	if e.Type == Hardlink {
		first := tw.linked[e.Link]
		if first == nil {
			return nil, fmt.Errorf("%w: hard link to %q, which is not there", ErrFormat, e.Link)
		}
		h.Typeflag, h.Linkname = tar.TypeLink, e.Link
		h.Mode, h.Uid, h.Gid, h.ModTime, h.PAXRecords = first.Mode, first.Uid, first.Gid, first.ModTime, first.PAXRecords
		return h, nil
	}
	h.Mode, h.Uid, h.Gid = int64(e.Mode), int(e.UID), int(e.GID)
	h.ModTime = tw.time(e)
	h.PAXRecords = tw.xattrs(e)
	switch e.Type {
	case Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		if e.Path == "" {
			h.Name = "./"
			tw.root(e)
		}
	case File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case FIFO:
		h.Typeflag = tar.TypeFifo
	case CharDevice, BlockDevice:
		h.Typeflag = tar.TypeChar
		if e.Type == BlockDevice {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(e.Rdev)), int64(unix.Minor(e.Rdev))
	}
	return h, nil
}

// root says what engines make of the root of a layer: they pass its entry over (seen with 20.10 and
// 29), and the root of a container is as they made it.
func (tw *tarWriter) root(e *Entry) {
	if tw.layer && (e.Mode != 0o755 || e.UID != 0 || e.GID != 0 || len(e.Xattrs) > 0) {
		tw.lose(e.Path, "owner, mode and attributes of the root directory")
	}
}

// time returns a node's time. Engines make 1970 of all that was before, so a layer says so itself.
func (tw *tarWriter) time(e *Entry) time.Time {
	if tw.layer && e.MTime.Sec < 0 {
		tw.lose(e.Path, "time before 1970")
		return time.Unix(0, 0)
	}
	return time.Unix(e.MTime.Sec, int64(e.MTime.Nsec))
}

func (tw *tarWriter) xattrs(e *Entry) map[string]string {
	records := map[string]string{}
	space := xattrSpace
	for _, x := range e.Xattrs {
		space -= len(x.Name) + len(x.Value) + 32
		switch {
		case strings.Contains(x.Name, "="):
			tw.lose(e.Path, "extended attribute "+x.Name+", for its name")
		case space < 0:
			tw.lose(e.Path, "extended attribute "+x.Name+", for its size")
		case len(x.Value) == 0:
			// POSIX lets an empty value delete a record, and so do tar programs and Docker 20.10;
			// Docker 29 makes an empty attribute of it.
			tw.lose(e.Path, "extended attribute "+x.Name+", which has no value")
			records[xattrRecord+x.Name] = ""
		case tw.layer && strings.HasPrefix(x.Name, "trusted."):
			// Docker 20.10 sets it, containerd passes it over.
			tw.lose(e.Path, "extended attribute "+x.Name+", which not every engine takes")
			records[xattrRecord+x.Name] = string(x.Value)
		default:
			records[xattrRecord+x.Name] = string(x.Value)
		}
	}
	return records
}
