package archive

import (
	"context"
	"hash/crc32"
	"io"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Sizes that decide how contents are cut. A reader does not depend on them; contents that are to
// be recognised do, so they are constants of the format.
const (
	smallMax    = 128 << 10 // a larger file is cut on its own
	bundleMax   = 2 << 20   // bytes of a bundle of smaller ones
	segmentSize = 64 << 20  // a large file is cut as independent segments of this many bytes
)

// Saver takes chunks: a *chunkstore.Session. Its methods are called from several goroutines.
type Saver interface {
	// Save stores plain as one chunk; plain is the caller's again when it returns.
	Save(ctx context.Context, kind chunkstore.Kind, plain []byte) (chunkstore.ID, error)
	// Split cuts r by content and stores the chunks, to r's end.
	Split(ctx context.Context, kind chunkstore.Kind, r io.Reader) ([]chunkstore.Ref, error)
	// Keep reports whether all of ids are in the repository and stay: they belong to this snapshot then.
	Keep(ids ...chunkstore.ID) bool
}

// bundle gathers the contents of small files, in order, into one chunk. It is cut after a path
// that says so by its hash, so that no neighbour's content has a say in where the next one
// begins, and before it would grow too large.
type bundle struct {
	saver Saver
	buf   []byte
	wait  []*chunkstore.ID // references that get the chunk's ID when it is saved
}

// add appends data, the content of the file at path, and returns a reference to it. Its ID is set
// later, in place: by the call that cuts the bundle. Refs made of it are to be announced by await.
func (b *bundle) add(ctx context.Context, data []byte) (chunkstore.Ref, error) {
	if len(b.buf)+len(data) > bundleMax {
		if err := b.cut(ctx); err != nil {
			return chunkstore.Ref{}, err
		}
	}
	ref := chunkstore.Ref{Offset: uint32(len(b.buf)), Length: uint32(len(data))}
	b.buf = append(b.buf, data...)
	return ref, nil
}

// await has the IDs of refs set when the bundle is cut.
func (b *bundle) await(refs []chunkstore.Ref) {
	for i := range refs {
		b.wait = append(b.wait, &refs[i].ID)
	}
}

// empty reports whether every reference has its ID.
func (b *bundle) empty() bool { return len(b.buf) == 0 }

// cut saves what was gathered.
func (b *bundle) cut(ctx context.Context) error {
	if b.empty() {
		return nil
	}
	id, err := b.saver.Save(ctx, chunkstore.Data, b.buf)
	if err != nil {
		return err
	}
	for _, p := range b.wait {
		*p = id
	}
	b.buf, b.wait = b.buf[:0], b.wait[:0]
	return nil
}

// endsBundle says whether a bundle ends after the small file at path: one path in 256 does.
func endsBundle(path string) bool { return crc32.ChecksumIEEE([]byte(path))&255 == 0 }

// spread divides refs, which make up the data of extents back to back, among the extents. It cuts
// a reference where an extent ends.
func spread(extents []Extent, refs []chunkstore.Ref) {
	for i := range extents {
		x := &extents[i]
		for left := x.Length; !x.Hole && left > 0 && len(refs) > 0; {
			r := refs[0]
			if int64(r.Length) > left {
				r.Length = uint32(left)
				refs[0].Offset += r.Length
				refs[0].Length -= r.Length
			} else {
				refs = refs[1:]
			}
			x.Refs = append(x.Refs, r)
			left -= int64(r.Length)
		}
	}
}

// join appends extents to a file's extents and merges what belongs together.
func join(all, more []Extent) []Extent {
	for _, x := range more {
		if n := len(all); n > 0 && all[n-1].Hole == x.Hole {
			all[n-1].Length += x.Length
			all[n-1].Refs = append(all[n-1].Refs, x.Refs...)
			continue
		}
		all = append(all, x)
	}
	return all
}
