package main

import (
	"bytes"
	htmltemplate "html/template"
	"io"
	"strings"
	"text/template"
	"time"

	"github.com/go-analyze/charts/chartdraw"
	"github.com/go-analyze/charts/chartdraw/drawing"

	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/evidence"
)

const markdownReport = `# Disaster recovery: evidence

Drawn up {{time .Made}}.
{{- if .Unreadable}} {{.Unreadable}} snapshots or records cannot be read, and prove nothing; hakobune check tells more.{{end}}

| system | snapshots | complete | newest complete | longest gap | last proved | RTO |
|---|---|---|---|---|---|---|
{{range .Systems}}| {{cell .System}} | {{len .Snapshots}} | {{.Complete}} | {{measured .RPO}} ago | {{measured .Gap}} | {{time .Proved}} | {{measured .RTO}} |
{{end}}
{{- range .Systems}}
## {{cell .System}}
{{if .NeverTried}}
Nothing proves yet that it can be restored: there was no drill.
{{end}}{{if .Drills}}
| drill | snapshot | on | result | RTO | snapshot's age | restored |
|---|---|---|---|---|---|---|
{{range newest .Drills}}| {{time .Started}} | {{short .Snapshot}} | {{cell .Host}} | {{cell (verdict .)}} | {{measured .RTO}} | {{measured .Age}} | {{size .Bytes}} |
{{end}}{{end}}{{if .Failovers}}
| switched | by | to site | term | RTO | RPO | down |
|---|---|---|---|---|---|---|
{{range newest .Failovers}}| {{time .Started}} | {{.Kind}} | {{cell (print .Site)}} | {{.Term}} | {{measured .RTO}} | {{measured .RPO}} | {{measured .Downtime}} |
{{end}}{{end}}{{if .Snapshots}}
| snapshot | taken | on | size | |
|---|---|---|---|---|
{{range newest .Snapshots}}| {{short .ID}} | {{time .Time}} | {{cell .Host}} | {{size .Bytes}} | {{if not .Complete}}incomplete{{end}} |
{{end}}{{end}}{{end}}`

