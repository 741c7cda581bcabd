package exporter

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// What Bind.Special says.
const (
	specialSocket  = "socket"
	specialSystem  = "system path"
	specialExclude = "excluded"
	specialLarge   = "too large"
	specialFile    = "device or pipe"
)

// volumePath returns the directory that holds a volume's files while no container uses it, or
// Mountpoint where there is none: a local volume that binds a directory is that directory.
func volumePath(v snapshot.Volume) string {
	if v.Driver == "local" && slices.Contains(strings.Split(v.Options["o"], ","), "bind") && path.IsAbs(v.Options["device"]) {
		return v.Options["device"]
	}
	return v.Mountpoint
}

// networkTypes are types of file systems whose files are kept somewhere else.
var networkTypes = []string{"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "9p", "davfs", "sshfs", "fuse.sshfs"}

func (p *Plan) planVolume(v *snapshot.Volume, s survey, o Options) {
	t := TreePlan{Kind: Volume, Name: v.Name, Path: volumePath(*v)}
	x := optionExcludes(o.Exclude, v.Name)
	addLabels(&x, s.system, func(m snapshot.Mount) bool { return m.Type == "volume" && m.Name == v.Name })
	addOwn(&x, t.Path, s.facts, o)
	included := slices.Contains(o.Include, v.Name)
	fsType := v.Options["type"]
	switch {
	case x.whole != "":
		p.note(t.Where(), "not read: %s", x.whole)
		return
	case v.Driver == "local" && fsType == "tmpfs":
		p.note(t.Where(), "not read: it lives in memory")
		return
	case v.Driver == "local" && slices.Contains(networkTypes, fsType) && !included:
		p.note(t.Where(), "not read: it is kept elsewhere, by %s", fsType)
		return
	case v.Driver != "local" && v.Mountpoint == "":
		p.problem(t.Where(), "not read: its driver %s does not tell where its files are", v.Driver)
		return
	}
	n := s.nodes[t.Path]
	device := v.Driver == "local" && v.Options["device"] != "" && t.Path == v.Mountpoint
	switch {
	case n.kind == nodeMissing:
		p.problem(t.Where(), "not read: %s does not exist", t.Path)
		return
	case device && n.kind == nodeDir && !n.mounted:
		p.problem(t.Where(), "not read: %s is mounted only while a container uses it, and none does", v.Options["device"])
		return
	}
	t.Ways = directoryWays(s.facts, n)
	p.addTree(t, x)
}

// directoryWays returns the ways to read what n is.
func directoryWays(f snapshot.Facts, n node) []Way {
	if f.Local && (n.kind == nodeDir || n.kind == nodeFile) {
		return []Way{WayDir, WayHelper}
	}
	return []Way{WayHelper}
}

func (p *Plan) planBind(b *snapshot.Bind, s survey, o Options) {
	t := TreePlan{Kind: Bind, Name: b.Source, Path: b.Source}
	x := bindExclusion(s.system, b.Source, o)
	addOwn(&x, b.Source, s.facts, o)
	included := slices.Contains(o.Include, b.Source)
	special := func(why, format string, args ...any) {
		b.Special = why
		p.note(t.Where(), "not read: "+format, args...)
	}
	if what := systemPath(b.Source, s.facts); what != "" {
		special(specialSystem, "%s", what)
		return
	}
	if x.whole != "" {
		special(specialExclude, "%s", x.whole)
		return
	}
	n := s.nodes[b.Source]
	switch {
	case n.kind == nodeSocket:
		special(specialSocket, "a socket")
	case n.kind == nodeSpecial:
		special(specialFile, "a device or pipe")
	case n.kind == nodeMissing:
		p.problem(t.Where(), "not read: it does not exist")
	case n.over && !included:
		b.Special = specialLarge
		p.problem(t.Where(), "not read: more than %s; include it by name, or exclude it", iec(o.MaxBind))
	default:
		b.File = n.kind == nodeFile
		t.Ways = directoryWays(s.facts, n)
		p.addTree(t, x)
	}
}

// bindExclusion returns what is left out of a bind mount by options and labels.
func bindExclusion(sys snapshot.System, source string, o Options) exclusion {
	var x exclusion
	for _, pattern := range o.Exclude {
		if strings.HasPrefix(pattern, "/") {
			x.add(pattern, source, "an option")
		} else if strings.HasPrefix(pattern, "**/") {
			x.add(pattern, "/", "an option")
		}
	}
	addLabels(&x, sys, func(m snapshot.Mount) bool { return m.Type == "bind" && m.Source == source })
	return x
}

// addLabels takes in the patterns that labels of containers give for what they mount where.
func addLabels(x *exclusion, sys snapshot.System, of func(snapshot.Mount) bool) {
	for _, c := range sys.Containers {
		labels, _ := parseLabels(c.Labels)
		for _, m := range c.Mounts {
			for _, pattern := range labels.exclude {
				if of(m) {
					x.add(pattern, m.Destination, "a label of container "+c.Name)
				}
			}
		}
	}
}

// addOwn leaves out what is never read: the engine's own files and those of this program.
func addOwn(x *exclusion, dir string, f snapshot.Facts, o Options) {
	for _, own := range o.Own {
		if _, inside := below(dir, own); inside {
			x.whole = "it belongs to this program"
		} else if rest, above := below(own, dir); above {
			x.skip = append(x.skip, rest)
		}
	}
	if f.RootDir == "" {
		return
	}
	if rest, above := below(f.RootDir, dir); above && rest != "" {
		x.skip = append(x.skip, rest)
	}
}

// kernelPaths hold no files but views of the kernel and of devices.
var kernelPaths = []string{"/proc", "/sys", "/dev"}

// hostPaths are directories of a running host that say nothing about a container: all of its
// runtime state, its kernel modules. What lies below them may be a system's own.
var hostPaths = []string{"/", "/run", "/var/run", "/lib/modules", "/usr/lib/modules", "/boot"}

// systemPath says why a path is recorded as a bind mount and not read, or nothing.
func systemPath(source string, f snapshot.Facts) string {
	source = path.Clean(source)
	for _, dir := range kernelPaths {
		if _, inside := below(source, dir); inside {
			return "a view of the kernel and its devices"
		}
	}
	if slices.Contains(hostPaths, source) {
		return "it belongs to the host"
	}
	roots := []string{"/var/lib/docker", "/var/lib/containerd", "/run/containerd", "/run/docker"}
	if f.RootDir != "" {
		roots = append(roots, path.Clean(f.RootDir))
	}
	for _, root := range roots {
		rest, inside := below(source, root)
		// The files of one volume may be bound by their path.
		if inside && !strings.HasPrefix(rest, "volumes/") {
			return "it belongs to the engine"
		}
	}
	return ""
}

// iec writes a number of bytes for people.
func iec(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	return fmt.Sprintf("%.4g %s", f, units[u])
}
