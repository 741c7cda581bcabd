package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// report is what was measured, on what, as Markdown.
func (b *bench) report(ctx context.Context) string {
	w := &strings.Builder{}
	fmt.Fprintf(w, "%s, %s.\n%s\n\n", time.Now().Format("2 January 2006"), b.machine(ctx), b.versions(ctx))
	fmt.Fprintln(w, "In brackets: how many times hakobune's figure. Stored: bytes that came to the objects or files of the store. Memory: the most")
	fmt.Fprintln(w, "that one process had, of those that the command line started (so not the engine, nor a server).")
	for _, t := range b.tables {
		t.write(w)
	}
	if slices.ContainsFunc(b.tables, func(t *table) bool { return t.stores }) {
		b.details(w)
	}
	return w.String()
}

// machine tells of this one what may be known.
func (b *bench) machine(ctx context.Context) string {
	out, err := b.host.output(ctx, nil, `echo "$(nproc) cores ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), `+
		`$(. /etc/os-release && echo "$NAME $VERSION_ID"), Linux $(uname -r), Docker $(docker version -f '{{.Server.Version}}') with $(docker info -f '{{.Driver}}')"`)
	if err != nil {
		return err.Error()
	}
	return out
}

// versions tells those of what was compared, and what is missing.
func (b *bench) versions(ctx context.Context) string {
	var all []string
	for _, p := range []struct{ name, program, line string }{
		{"hakobune", b.hakobune, b.hakobune + " version | sed 's/^hakobune //; s/,.*//; q'"},
		{"restic", "restic", "restic version | awk '{ print $2 }'"},
		{"kopia", "kopia", "cat \"$(dirname \"$(command -v kopia)\")/.kopia\" | sed 's/.*@v//'"}, // built by go install it does not know its own
		{"borg", "borg", "borg --version | awk '{ print $2 }'"},
		{"distribution", "registry", "cat \"$(dirname \"$(command -v registry)\")/.registry\" | sed 's/.*@v//'"},
		{"MinIO", "minio", "cat \"$(dirname \"$(command -v minio)\")/.minio\" | sed 's/.*@//'"},
	} {
		if !have(p.program) {
			all = append(all, p.name+": not to be had here, left out")
			continue
		}
		version, err := b.host.output(ctx, nil, p.line)
		if err != nil {
			version = "of unknown version"
		}
		all = append(all, p.name+" "+version)
	}
	return strings.Join(all, ", ") + "."
}

// write writes the table: for each step a row of times, of what was stored, and of memory.
func (t *table) write(w *strings.Builder) {
	var headings []string
	for _, tool := range t.tools {
		headings = append(headings, strings.ReplaceAll(tool, "|", `\|`))
	}
	fmt.Fprintf(w, "\n### %s\n\n%s\n\n| | | %s |\n|---|---|%s\n", t.title, t.intro,
		strings.Join(headings, " | "), strings.Repeat("---|", len(t.tools)))
	for _, step := range t.steps {
		t.row(w, step, step, "time", func(m measure) (string, float64) { return seconds(m.took), m.took.Seconds() })
		if t.stores {
			t.row(w, step, "", "stored", func(m measure) (string, float64) { return size(m.added), float64(m.added) })
		}
		t.row(w, step, "", "memory", func(m measure) (string, float64) { return size(m.rss), float64(m.rss) })
	}
}

func (t *table) row(w *strings.Builder, step, label, what string, show func(measure) (string, float64)) {
	fmt.Fprintf(w, "| %s | %s |", label, what)
	_, ours := show(t.cells[step][aHakobune])
	for _, tool := range t.tools {
		m, done := t.cells[step][tool]
		text, f := show(m)
		switch {
		case !done:
			text = ""
		case tool == aHakobune:
			text = "**" + text + "**"
		case ours > 0 && f/ours < 1000:
			text += fmt.Sprintf(" (%.2g×)", f/ours)
		}
		fmt.Fprintf(w, " %s |", text)
	}
	fmt.Fprintln(w)
}

// details writes what hakobune says of its own runs.
func (b *bench) details(w *strings.Builder) {
	fmt.Fprint(w, "\n### What hakobune says of these runs\n\n| | read | new | stored | containers stood still | memory |\n|---|---|---|---|---|---|\n")
	for _, t := range b.tables {
		for _, step := range t.steps {
			m := t.cells[step][aHakobune]
			if m.told == nil || !t.stores {
				continue
			}
			s := m.told.Stats
			fmt.Fprintf(w, "| %s: %s | %s | %s | %s | %s | %s |\n", strings.ToLower(t.title), step, size(s.Read), size(s.New), size(s.Stored), s.Paused.Round(time.Millisecond), size(m.rss))
		}
	}
}

// document puts the text between the marks of a file.
func document(name, text string) error {
	const from, to = "<!-- make bench writes from here -->\n", "<!-- to here -->\n"
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(content, []byte(from))
	_, after, too := bytes.Cut(rest, []byte(to))
	if !ok || !too {
		return errors.New(name + ": its marks are missing")
	}
	return os.WriteFile(name, fmt.Appendf(nil, "%s%s\n%s\n%s%s", before, from, text, to, after), 0o644)
}
