package test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// What files can be, in a volume, a bind mount and a container's own layer: moved to another kind of
// engine, and from there back beside the first, under another name.
func TestFidelity(t *testing.T) {
	all := machines(t)
	for _, way := range ways {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			home, standby := all[way[0]], all[way[1]]
			const name = "hakotest-fidelity"
			for _, m := range []machine{home, standby} {
				m.wipe(t, name)
				t.Cleanup(func() { m.wipe(t, name) })
			}
			dir := t.TempDir()
			first := rich{home, name, filepath.Join(dir, "first")}
			first.make(t)
			want := first.trees(t)

			w := newWorld(t, "")
			w.init(t)
			w.backup(t, home, name)
			second := rich{standby, name, filepath.Join(dir, "second")}
			second.restore(t, w, first)
			compareTrees(t, second.trees(t), want)

			w.backup(t, standby, name)
			third := rich{home, name + "-third", filepath.Join(dir, "third")}
			third.restore(t, w, second)
			compareTrees(t, third.trees(t), want)
			compareTrees(t, first.trees(t), want) // it is as it was
			w.clean(t)
		})
	}
}

// rich is a system of one container whose files are of all kinds.
type rich struct {
	machine
	name string
	bind string // the directory of the host that is mounted
}

func (r rich) make(t testing.TB) {
	t.Helper()
	check(t, os.Mkdir(r.bind, 0o700))
	r.docker(t, "run", "-d", "--name", r.name, "-v", r.name+"-data:/data", "-v", r.bind+":/bind",
		dockertest.Busybox(t, r.Host), "sh", "-c", "sleep 1000000")
	// Bind mounts as large as that, holes and all, have to be asked for.
	huge := planted{path: "sparse-tebibyte", mode: file | 0o644, islands: []int64{1 << 39, 1 << 40}}
	plant(t, r.volume(t), everywhere(), inVolumes(), []planted{huge})
	plant(t, r.bind, everywhere(), inVolumes())
	r.changeBase(t)
	own := filepath.Join(r.root(t), "own")
	check(t, os.Mkdir(own, 0o700))
	plant(t, own, everywhere(), inLayers())
}

// changeBase does to the files of the image all that can be done to them.
func (r rich) changeBase(t testing.TB) {
	t.Helper()
	in := func(path string) string { return filepath.Join(r.root(t), path) }
	busybox, err := os.ReadFile(in("bin/busybox"))
	check(t, err)

	check(t, os.Remove(in("etc/passwd"))) // a whiteout
	check(t, os.WriteFile(in("etc/group"), []byte("root:x:0:\nadded:x:4000000000:\n"), 0o644))
	check(t, os.Link(in("etc/group"), in("etc/gshadow")))
	check(t, os.Remove(in("root"))) // a directory, and a file in its place
	check(t, os.WriteFile(in("root"), []byte("no directory any more"), 0o640))
	check(t, unix.Chmod(in("tmp"), 0o2711)) // attributes alone
	check(t, unix.Setxattr(in("tmp"), "user.of-a-directory", []byte("1"), 0))

	check(t, os.RemoveAll(in("bin"))) // and made again: an opaque directory
	check(t, os.Mkdir(in("bin"), 0o755))
	check(t, os.WriteFile(in("bin/busybox"), busybox, 0o755))
	for _, applet := range []string{"sh", "sleep"} {
		check(t, os.Symlink("busybox", in("bin/"+applet)))
	}
	value := make([]byte, 1)
	if _, err := unix.Getxattr(filepath.Join(r.upper(t), "bin"), "trusted.overlay.opaque", value); err != nil || value[0] != 'y' {
		t.Fatalf("the overlay driver did not make the directory opaque: %q %v", value, err)
	}
}

// restore makes the system of the newest snapshot, which is one of the system from.
func (r rich) restore(t testing.TB, w *world, from rich) {
	t.Helper()
	args := []string{"restore", "--json", "--host", r.Host.Host, "--bind", from.bind + ":" + r.bind}
	if r.name != from.name {
		args = append(args, "--as", r.name)
	}
	o := w.ok(t, append(args, from.name)...)
	t.Logf("%s: restore took %s", r.Name, o.took.Round(time.Millisecond))
	if notes := o.summary(t, "summary")["notes"]; notes != nil {
		t.Errorf("what could not be restored: %v", notes)
	}
}

// trees reads all files of the system.
func (r rich) trees(t testing.TB) map[string]tree {
	t.Helper()
	// These are the engine's, or the kernel's. Of the root directory the engines pass over what a layer says.
	own := readTree(t, r.root(t), ".", "proc", "sys", "dev", "data", "bind",
		".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab")
	etc := own["etc"]
	etc.Sec, etc.Nsec = 0, 0 // an engine that creates a container makes files in it
	own["etc"] = etc
	return map[string]tree{"volume": readTree(t, r.volume(t)), "bind": readTree(t, r.bind), "container": own}
}

