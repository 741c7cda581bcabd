package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Type is the type of a node in a tree. The values are part of the format.
type Type uint8

// The types of nodes.
const (
	Dir         Type = 1
	File        Type = 2
	Symlink     Type = 3
	Hardlink    Type = 4 // a further name of a node that came earlier in the same tree
	CharDevice  Type = 5
	BlockDevice Type = 6
	FIFO        Type = 7
	Socket      Type = 8
	Whiteout    Type = 9 // a read-write layer's note that the name below is deleted
)

// String returns the type in words, as find(1) and stat(1) say them.
func (t Type) String() string {
	words := [...]string{"", "directory", "file", "symlink", "hard link", "character device", "block device", "fifo", "socket", "whiteout"}
	if int(t) < len(words) && t > 0 {
		return words[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Time is a moment with nanoseconds that may lie before 1970.
type Time struct {
	Sec  int64
	Nsec int32
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Extent is a part of a file's content: a hole, or Length bytes made of Refs back to back.
type Extent struct {
	Length int64
	Hole   bool
	Refs   []chunkstore.Ref
}

// Entry is the canonical record of one node of a tree. Paths and names are bytes, not text: nothing
// here need be UTF-8.
type Entry struct {
	Path     string // slash-separated, relative, clean; the root is "" and comes first
	Type     Type
	Mode     uint32 // 07777: permissions, setuid, setgid, sticky
	UID, GID uint32
	Size     int64 // of a File, bytes
	MTime    Time
	CTime    Time   // zero: stat is not to be trusted for this node, read it again next time
	Ino      uint64 // tells an unchanged file from a replaced one; of no meaning on another host
	Dev      uint64 // with Ino tells hard links while walking; not recorded (it may change at a reboot)
	Nlink    uint32 // names of the node while walking; not recorded
	Rdev     uint64 // of devices, as st_rdev
	Link     string // target of a Symlink; of a Hardlink the Path of its first name in this tree
	Xattrs   []Xattr
	Opaque   bool // of a Dir in a read-write layer: nothing of the layer below shows through
	Torn     bool // changed while it was read: the content is a best effort
	Kept     bool // of OpenUpdate: a File whose content is that of the older tree, and is not here; not recorded

	// Content of a File: Inline for up to InlineMax bytes, else Extents in order, together Size.
	Inline  []byte
	Extents []Extent
}

// InlineMax is the size up to which a file's content sits in its record.
const InlineMax = 512

// Errors of one file that WriteTree handles: the file is left out of the tree and reported. Every
// other error of a Tree is one of the tree itself and ends the writing.
var (
	// ErrVanished says that a file is no longer there, or is no longer a file.
	ErrVanished = errors.New("vanished while the tree was read")
	// ErrUnreadable says that this one file cannot be read (EIO, EACCES): wrap it with the cause.
	ErrUnreadable = errors.New("unreadable")
)

// Tree is a directory tree as it stands: a directory of this host, or of another by way of a
// helper, or a tar that an engine made. Its owner closes what it holds.
type Tree interface {
	// Walk calls fn for every node in Compare order, from stat alone (no content). Nodes that
	// vanish while walking are left out. It stops with the first error of fn. Nodes are reported
	// raw, with Ino, Dev and Nlink: never as a Hardlink, WriteTree finds those.
	Walk(ctx context.Context, fn func(Entry) error) error

	// Open opens the content of a File that Walk reported. It may be called from several
	// goroutines, during Walk and after. What fails because of this one file wraps ErrVanished or
	// ErrUnreadable; so do the methods of the Content.
	Open(ctx context.Context, e Entry) (Content, error)
}

// StatWalker is a Tree that can leave extended attributes unread where they are known: where each
// change of one shows in the ctime, as it does on the usual file systems.
type StatWalker interface {
	// WalkStat is Walk that may ask known about a File before it reads its attributes. Where it
	// asks and the answer is true the File is reported next, and without Xattrs.
	WalkStat(ctx context.Context, known func(*Entry) bool, fn func(Entry) error) error
}

// RangeOpener is a Tree that can open a file in the middle, so that parts of one large file are
// read in parallel. The extents of the Content then cover the file from offset off on.
type RangeOpener interface {
	OpenAt(ctx context.Context, e Entry, off int64) (Content, error)
}

// Content is the open content of one file.
type Content interface {
	// Next advances to the next extent of the file, in order, and returns its length and whether
	// it is a hole; io.EOF after the last one. The extents cover the size that the file had when
	// it was opened. What was not read of the extent before is skipped.
	Next() (length int64, hole bool, err error)
	// Read reads from the current data extent, io.EOF at its end. A file that shrank meanwhile
	// reads as zeros: the extent's length is always kept.
	io.Reader
	// Stat describes the open file as it is now, after reading, to see whether it changed
	// meanwhile: what stat(2) says, as Walk would report it. Path and Xattrs need not be set.
	Stat() (Entry, error)
	io.Closer
}
