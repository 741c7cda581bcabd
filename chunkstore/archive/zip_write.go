package archive

import (
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// WriteZip writes the part of a tree at path and beneath as a zip, for people whose system has
// nothing for a tar. A zip carries files, directories and symbolic links, their permissions and times
// to the second; owners, extended attributes and holes are not in it and not told of. Further names
// of a file become files of their own. What else is left out is returned.
func WriteZip(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream, path string, w io.Writer) ([]Lost, error) {
	t, err := OpenSubtree(ctx, repo, st, path)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	buf := bufio.NewWriterSize(w, 64<<10)
	zw := &zipWriter{tree: t, w: zip.NewWriter(buf), repo: repo, linked: map[string]*Entry{}}
	if err := zw.findLinked(ctx); err != nil {
		return nil, err
	}
	for {
		e, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err = errors.Join(err, ctx.Err()); err == nil {
			err = zw.add(ctx, &e)
		}
		if err != nil {
			return nil, err
		}
	}
	return zw.lost, errors.Join(zw.w.Close(), buf.Flush())
}

type zipWriter struct {
	tree   *TreeReader
	w      *zip.Writer
	repo   *chunkstore.Repository
	lost   []Lost
	linked map[string]*Entry // files that have a further name, by their first one
}

// findLinked looks ahead for nodes with several names.
func (zw *zipWriter) findLinked(ctx context.Context) error {
	for e, err := range zw.tree.entries(ctx) {
		if err != nil {
			return err
		}
		if e.Type == Hardlink {
			zw.linked[e.Link] = nil
		}
	}
	return nil
}

// add writes one entry, or notes why not.
func (zw *zipWriter) add(ctx context.Context, e *Entry) error {
	if _, ok := zw.linked[e.Path]; ok {
		zw.linked[e.Path] = e
	}
	var err error
	switch e.Type {
	case Dir:
		if e.Path != "" {
			err = zw.node(e, e.Path+"/", fs.ModeDir, strings.NewReader(""))
		}
	case File:
		err = zw.node(e, e.Path, 0, zw.tree.Filled(*e))
	case Symlink:
		err = zw.node(e, e.Path, fs.ModeSymlink, strings.NewReader(e.Link))
	case Hardlink:
		err = zw.further(ctx, e)
	default:
		zw.lost = append(zw.lost, Lost{e.Path, e.Type.String()})
	}
	if err != nil {
		return fmt.Errorf("zip %q: %w", e.Path, err)
	}
	return nil
}

// further writes a further name of a node.
func (zw *zipWriter) further(ctx context.Context, e *Entry) error {
	first := zw.linked[e.Link]
	if first == nil {
		return fmt.Errorf("%w: hard link to %q, which is not there", ErrFormat, e.Link)
	}
	again := *first
	again.Path = e.Path
	if first.Type != File {
		return zw.add(ctx, &again)
	}
	one := func(yield func(Entry, error) bool) { yield(again, nil) }
	content := &TreeReader{path: e.Path, inline: again.Inline, data: zw.repo.Read(ctx, contentRefs(one))}
	for _, x := range again.Extents {
		if !x.Hole {
			content.left += x.Length
		}
	}
	return errors.Join(zw.node(&again, e.Path, 0, content.Filled(again)), content.data.Close())
}

func (zw *zipWriter) node(e *Entry, name string, kind fs.FileMode, content io.Reader) error {
	h := &zip.FileHeader{Name: name, Modified: time.Unix(e.MTime.Sec, int64(e.MTime.Nsec)), Method: zip.Deflate, NonUTF8: !utf8.ValidString(name)}
	h.SetMode(kind | permissions(e.Mode))
	if kind == fs.ModeDir {
		h.Method = zip.Store
	}
	w, err := zw.w.CreateHeader(h)
	if err != nil || kind == fs.ModeDir {
		return err
	}
	_, err = io.Copy(w, content)
	return err
}

// permissions is Entry.Mode as Go has it.
func permissions(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
