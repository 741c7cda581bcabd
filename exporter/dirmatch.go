package exporter

import (
	"fmt"
	"path"
	"strings"
)

// pattern is one pattern of DirOptions.Exclude: for each component a pattern of package path, or
// "**" for any number of components.
type pattern []string

func parsePattern(s string) (pattern, error) {
	if strings.HasPrefix(s, "!") {
		return nil, fmt.Errorf("exclude %q: exceptions are not supported", s)
	}
	clean := strings.Trim(path.Clean("/"+s), "/")
	if clean == "" {
		return nil, fmt.Errorf("exclude %q: nothing would be left", s)
	}
	p := pattern(strings.Split(clean, "/"))
	for _, c := range p {
		if _, err := path.Match(c, ""); err != nil {
			return nil, fmt.Errorf("exclude %q: %w", s, err)
		}
	}
	return p, nil
}

// match tells whether the pattern matches a whole name, given as its components.
func (p pattern) match(name []string) bool {
	for i, c := range p {
		if c == "**" {
			return p[i+1:].matchTail(name)
		}
		if len(name) == 0 {
			return false
		}
		if ok, _ := path.Match(c, name[0]); !ok {
			return false
		}
		name = name[1:]
	}
	return len(name) == 0
}

// matchTail tells whether the pattern, which stands behind "**", matches the end of a name. Nothing
// behind it means that something has to lie below: a/** leaves out what is in a, but not a.
func (p pattern) matchTail(name []string) bool {
	if len(p) == 0 {
		return len(name) > 0
	}
	for i := range name {
		if p.match(name[i:]) {
			return true
		}
	}
	return false
}
