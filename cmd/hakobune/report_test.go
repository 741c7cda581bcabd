package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/evidence"
)

// evidence is that of a system with a name that means something in every format.
func proofs() *evidence.Evidence {
	at := func(n int) time.Time { return time.Date(2026, 11, n, 2, 0, 0, 0, time.UTC) }
	return &evidence.Evidence{Made: at(10), Unreadable: 1, Systems: []evidence.System{
		{System: "never", NeverTried: true},
		{
			System: `<script>alert("x")</script>|b`, Complete: 3, RPO: time.Hour, Gap: 50 * time.Hour, RTO: 20 * time.Second, Proved: at(9),
			Snapshots: []evidence.Snapshot{{ID: "0123456789", Time: at(9), Complete: true}, {ID: "1", Time: at(7), Complete: true}, {ID: "2", Time: at(6)}, {ID: "3", Time: at(5), Complete: true}},
			Drills: []importer.DrillRecord{
				{Started: at(9), Passed: true, RTO: 20 * time.Second, Probes: []importer.ProbeResult{{Probe: "exec:db:true", Passed: true}}},
				{Started: at(8), Failure: "no\nway|out", RTO: 100 * time.Second},
			},
			Failovers: []evidence.Failover{{Site: "cloud", Term: 2, Started: at(4), RTO: time.Hour, Downtime: 7 * time.Second}},
		},
	}}
}

func TestReport(t *testing.T) {
	var md, page, text bytes.Buffer
	for _, err := range []error{reportMarkdown(&md, proofs()), reportHTML(&page, proofs()), reportJSON(&text, proofs())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"## never\n\nNothing proves yet", `alert("x")&lt;/script>\|b`, "| failed: no way\\|out |", "| 01234567 |", "cloud", "| 7s |", "1 snapshots or records cannot be read"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("Markdown has no %q:\n%s", want, md.String())
		}
	}
	for line := range strings.Lines(md.String()) {
		if strings.HasPrefix(line, "|") && !strings.HasSuffix(line, "|\n") {
			t.Errorf("a row does not end: %q", line)
		}
	}
	if got := strings.Count(page.String(), "<svg"); got != 2 {
		t.Errorf("the page has %d charts", got)
	}
	for _, no := range []string{"<script", "src=", "href=", "url(", "@import"} {
		if strings.Contains(page.String(), no) {
			t.Errorf("the page has %q", no)
		}
	}
	var line struct{ Systems []evidence.System }
	if err := json.Unmarshal(text.Bytes(), &line); err != nil || len(line.Systems) != 2 || len(line.Systems[1].Drills) != 2 {
		t.Errorf("JSON: %v, %+v", err, line)
	}
}

func TestSpanTicks(t *testing.T) {
	for _, top := range []time.Duration{0, 1, time.Second, 9 * time.Second, time.Hour, 40 * time.Hour, 90_000 * time.Hour} {
		ticks := spanTicks(top)
		if len(ticks) < 2 || len(ticks) > maxTicks+2 || ticks[len(ticks)-1].Value < top.Seconds() {
			t.Errorf("up to %v: %v", top, ticks)
		}
	}
}
