package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
)

// writeJSON prints one line of JSON. What is given to it always marshals.
func writeJSON(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		fmt.Fprintf(w, "{\"message_type\":\"error\",\"message\":%q}\n", err.Error())
	}
}

// result prints the outcome of a command: v as JSON with --json, else by text.
func (p *program) result(c *cli.Context, v any, text func()) error {
	if isSet(c, "json") {
		writeJSON(p.out, v)
	} else {
		text()
	}
	return nil
}

// note tells something that is not a result.
func (p *program) note(c *cli.Context, format string, args ...any) {
	if !isSet(c, "quiet") && !isSet(c, "json") {
		fmt.Fprintf(p.err, format+"\n", args...)
	}
}

// logger returns where warnings go, and details with --verbose.
func (p *program) logger(c *cli.Context) *slog.Logger {
	level := slog.LevelWarn
	if isSet(c, "verbose") {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	if isSet(c, "json") {
		return slog.New(slog.NewJSONHandler(p.err, opts))
	}
	return slog.New(slog.NewTextHandler(p.err, opts))
}

// table aligns columns.
type table struct {
	lines []string
}

func newTable(head ...string) *table {
	t := &table{}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) { t.lines = append(t.lines, strings.Join(cells, "\t")) }

func (t *table) write(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, l := range t.lines {
		fmt.Fprintln(tw, l)
	}
	tw.Flush()
}

// size prints bytes in IEC units.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// localTime prints a time in the local zone.
func localTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

// span prints a duration to three digits or so.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
