package archive

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// TarTree is a Tree made of a tar that an engine gave: of a whole file system, or of one layer. The
// contents lie in a file without a name, the nodes in memory (about 500 bytes each). No node has a
// CTime, so none is taken for unchanged; chunks are recognised all the same.
type TarTree struct {
	file  *os.File
	nodes []tarNode // in Compare order
}

var _ Tree = (*TarTree)(nil)

type tarNode struct {
	Entry
	off int64 // of the content in file
}

// TarTreeOptions are the options of NewTarTree.
type TarTreeOptions struct {
	// Layer says that the tar is an image layer: names of whiteouts mean what they say there.
	Layer bool
	// Dir is where the contents are kept meanwhile, empty means the directory for temporary files.
	// It needs room for all of them.
	Dir string
}

// NewTarTree reads a tar to its end. It refuses one that does not end as a tar must, with two
// blocks of zeros: engines are known to end a tar early without an error. Of several entries of one
// name the last one counts. Close must be called.
func NewTarTree(r io.Reader, o TarTreeOptions) (*TarTree, error) {
	f, err := UnnamedFile(o.Dir)
	if err != nil {
		return nil, err
	}
	p := tarParser{
		in: counter{r: bufio.NewReaderSize(r, 64<<10)}, out: bufio.NewWriterSize(f, 256<<10), layer: o.Layer,
		names: map[string]int{}, hidden: map[string]bool{}, opaque: map[string]bool{},
	}
	p.tr = tar.NewReader(&p.in)
	if err := p.parse(); err != nil {
		return nil, errors.Join(fmt.Errorf("tar: %w", err), f.Close())
	}
	return &TarTree{file: f, nodes: p.nodes}, nil
}

// UnnamedFile opens a file in a directory, os.TempDir if that is empty, that has no name and goes away with the process.
func UnnamedFile(dir string) (*os.File, error) {
	dir = cmp.Or(dir, os.TempDir())
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil {
		return f, nil
	}
	f, err = os.CreateTemp(dir, ".hakobune-*") // a file system that cannot do the former
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("temporary file: %w", err), f.Close())
	}
	return f, nil
}

// Walk implements Tree.
func (t *TarTree) Walk(ctx context.Context, fn func(Entry) error) error {
	for i := range t.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(t.nodes[i].Entry); err != nil {
			return err
		}
	}
	return nil
}

// Open implements Tree.
func (t *TarTree) Open(_ context.Context, e Entry) (Content, error) {
	i, ok := slices.BinarySearchFunc(t.nodes, e.Path, func(n tarNode, path string) int { return Compare(n.Path, path) })
	if !ok || t.nodes[i].Type != File {
		return nil, fmt.Errorf("open %q: %w", e.Path, ErrVanished)
	}
	n := &t.nodes[i]
	return &tarContent{node: n, r: io.NewSectionReader(t.file, n.off, n.Size)}, nil
}

// Close frees the contents.
func (t *TarTree) Close() error { return t.file.Close() }

// tarContent is one extent of data.
type tarContent struct {
	node  *tarNode
	r     *io.SectionReader
	given bool
}

func (c *tarContent) Next() (int64, bool, error) {
	if c.given || c.node.Size == 0 {
		return 0, false, io.EOF
	}
	c.given = true
	return c.node.Size, false, nil
}

func (c *tarContent) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *tarContent) Stat() (Entry, error) { return c.node.Entry, nil }

func (c *tarContent) Close() error { return nil }

// counter counts what was read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// tarParser makes nodes of a tar.
type tarParser struct {
	in    counter
	tr    *tar.Reader
	out   *bufio.Writer
	off   int64 // written to out
	layer bool

	nodes  []tarNode
	names  map[string]int  // in nodes
	hidden map[string]bool // by a whiteout
	opaque map[string]bool
}

const tarBlock = 512

func (p *tarParser) parse() error {
	for {
		// All of the entry before has been read, but for the padding to a whole block.
		end := (p.in.n + tarBlock - 1) / tarBlock * tarBlock
		h, err := p.tr.Next()
		if errors.Is(err, io.EOF) {
			if p.in.n != end+2*tarBlock {
				return errors.New("it ends without the two blocks of zeros that mark its end")
			}
			break
		}
		if err == nil {
			err = p.entry(h)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, p.tr)
		}
		if err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, p.in.r); err != nil {
		return err
	}
	if err := p.out.Flush(); err != nil {
		return err
	}
	return p.finish()
}

func (p *tarParser) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := tarName(h.Name)
	if err != nil {
		return err
	}
	if p.layer && markerName(name) {
		return p.marker(name)
	}
	n, err := p.node(h, name)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if i, ok := p.names[name]; ok {
		p.nodes[i] = n
		return nil
	}
	p.names[name] = len(p.nodes)
	p.nodes = append(p.nodes, n)
	return nil
}

