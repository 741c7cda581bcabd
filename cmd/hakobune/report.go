package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/evidence"
)

func (p *program) reportCommand() *cli.Command {
	return &cli.Command{
		Name:      "report",
		Usage:     "evidence for others: drills, failovers, snapshots, RPO and RTO",
		ArgsUsage: "[SYSTEM]",
		Description: `Draws up what the repository proves: of each system its snapshots and the gaps between them, the drills that
it passed or failed, and the failovers, with the times measured. As Markdown, as JSON, or as one HTML page
that needs nothing else, with charts.

   hakobune report
   hakobune report --format html -o evidence.html shop
   hakobune report --format json | jq .systems

Drills and failovers are read from sealed records, which name the host that wrote them; hakobune check
verifies these. That a record was taken away is not noticed.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Usage: "`md`, json or html", Value: "md"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write into `FILE`, which has its name only once it is complete"},
		},
		Action: p.report,
	}
}

func (p *program) report(c *cli.Context) error {
	if c.NArg() > 1 {
		return usage("report takes one system, or none for all")
	}
	format := c.String("format")
	if isSet(c, "json") {
		format = "json"
	}
	render, ok := map[string]func(io.Writer, *evidence.Evidence) error{"md": reportMarkdown, "json": reportJSON, "html": reportHTML}[format]
	if !ok {
		return usage("--format %q is none of md, json, html", format)
	}
	repo, cat, err := p.openCatalog(c)
	if err == nil {
		err = p.readWhole(c, repo, cat)
	}
	if err != nil {
		return err
	}
	p.tellDamage(cat)
	records, err := repo.Records(c.Context)
	for _, record := range records {
		if chunkstore.IsPassing(record.Err) {
			err = record.Err
		}
	}
	if err != nil {
		return err
	}
	e := evidence.New(time.Now(), c.Args().First(), cat.Snapshots, records)
	e.Unreadable += len(cat.Damaged)
	if name := c.Args().First(); name != "" && len(e.Systems) == 0 {
		return withHint(fmt.Errorf("report: the repository has nothing of a system %q", name), "hakobune snapshots lists what there is")
	}
	if file := c.String("output"); file != "" {
		return importer.WriteFile(file, func(w io.Writer) error { return render(w, e) })
	}
	return render(p.out, e)
}

// reportLine is the report as JSON.
type reportLine struct {
	Type string `json:"message_type"`
	*evidence.Evidence
}

func reportJSON(w io.Writer, e *evidence.Evidence) error {
	writeJSON(w, reportLine{"report", e})
	return nil
}

// reportRows is how many of a kind a table of the report has at most, the newest.
const reportRows = 50

func newest[T any](list []T) []T { return list[:min(len(list), reportRows)] }

// drillVerdict says how a drill ended.
func drillVerdict(d importer.DrillRecord) string {
	if d.Passed {
		return "passed"
	}
	return "failed: " + d.Failure
}

// measured prints a duration that is there.
func measured(d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	return span(d)
}

// points are values over time, oldest first.
type points struct {
	at    []time.Time
	value []time.Duration
}

// rtoPoints are the measured RTOs of a system.
func rtoPoints(s evidence.System) points {
	var ps points
	for _, d := range slices.Backward(s.Drills) {
		if d.RTO > 0 {
			ps.at, ps.value = append(ps.at, d.Started), append(ps.value, d.RTO)
		}
	}
	return ps
}

// gapPoints are the times between one complete snapshot of a system and the next.
func gapPoints(s evidence.System) points {
	var ps points
	var before time.Time
	for _, proof := range slices.Backward(s.Snapshots) {
		if !proof.Complete {
			continue
		}
		if !before.IsZero() {
			ps.at, ps.value = append(ps.at, proof.Time), append(ps.value, proof.Time.Sub(before))
		}
		before = proof.Time
	}
	return ps
}
