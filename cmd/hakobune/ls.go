package main

import (
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

func (p *program) lsCommand() *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list the files in a snapshot",
		ArgsUsage: "SNAPSHOT[:PART[/PATH]]",
		Description: `Without a part, lists the parts: each container (its changes on top of its image), volume and bind
mount. With one, lists its files, or those under PATH.

   hakobune ls shop
   hakobune ls shop:shop_db
   hakobune ls shop@2026-11-20:web/etc

` + selectorHelp,
		Flags:  filterFlags(),
		Action: p.ls,
	}
}

func (p *program) ls(c *cli.Context) error {
	selector, err := one(c, "a snapshot, or SNAPSHOT:PART/PATH")
	if err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	snap, sel, err := p.choose(c, repo, selector)
	if err != nil {
		return err
	}
	if sel.Part == "" {
		return p.lsParts(c, parts(&snap.System))
	}
	part, path, err := findPart(&snap.System, sel)
	if err != nil {
		return err
	}
	found := false
	for e, err := range archive.Records(c.Context, repo, part.tree.Records) {
		if err != nil {
			return err
		}
		if path == "" || e.Path == path || strings.HasPrefix(e.Path, path+"/") {
			found = true
			p.lsEntry(c, e)
		}
	}
	if !found {
		return fmt.Errorf("%s has no %s", part.name, path)
	}
	return nil
}

type partLine struct {
	Type    string `json:"message_type"`
	Part    string `json:"part"`
	Kind    string `json:"kind"`
	Read    bool   `json:"read"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
}

func (p *program) lsParts(c *cli.Context, list []part) error {
	t := newTable("Kind", "Part", "Entries", "Size")
	for _, x := range list {
		line := partLine{Type: "part", Part: x.name, Kind: x.kind, Read: x.tree != nil}
		if x.tree != nil {
			line.Entries, line.Bytes = x.tree.Entries, x.tree.Bytes
		}
		if isSet(c, "json") {
			writeJSON(p.out, line)
			continue
		}
		t.row(x.kind, x.name, fmt.Sprint(line.Entries), size(line.Bytes))
	}
	if !isSet(c, "json") {
		t.write(p.out)
	}
	return nil
}

type entryLine struct {
	Type string `json:"message_type"`
	entryFields
}

// entryFields is a node of a tree in JSON.
type entryFields struct {
	Path  string    `json:"path"` // bytes that are not UTF-8 as \xNN
	Kind  string    `json:"type"`
	Mode  string    `json:"mode"`
	UID   uint32    `json:"uid"`
	GID   uint32    `json:"gid"`
	Size  int64     `json:"size"`
	MTime time.Time `json:"mtime"`
	Link  string    `json:"link,omitempty"`
}

func newEntryFields(e archive.Entry) entryFields {
	return entryFields{printable(e.Path), e.Type.String(), fmt.Sprintf("%04o", e.Mode), e.UID, e.GID, e.Size, mtime(e), printable(e.Link)}
}

func mtime(e archive.Entry) time.Time { return time.Unix(e.MTime.Sec, int64(e.MTime.Nsec)) }

func (p *program) lsEntry(c *cli.Context, e archive.Entry) {
	if isSet(c, "json") {
		writeJSON(p.out, entryLine{"entry", newEntryFields(e)})
		return
	}
	fmt.Fprintln(p.out, entryText(e, "/"+e.Path))
}

// entryText shows a node as ls -l does, under the given name.
func entryText(e archive.Entry, name string) string {
	name = printable(name)
	if e.Link != "" {
		name += " -> " + printable(e.Link)
	}
	return fmt.Sprintf("%s %5d %5d %12d %s %s", modeString(e), e.UID, e.GID, e.Size, mtime(e).Local().Format(time.DateTime), name)
}

// modeString is the mode as ls -l shows it, with w for what a container deleted from its image.
func modeString(e archive.Entry) string {
	letter := map[archive.Type]string{
		archive.Dir: "d", archive.Symlink: "l", archive.CharDevice: "c", archive.BlockDevice: "b",
		archive.FIFO: "p", archive.Socket: "s", archive.Whiteout: "w", archive.Hardlink: "h",
	}[e.Type]
	if letter == "" {
		letter = "-"
	}
	rwx := []byte(fs.FileMode(e.Mode & 0o777).String())[1:]
	for i, bit := range []uint32{0o4000, 0o2000, 0o1000} {
		if e.Mode&bit == 0 {
			continue
		}
		x := &rwx[3*i+2]
		mark := "sst"[i]
		if *x == '-' {
			mark -= 'a' - 'A'
		}
		*x = mark
	}
	return letter + string(rwx)
}

// printable shows a name that may hold any bytes without what would move a terminal's cursor.
func printable(s string) string {
	q := fmt.Sprintf("%+q", s)
	if q == `"`+s+`"` {
		return s
	}
	q = fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

// readable is printable for text that may hold quotes and letters of any language.
func readable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return printable(s)
	}
	return s
}