func (r rich) volume(t testing.TB) string {
	t.Helper()
	return r.docker(t, "volume", "inspect", "-f", "{{.Mountpoint}}", r.name+"-data")
}

// root is where the host sees the files of the running container.
func (r rich) root(t testing.TB) string {
	t.Helper()
	return "/proc/" + r.docker(t, "inspect", "-f", "{{.State.Pid}}", r.name) + "/root"
}

// upper is the directory of the container's own layer.
func (r rich) upper(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile(filepath.Join(filepath.Dir(r.root(t)), "mountinfo"))
	check(t, err)
	for line := range strings.Lines(string(mounts)) {
		_, options, _ := strings.Cut(line, "upperdir=")
		if upper, _, _ := strings.Cut(options, ","); upper != "" {
			return upper
		}
	}
	t.Fatalf("no overlay among\n%s", mounts)
	return ""
}

// planted is a node to make. Its time is a different one for each, if it is not given.
type planted struct {
	path     string
	mode     uint32 // with the type; 0: a hard link to what link says
	uid, gid int
	content  []byte
	islands  []int64 // of a file: where it has a page of data, the last one its size; else holes
	link     string
	rdev     uint64
	xattrs   map[string]string
	mtime    unix.Timespec
}

const (
	file    = unix.S_IFREG
	dir     = unix.S_IFDIR
	symlink = unix.S_IFLNK

	manyUID = 4_000_000_000
)

// An ACL that gives user 1000 more, and the capability to bind low ports, as the kernel stores them.
const (
	acl        = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// everywhere are the nodes that every place can hold. Directories come before what is in them.
func everywhere() []planted {
	name255, other255 := strings.Repeat("n", 255), strings.Repeat("\xc3\xa9", 127)+"\xff"
	nodes := []planted{
		{path: "empty-directory", mode: dir | 0o700},
		{path: "empty", mode: file | 0o600},
		{path: "small", mode: file | 0o644, content: []byte("in the record itself")},
		{path: "middle", mode: file | 0o644, content: noise(70_000)},
		{path: "large", mode: file | 0o644, content: noise(5_000_000)},

		{path: "sticky", mode: dir | 0o1777, uid: 65536, gid: 65537},
		{path: "setgid", mode: dir | 0o2770, gid: manyUID},
		{path: "setuid", mode: file | 0o4755, uid: manyUID, gid: manyUID, content: []byte("#!")},
		{path: "all-bits", mode: file | 0o7777, uid: 4_294_967_294, content: []byte("1")},
		{path: "no-bits", mode: file, content: []byte("0")},

		{path: "hard", mode: file | 0o640, uid: 7, content: noise(3000)},
		{path: "sticky/hard", link: "hard"},
		{path: "a-hard", link: "hard"}, // sorts before the node that was made first
		{path: "linked-symlink", link: "symlink"},
		{path: "linked-socket", link: "socket"},
		{path: "linked-fifo", link: "fifo"},
		{path: "linked-capability", link: "capability"},

		{path: "symlink", mode: symlink, link: "sticky/../hard", uid: manyUID},
		{path: "dangling", mode: symlink, link: "/no\xffwhere"},
		{path: "far", mode: symlink, link: strings.Repeat("../far/", 500)},

		{path: "capability", mode: file | 0o4711, uid: 1000, content: []byte("#!"), xattrs: map[string]string{"security.capability": capability}},
		{path: "user-xattrs", mode: file | 0o674, content: []byte("x"), xattrs: map[string]string{
			"user.plain": "text", "user.bytes": "\x00\xff=\n", "user.empty": "", "user.large": strings.Repeat("v", 2000),
		}},
		{path: "acl", mode: file | 0o674, xattrs: map[string]string{"system.posix_acl_access": acl}},
		{path: "xattrs-of-a-directory", mode: dir | 0o755, xattrs: map[string]string{"user.d": "1", "system.posix_acl_default": acl}},

		{path: "null", mode: unix.S_IFCHR | 0o666, rdev: unix.Mkdev(1, 3)},
		{path: "block", mode: unix.S_IFBLK | 0o660, gid: 6, rdev: unix.Mkdev(259, 1_000_000)},
		{path: "fifo", mode: unix.S_IFIFO | 0o640},
		{path: "socket", mode: unix.S_IFSOCK | 0o777, uid: 1},

		{path: "sparse", mode: file | 0o644, islands: []int64{0, 1 << 20, 1<<20 + 4096, 5_000_001, 8 << 20}},
		{path: "sparse-at-the-end", mode: file | 0o644, islands: []int64{3 << 20, 3<<20 + 1}},
		{path: "hole", mode: file | 0o644, islands: []int64{3_000_000}},

		{path: "1970", mode: file | 0o644, mtime: unix.Timespec{Nsec: 1}},
		{path: "before-1970", mode: file | 0o644, mtime: unix.Timespec{Sec: -1, Nsec: 500_000_001}},
		{path: "before-1970-directory", mode: dir | 0o755, mtime: unix.Timespec{Sec: -86_400 * 365, Nsec: 1}},
		{path: "before-1970-directory/symlink", mode: symlink, link: "x", mtime: unix.Timespec{Sec: -2_000_000_000}},
		{path: "after-2038", mode: file | 0o644, mtime: unix.Timespec{Sec: 5_000_000_000, Nsec: 999_999_999}},

		{path: name255, mode: dir | 0o755},
		{path: name255 + "/" + name255, mode: file | 0o644, content: []byte("long")},
		{path: name255 + "/" + other255, mode: file | 0o644, content: []byte("long and not UTF-8")},
		{path: ".wh.x", mode: file | 0o644, content: []byte("no whiteout")},
		{path: ".wh.directory", mode: dir | 0o711},
		{path: ".wh.directory/in-it", mode: file | 0o644, content: []byte("no whiteout")},
		{path: "sticky/.wh.hard", link: "hard"},
	}
	for i, name := range []string{"\xff\xfe\n\t", "\xe9", "\u00e9", "e\u0301", " ", "-rf", "*?[a]", "back\\slash", "'\"$(x)", "...", "trailing.", "A", "a"} {
		nodes = append(nodes, planted{path: name, mode: file | 0o644, content: []byte(strconv.Itoa(i))})
	}
	return nodes
}

// inVolumes are nodes for places that are no overlays: there a device 0:0 is nothing special.
func inVolumes() []planted {
	return []planted{
		{path: "", mode: dir | 0o1750, uid: manyUID, gid: 65537, xattrs: map[string]string{"user.root": "1"}, mtime: unix.Timespec{Sec: -5, Nsec: 5}},
		{path: "zero", mode: unix.S_IFCHR | 0o600},
		{path: ".wh..wh..opq", mode: file | 0o644},
		{path: "trusted", mode: file | 0o644, xattrs: map[string]string{"trusted.t": "1", "trusted.overlay.opaque": "y", "user.overlay.opaque": "y"}},
	}
}

func inLayers() []planted {
	return []planted{
		{path: "", mode: dir | 0o1750, uid: manyUID, gid: 65537, xattrs: map[string]string{"user.root": "1"}, mtime: unix.Timespec{Sec: -5, Nsec: 5}},
		{path: ".wh..wh.plnk", mode: dir | 0o700},
		{path: "trusted", mode: file | 0o644, xattrs: map[string]string{"trusted.t": "1"}},
	}
}

// noise gives content that nothing can compress, the same every time.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return b
}

