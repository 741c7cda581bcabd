package importer

import (
	"fmt"
	"strings"
)

// Clash is one thing that stands against a restore.
type Clash struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	Why  string `json:"why"`
	Hint string `json:"hint,omitempty"` // what to do about it
}

func (c Clash) String() string {
	s := fmt.Sprintf("%s %s %s", c.Kind, shown(c.Name), c.Why)
	if c.Hint != "" {
		s += " (" + c.Hint + ")"
	}
	return s
}

// A ClashError says that a plan cannot be carried out as things stand: it would have to touch what
// exists, or needs what the target lacks. Nothing was changed.
type ClashError struct {
	Clashes []Clash // at least one
}

func (e *ClashError) Error() string {
	if len(e.Clashes) == 1 {
		return "restore clashes with the target: " + e.Clashes[0].String()
	}
	lines := make([]string, len(e.Clashes))
	for i, c := range e.Clashes {
		lines[i] = "  " + c.String()
	}
	return fmt.Sprintf("restore has %d clashes with the target:\n%s", len(e.Clashes), strings.Join(lines, "\n"))
}

// Hints name options as the program's flags do.
const (
	hintExists   = "--replace, --skip-existing, or --as NAME"
	hintPort     = "--port OLD:NEW"
	hintBind     = "--bind OLD:NEW, --replace, --skip-existing, or --without-binds"
	hintBindGone = "create it, or --bind OLD:NEW"
	hintFit      = "--fit leaves it out"
)
