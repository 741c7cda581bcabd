package main

import (
	"io"
	"time"
	"unicode/utf8"

	"github.com/go-analyze/charts/chartdraw"
	"github.com/go-analyze/charts/chartdraw/drawing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// maxTicks is how many intervals an axis has at most: as many dates stand side by side.
const maxTicks = 8

// drawGrowth writes an SVG image with a line for each system: what it stored, over time. Steps are
// oldest first, and at least one. Dates are in loc.
func drawGrowth(w io.Writer, steps []snapshot.Growth, loc *time.Location) error {
	var top int64
	var longest int
	for _, g := range steps {
		top = max(top, g.SystemSum)
		longest = max(longest, utf8.RuneCountInString(g.Summary.System))
	}
	grid := chartdraw.Style{StrokeColor: drawing.ColorFromHex("e0e0e0"), StrokeWidth: 1}
	series := growthSeries(steps)
	chart := chartdraw.Chart{
		Width: 960, Height: max(420, 40+legendRow*len(series)),
		Background: chartdraw.Style{Padding: chartdraw.Box{Top: 20, Left: 60 + legendLetter*min(longest, 64), Right: 30, Bottom: 10, IsSet: true}},
		XAxis: chartdraw.XAxis{
			Ticks:          timeTicks(steps[0].Summary.Time.In(loc), steps[len(steps)-1].Summary.Time.In(loc)),
			GridMajorStyle: grid, GridMinorStyle: grid,
		},
		YAxis:          chartdraw.YAxis{Ticks: sizeTicks(top), GridMajorStyle: grid, GridMinorStyle: grid},
		YAxisSecondary: chartdraw.YAxis{Style: chartdraw.Hidden()},
		Series:         series,
	}
	chart.Elements = []chartdraw.Renderable{chartdraw.LegendLeft(&chart)}
	return chart.Render(chartdraw.SVG, w)
}

// What the legend takes at most, in pixels: it stands to the left of the lines.
const (
	legendRow    = 32
	legendLetter = 8
)

// growthSeries makes a line for each system, in the order in which they began.
func growthSeries(steps []snapshot.Growth) []chartdraw.Series {
	lines := map[string]*chartdraw.TimeSeries{}
	var all []chartdraw.Series
	for _, g := range steps {
		line := lines[g.Summary.System]
		if line == nil {
			line = &chartdraw.TimeSeries{Name: g.Summary.System, Style: lineStyle(len(all))}
			lines[g.Summary.System] = line
			all = append(all, line)
		}
		line.XValues = append(line.XValues, g.Summary.Time)
		line.YValues = append(line.YValues, float64(g.SystemSum))
	}
	return all
}

// lineStyle tells the lines of nine systems apart by color, and more of them by dashes. A dot shows
// what is no line yet.
func lineStyle(n int) chartdraw.Style {
	const first, second = 5, 4 // how many colors the palettes have of their own
	color := chartdraw.GetDefaultColor(n % (first + second))
	if i := n%(first+second) - first; i >= 0 {
		color = chartdraw.GetAlternateColor(i)
	}
	style := chartdraw.Style{StrokeColor: color, StrokeWidth: 2, DotColor: color, DotWidth: 2}
	if n >= first+second {
		style.StrokeDashArray = []float64{6, 3}
	}
	return style
}

// sizeTicks marks an axis from 0 to top or somewhat more in steps of a power of two.
func sizeTicks(top int64) []chartdraw.Tick {
	step := int64(1)
	for top/step >= maxTicks {
		step *= 2
	}
	ticks := []chartdraw.Tick{{Value: 0, Label: size(0)}}
	for v := int64(0); v < max(top, 1); {
		v += step
		ticks = append(ticks, chartdraw.Tick{Value: float64(v), Label: size(v)})
	}
	return ticks
}

// timeTicks marks an axis from before from to after to, at whole hours or days of their zone.
func timeTicks(from, to time.Time) []chartdraw.Tick {
	hours := timeStep(to.Sub(from))
	format := "01-02 15:04"
	next := func(t time.Time) time.Time { return t.Add(time.Duration(hours) * time.Hour) }
	if hours >= day {
		format = time.DateOnly
		next = func(t time.Time) time.Time { return t.AddDate(0, 0, hours/day) } // not always so many hours
	}
	at := time.Date(from.Year(), from.Month(), from.Day(), from.Hour()-from.Hour()%min(hours, day), 0, 0, 0, from.Location())
	var ticks []chartdraw.Tick
	for {
		ticks = append(ticks, chartdraw.Tick{Value: chartdraw.TimeToFloat64(at), Label: at.Format(format)})
		if len(ticks) > 1 && !at.Before(to) {
			return ticks
		}
		at = next(at)
	}
}

// day is the hours of one.
const day = 24

// timeStep returns how many hours lie between two marks of an axis that shows a span: a part of a
// day, or whole days.
func timeStep(span time.Duration) int {
	for _, hours := range []int{1, 3, 6, 12, day, 2 * day, 7 * day, 14 * day, 28 * day, 56 * day, 91 * day, 182 * day} {
		if span < time.Duration(hours*(maxTicks-1))*time.Hour {
			return hours
		}
	}
	return (int(span/time.Hour)/day/(maxTicks-1) + 1) * day
}