// tarName makes a path of a name in a tar.
func tarName(name string) (string, error) {
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == "." {
		return "", nil
	}
	if err := validPath(p); err != nil {
		return "", fmt.Errorf("%q: %w", name, err)
	}
	return p, nil
}

// marker takes note of a whiteout. Other reserved names have no meaning.
func (p *tarParser) marker(name string) error {
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	switch hides, ok := strings.CutPrefix(base, whiteoutPrefix); {
	case base == opaqueName:
		p.opaque[dir] = true
	case strings.HasPrefix(base, whiteoutMeta) || !ok:
		// what the aufs driver kept for itself
	case hides == "" || hides == "." || hides == "..":
		return fmt.Errorf("%q: whiteout of no name", name)
	default:
		p.hidden[path.Join(dir, hides)] = true
	}
	return nil
}

func (p *tarParser) node(h *tar.Header, name string) (n tarNode, err error) {
	if h.Typeflag == tar.TypeLink {
		return p.linked(h, name)
	}
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return n, fmt.Errorf("owner %d:%d", h.Uid, h.Gid)
	}
	n.Entry = Entry{
		Path: name, Mode: uint32(h.Mode) & maxMode, UID: uint32(h.Uid), GID: uint32(h.Gid),
		MTime: Time{Sec: h.ModTime.Unix(), Nsec: int32(h.ModTime.Nanosecond())},
		Ino:   uint64(p.in.n), // of its header's end: no other node has it
		Nlink: 1,
	}
	if n.Xattrs, err = tarXattrs(h); err != nil {
		return n, err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.Type = File
		n.off = p.off
		n.Size, err = io.Copy(p.out, p.tr)
		p.off += n.Size
	case tar.TypeDir:
		n.Type = Dir
	case tar.TypeSymlink:
		n.Type, n.Link = Symlink, h.Linkname
	case tar.TypeChar:
		n.Type = CharDevice
	case tar.TypeBlock:
		n.Type = BlockDevice
	case tar.TypeFifo:
		n.Type = FIFO
	default:
		err = fmt.Errorf("entry of type %q", h.Typeflag)
	}
	if n.Type == CharDevice || n.Type == BlockDevice {
		n.Rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	return n, err
}

// linked makes a further name of a node that came before.
func (p *tarParser) linked(h *tar.Header, name string) (tarNode, error) {
	target, err := tarName(h.Linkname)
	if err != nil {
		return tarNode{}, err
	}
	i, ok := p.names[target]
	if !ok || p.nodes[i].Type == Dir {
		return tarNode{}, fmt.Errorf("hard link to %q, which is not there", target)
	}
	n := p.nodes[i]
	n.Path = name
	return n, nil
}

func tarXattrs(h *tar.Header) ([]Xattr, error) {
	var xs []Xattr
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok {
			xs = append(xs, Xattr{Name: name, Value: []byte(v)})
		}
	}
	slices.SortFunc(xs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xs, validXattrs(xs)
}

// finish puts the nodes in order and sees to what concerns several.
func (p *tarParser) finish() error {
	names := map[uint64]uint32{}
	for i := range p.nodes {
		names[p.nodes[i].Ino]++
	}
	for i := range p.nodes {
		p.nodes[i].Nlink = names[p.nodes[i].Ino]
	}
	p.markers()
	slices.SortFunc(p.nodes, func(a, b tarNode) int { return Compare(a.Path, b.Path) })
	var o order
	for i := range p.nodes {
		if err := o.next(&p.nodes[i].Entry); err != nil {
			return fmt.Errorf("%q: %w", p.nodes[i].Path, err)
		}
	}
	return nil
}

// markers gives the nodes what the whiteouts of a layer say of them. A name that is hidden below and
// there again is what an overlay calls opaque, if it is a directory.
func (p *tarParser) markers() {
	for name := range p.opaque {
		if i, ok := p.names[name]; ok {
			p.nodes[i].Opaque = p.nodes[i].Type == Dir
		} else {
			p.names[name] = len(p.nodes)
			p.nodes = append(p.nodes, tarNode{Entry: Entry{Path: name, Type: Dir, Mode: 0o755, Opaque: true}})
		}
	}
	for name := range p.hidden {
		if i, ok := p.names[name]; ok {
			p.nodes[i].Opaque = p.nodes[i].Type == Dir
		} else {
			p.nodes = append(p.nodes, tarNode{Entry: Entry{Path: name, Type: Whiteout}})
		}
	}
}
