package exporter

import (
	"path"
	"slices"
	"strings"
)

// exclusion is what is left out of one tree.
type exclusion struct {
	whole    string   // why all of it is left out; empty: it is not
	patterns []string // of what is left out in it
	skip     []string // paths in it that are left out
}

// add takes in a pattern for what lies where the tree is mounted; by says whose it is.
func (x *exclusion) add(pattern, mounted, by string) {
	rest, whole, ok := within(pattern, mounted)
	switch {
	case !ok:
	case whole:
		x.whole = "excluded by " + by
	default:
		if !slices.Contains(x.patterns, rest) {
			x.patterns = append(x.patterns, rest)
		}
	}
}

// within says what a pattern of absolute paths leaves out of the tree mounted at dir: all of it, or
// what rest, a pattern in the tree, names. ok is false if it leaves out nothing there.
func within(pattern, dir string) (rest string, whole, ok bool) {
	p, d := components(pattern), components(dir)
	for i, name := range d {
		switch {
		case i == len(p):
			return "", true, true // of a directory above
		case p[i] == "**":
			return strings.Join(p[i:], "/"), false, true
		}
		if match, err := path.Match(p[i], name); err != nil || !match {
			return "", false, false
		}
	}
	if len(p) == len(d) {
		return "", true, true
	}
	return strings.Join(p[len(d):], "/"), false, true
}

func components(p string) []string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// below returns the path of p relative to dir, if it is dir ("") or beneath it.
func below(p, dir string) (string, bool) {
	p, dir = path.Clean(p), path.Clean(dir)
	if p == dir {
		return "", true
	}
	return strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// optionExcludes returns what Options.Exclude leaves out of the changes of a container or of a
// volume, by its name.
func optionExcludes(options []string, name string) exclusion {
	var x exclusion
	for _, p := range options {
		switch first, rest, more := strings.Cut(p, "/"); {
		case first == "**":
			x.add(p, "/", "an option")
		case first == name && first != "" && more:
			x.add(rest, "/", "an option")
		case first == name && first != "":
			x.whole = "excluded by an option"
		}
	}
	return x
}