const htmlReport = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Disaster recovery: evidence</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 } th, td { text-align: left; padding: .25em .8em; border-bottom: 1px solid #ddd; vertical-align: top }
.bad { color: #a40000 } .good { color: #1b6e1b } figure { margin: 1em 0 } figcaption { color: #555 } svg { max-width: 100%; height: auto }
</style></head><body>
<h1>Disaster recovery: evidence</h1>
<p>Drawn up {{time .Made}}.{{if .Unreadable}} <span class="bad">{{.Unreadable}} snapshots or records cannot be read, and prove nothing.</span>{{end}}</p>
<table><tr><th>System<th>Snapshots<th>Complete<th>Newest complete<th>Longest gap<th>Last proved<th>RTO</tr>
{{range .Systems}}<tr><td>{{.System}}<td>{{len .Snapshots}}<td>{{.Complete}}<td>{{measured .RPO}} ago<td>{{measured .Gap}}<td>{{time .Proved}}<td>{{measured .RTO}}</tr>
{{end}}</table>
{{range .Systems}}<h2>{{.System}}</h2>
{{if .NeverTried}}<p class="bad">Nothing proves yet that it can be restored: there was no drill.</p>{{end}}
{{with rtoChart .}}<figure>{{.}}<figcaption>Time from go to healthy, of each drill</figcaption></figure>{{end}}
{{with gapChart .}}<figure>{{.}}<figcaption>Time from one complete snapshot to the next</figcaption></figure>{{end}}
{{if .Drills}}<table><tr><th>Drill<th>Snapshot<th>On<th>Result<th>RTO<th>Snapshot's age<th>Restored<th>Probes</tr>
{{range newest .Drills}}<tr><td>{{time .Started}}<td>{{short .Snapshot}}<td>{{.Host}}<td class="{{if .Passed}}good{{else}}bad{{end}}">{{verdict .}}<td>{{measured .RTO}}<td>{{measured .Age}}<td>{{size .Bytes}}<td>{{range .Probes}}{{.Probe}} {{if .Passed}}passed{{else}}failed{{end}}<br>{{end}}</tr>
{{end}}</table>{{end}}
{{if .Failovers}}<table><tr><th>Switched<th>By<th>To site<th>Term<th>RTO<th>RPO<th>Down</tr>
{{range newest .Failovers}}<tr><td>{{time .Started}}<td>{{.Kind}}<td>{{.Site}}<td>{{.Term}}<td>{{measured .RTO}}<td>{{measured .RPO}}<td>{{measured .Downtime}}</tr>
{{end}}</table>{{end}}
{{if .Snapshots}}<table><tr><th>Snapshot<th>Taken<th>On<th>Size<th></tr>
{{range newest .Snapshots}}<tr><td>{{short .ID}}<td>{{time .Time}}<td>{{.Host}}<td>{{size .Bytes}}<td class="bad">{{if not .Complete}}incomplete{{end}}</tr>
{{end}}</table>{{end}}
{{end}}</body></html>
`

// reportFunctions are what both templates call.
func reportFunctions() map[string]any {
	return map[string]any{
		"time": localTime, "measured": measured, "verdict": drillVerdict, "size": size,
		"short": func(id string) string { return id[:min(len(id), 8)] },
		"newest": func(list any) any {
			switch l := list.(type) {
			case []importer.DrillRecord:
				return newest(l)
			case []evidence.Failover:
				return newest(l)
			case []evidence.Snapshot:
				return newest(l)
			}
			return list
		},
	}
}

func reportMarkdown(w io.Writer, e *evidence.Evidence) error {
	functions := reportFunctions()
	functions["cell"] = markdownCell
	t, err := template.New("report").Funcs(functions).Parse(markdownReport)
	if err != nil {
		return err
	}
	return t.Execute(w, e)
}

// markdownCell makes text that stands for itself in a cell of a table.
func markdownCell(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.NewReplacer(`\`, `\\`, "|", `\|`, "<", "&lt;", "&", "&amp;", "`", "\\`", "*", `\*`, "[", `\[`).Replace(s)
}

func reportHTML(w io.Writer, e *evidence.Evidence) error {
	functions := reportFunctions()
	functions["rtoChart"] = func(s evidence.System) (htmltemplate.HTML, error) { return inlineChart(rtoPoints(s)) }
	functions["gapChart"] = func(s evidence.System) (htmltemplate.HTML, error) { return inlineChart(gapPoints(s)) }
	t, err := htmltemplate.New("report").Funcs(functions).Parse(htmlReport)
	if err != nil {
		return err
	}
	var page bytes.Buffer // an error shows before anything is written
	if err := t.Execute(&page, e); err != nil {
		return err
	}
	_, err = page.WriteTo(w)
	return err
}

// inlineChart draws values over time as an image that stands in the page; nothing of fewer than two. It holds no
// text but numbers and dates.
func inlineChart(ps points) (htmltemplate.HTML, error) {
	if len(ps.at) < 2 {
		return "", nil
	}
	var top time.Duration
	line := chartdraw.TimeSeries{Style: lineStyle(0)}
	for i, d := range ps.value {
		top = max(top, d)
		line.XValues, line.YValues = append(line.XValues, ps.at[i]), append(line.YValues, d.Seconds())
	}
	grid := chartdraw.Style{StrokeColor: drawing.ColorFromHex("e0e0e0"), StrokeWidth: 1}
	chart := chartdraw.Chart{
		Width: 900, Height: 240,
		Background:     chartdraw.Style{Padding: chartdraw.Box{Top: 15, Left: 20, Right: 30, Bottom: 10, IsSet: true}},
		XAxis:          chartdraw.XAxis{Ticks: timeTicks(ps.at[0].In(time.Local), ps.at[len(ps.at)-1].In(time.Local)), GridMajorStyle: grid, GridMinorStyle: grid},
		YAxis:          chartdraw.YAxis{Ticks: spanTicks(top), GridMajorStyle: grid, GridMinorStyle: grid},
		YAxisSecondary: chartdraw.YAxis{Style: chartdraw.Hidden()},
		Series:         []chartdraw.Series{line},
	}
	var svg strings.Builder
	err := chart.Render(chartdraw.SVG, &svg)
	return htmltemplate.HTML(svg.String()), err
}

// spanTicks marks an axis from 0 to top or somewhat more.
func spanTicks(top time.Duration) []chartdraw.Tick {
	step := time.Second
	for _, s := range []time.Duration{5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, day * time.Hour, 7 * day * time.Hour, 28 * day * time.Hour} {
		if top/step >= maxTicks {
			step = s
		}
	}
	for top/step >= maxTicks {
		step *= 2
	}
	ticks := []chartdraw.Tick{{Value: 0, Label: "0"}}
	for v := time.Duration(0); v < max(top, 1); {
		v += step
		ticks = append(ticks, chartdraw.Tick{Value: v.Seconds(), Label: v.String()})
	}
	return ticks
}