// plant makes the nodes in a directory that exists.
func plant(t testing.TB, in string, lists ...[]planted) {
	t.Helper()
	var hard, all []planted
	for _, list := range lists {
		for _, n := range list {
			if n.mode == 0 {
				hard = append(hard, n)
				continue
			}
			n.make(t, filepath.Join(in, n.path))
			all = append(all, n)
		}
	}
	for _, n := range hard {
		check(t, unix.Linkat(unix.AT_FDCWD, filepath.Join(in, n.link), unix.AT_FDCWD, filepath.Join(in, n.path), 0))
	}
	for i, n := range all { // when nothing changes directories any more
		if n.mtime == (unix.Timespec{}) {
			n.mtime = unix.Timespec{Sec: 1_234_567_890 + int64(i), Nsec: 123_456_789 + int64(i)}
		}
		times := []unix.Timespec{n.mtime, n.mtime}
		check(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(in, n.path), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func (n planted) make(t testing.TB, path string) {
	t.Helper()
	switch n.mode & unix.S_IFMT {
	case file:
		check(t, os.WriteFile(path, n.content, 0o600))
		n.makeSparse(t, path)
	case dir:
		check(t, os.MkdirAll(path, 0o700))
	case symlink:
		check(t, os.Symlink(n.link, path))
	default:
		check(t, unix.Mknod(path, n.mode, int(n.rdev)))
	}
	check(t, unix.Lchown(path, n.uid, n.gid))
	if n.mode&unix.S_IFMT != symlink {
		check(t, unix.Chmod(path, n.mode&0o7777))
	}
	for name, value := range n.xattrs {
		check(t, unix.Lsetxattr(path, name, []byte(value), 0))
	}
}

func (n planted) makeSparse(t testing.TB, path string) {
	t.Helper()
	for i, at := range n.islands {
		if i == len(n.islands)-1 {
			check(t, os.Truncate(path, at))
			return
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		check(t, err)
		_, err = f.WriteAt(noise(min(4096, int(n.islands[len(n.islands)-1]-at))), at)
		check(t, err)
		check(t, f.Close())
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
