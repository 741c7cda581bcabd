package snapshot_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones of these tests, wherever they run

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

var update = flag.Bool("update", false, "write the golden files anew")

func berlin(t *testing.T) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// now is a moment after the newest of history.
var now = time.Date(2027, 1, 10, 13, 0, 0, 0, time.UTC)

// taken returns a snapshot that was stored at that time, three minutes after it was taken.
func taken(n int, at time.Time) snapshot.Summary {
	return snapshot.Summary{
		ID: fmt.Sprintf("%04x%016x", n, n*n), System: "shop", Host: "home", Complete: true,
		Time: at.Add(-3 * time.Minute), Took: 2 * time.Minute, Stored: at,
	}
}

// history is three years of one system, oldest first: months, then nights. On 2026-10-25 Berlin's clocks go
// back from 3 to 2 o'clock (1 UTC); the last days of 2026 are in the ISO week 53, to which the first three
// of 2027 belong.
func history() []snapshot.Summary {
	var list []snapshot.Summary
	add := func(at time.Time) *snapshot.Summary {
		list = append(list, taken(len(list), at))
		return &list[len(list)-1]
	}
	utc := func(y int, m time.Month, d, h, mi int) time.Time { return time.Date(y, m, d, h, mi, 0, 0, time.UTC) }
	for at := utc(2024, 1, 1, 0, 30); at.Before(utc(2026, 10, 1, 0, 0)); at = at.AddDate(0, 1, 0) {
		add(at)
	}
	for at := utc(2026, 10, 20, 2, 0); at.Before(utc(2026, 10, 25, 0, 0)); at = at.AddDate(0, 0, 1) {
		add(at)
	}
	for at := utc(2026, 10, 24, 21, 45); at.Before(utc(2026, 10, 25, 3, 0)); at = at.Add(30 * time.Minute) {
		add(at)
	}
	for at := utc(2026, 10, 26, 2, 0); at.Before(utc(2027, 1, 10, 0, 0)); at = at.AddDate(0, 0, 1) {
		s := add(at)
		if night := at.YearDay(); night%5 == 0 || at.Year() == 2027 && night > 6 {
			s.Complete = false
		}
		if at.Day() == 13 {
			s.Tags = []string{"nightly", "important"}
		}
	}
	for _, at := range []time.Time{utc(2026, 12, 31, 22, 30), utc(2026, 12, 31, 23, 0), utc(2026, 12, 31, 23, 30), utc(2027, 1, 1, 0, 0)} {
		add(at)
	}
	for range 3 {
		add(utc(2027, 1, 6, 18, 0)) // at once
	}
	for h := range 12 {
		add(utc(2027, 1, 10, h, 30)).Complete = h == 4
	}
	add(utc(2031, 1, 1, 0, 0))
	add(utc(2027, 1, 9, 12, 0)).Time = utc(2025, 5, 5, 5, 5)
	return list
}

func TestPolicyGolden(t *testing.T) {
	days := func(n int) snapshot.Period { return snapshot.Period{Days: n} }
	for name, p := range map[string]snapshot.Policy{
		"none":         {},
		"last":         {Last: 5},
		"hourly":       {Hourly: 30},
		"daily":        {Daily: 7},
		"weekly":       {Weekly: 6},
		"monthly":      {Monthly: 40},
		"yearly":       {Yearly: snapshot.Unlimited},
		"generations":  {Last: 1, Daily: 7, Weekly: 5, Monthly: 12, Yearly: 3},
		"within":       {Within: snapshot.Period{Months: 1, Days: 2, Hours: 3}},
		"within-each":  {WithinHourly: days(1), WithinDaily: days(7), WithinWeekly: snapshot.Period{Months: 1}, WithinMonthly: snapshot.Period{Years: 1}, WithinYearly: snapshot.Period{Years: 10}},
		"tag":          {Tags: []string{"important"}},
		"tag-and-days": {Tags: []string{"important", "other"}, Daily: 2},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, decisions(p.Apply(history(), now, berlin(t)), berlin(t))) })
	}
	t.Run("clocks-back", func(t *testing.T) {
		that := time.Date(2026, 10, 25, 12, 0, 0, 0, time.UTC)
		list := slices.DeleteFunc(history(), func(s snapshot.Summary) bool { return s.Stored.After(that) })
		golden(t, "clocks-back", decisions(snapshot.Policy{Hourly: 8, Daily: 2}.Apply(list, now, berlin(t)), berlin(t)))
	})
}

// decisions prints the snapshots that stay, and how many go.
func decisions(list []snapshot.Decision, loc *time.Location) string {
	var b strings.Builder
	goes := 0
	for _, d := range list {
		s := d.Snapshot
		if !d.Stays() {
			goes++
			continue
		}
		year, week := s.Stored.In(loc).ISOWeek()
		state := "complete"
		if !s.Complete {
			state = "INCOMPLETE"
		}
		fmt.Fprintf(&b, "%s  %s  %d-W%02d  %-10s  %s\n",
			s.ID[:4], s.Stored.In(loc).Format("Mon 2006-01-02 15:04 MST"), year, week, state, strings.Join(d.Reasons, ", "))
	}
	fmt.Fprintf(&b, "%d stay, %d go\n", len(list)-goes, goes)
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", "retention", name+".golden")
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// Days end where the user lives.
func TestPolicyZone(t *testing.T) {
	list := []snapshot.Summary{
		taken(0, time.Date(2026, 11, 11, 10, 0, 0, 0, time.UTC)),
		taken(1, time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)),
		taken(2, time.Date(2026, 11, 20, 15, 30, 0, 0, time.UTC)), // 0:30 of the next day in Tokyo
		taken(3, time.Date(2026, 11, 20, 23, 0, 0, 0, time.UTC)),  // the next day in India too
	}
	for _, tt := range []struct {
		loc  *time.Location
		want []string
	}{
		{time.UTC, []string{list[3].ID, list[0].ID}},
		{time.FixedZone("IST", 5*3600+1800), []string{list[3].ID, list[2].ID}},
		{time.FixedZone("JST", 9*3600), []string{list[3].ID, list[1].ID}},
	} {
		if diff := cmp.Diff(tt.want, staying(snapshot.Policy{Daily: 2}.Apply(list, now, tt.loc))); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.loc, diff)
		}
	}
}

func staying(list []snapshot.Decision) []string {
	var ids []string
	for _, d := range list {
		if d.Stays() {
			ids = append(ids, d.Snapshot.ID)
		}
	}
	return ids
}

// An incomplete snapshot is no restore point of the whole: however many there are, the complete ones that
// the rules would keep by themselves stay.
func TestIncompleteTakesNoPlace(t *testing.T) {
	var list, complete []snapshot.Summary
	for n := range 40 {
		s := taken(n, now.AddDate(0, 0, -n/2).Add(-time.Duration(n%2)*time.Hour))
		s.Complete = n > 20 && n%2 == 1
		list = append(list, s)
		if s.Complete {
			complete = append(complete, s)
		}
	}
	p := snapshot.Policy{Last: 2, Daily: 5, Within: snapshot.Period{Hours: 30}}
	got := staying(p.Apply(list, now, time.UTC))
	for _, id := range staying(p.Apply(complete, now, time.UTC)) {
		if !slices.Contains(got, id) {
			t.Errorf("%s goes, which the complete ones alone would keep", id)
		}
	}
}

// A store that was copied tells one day for all; what a policy of days would keep of them is one.
func TestDoubtedTimesStay(t *testing.T) {
	var list []snapshot.Summary
	for n := range 20 {
		s := taken(n, now.Add(-time.Duration(n)*time.Minute))
		s.Time = now.AddDate(0, 0, -n)
		list = append(list, s)
	}
	got := snapshot.Policy{Daily: 3}.Apply(list, now, time.UTC)
	for _, d := range got[2:] {
		if diff := cmp.Diff([]string{"host and store disagree on its time"}, d.Reasons); diff != "" {
			t.Errorf("%v (-want +got):\n%s", d.Snapshot.Time, diff)
		}
	}
	// A backup that takes days is not doubted.
	long := taken(50, now.Add(-time.Hour))
	long.Time, long.Took = now.AddDate(0, 0, -9), 9*24*time.Hour
	if d := (snapshot.Policy{Last: 1}).Apply([]snapshot.Summary{long}, now, time.UTC); d[0].Reasons[0] != "last 1" {
		t.Errorf("a long backup: %v", d[0].Reasons)
	}
}

// random returns a policy of up to three rules, and a list of snapshots of some systems in disorder.
func random(rng *rand.Rand) (snapshot.Policy, []snapshot.Summary) {
	var p snapshot.Policy
	counts, periods := counts(&p), periods(&p)
	for range 1 + rng.IntN(3) {
		if rng.IntN(3) == 0 {
			*periods[rng.IntN(len(periods))] = snapshot.Period{Years: rng.IntN(2), Months: rng.IntN(3), Days: rng.IntN(9), Hours: 1 + rng.IntN(30)}
		} else {
			*counts[rng.IntN(len(counts))] = rng.IntN(12) + snapshot.Unlimited
		}
	}
	if rng.IntN(4) == 0 {
		p.Tags = []string{"important"}
	}
	var list []snapshot.Summary
	step := time.Duration(1) << (10 + rng.IntN(14)) * time.Second / 16
	at := now
	for n := range rng.IntN(60) {
		at = at.Add(-time.Duration(rng.Int64N(int64(step))) * time.Duration(rng.IntN(4))) // times may be equal
		s := taken(n, at)
		s.System = []string{"shop", "wiki"}[rng.IntN(2)]
		s.Complete = rng.IntN(3) > 0
		if rng.IntN(9) == 0 {
			s.Tags = []string{"important"}
		}
		if rng.IntN(12) == 0 {
			s.Time = s.Time.AddDate(0, 0, 3)
		}
		if rng.IntN(20) == 0 {
			s.Stored = s.Stored.AddDate(3, 0, 0)
		}
		list = append(list, s)
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return p, list
}

func counts(p *snapshot.Policy) []*int {
	return []*int{&p.Last, &p.Hourly, &p.Daily, &p.Weekly, &p.Monthly, &p.Yearly}
}

func periods(p *snapshot.Policy) []*snapshot.Period {
	return []*snapshot.Period{&p.Within, &p.WithinHourly, &p.WithinDaily, &p.WithinWeekly, &p.WithinMonthly, &p.WithinYearly}
}

// generous returns p with one rule made to keep more.
func generous(rng *rand.Rand, p snapshot.Policy) snapshot.Policy {
	switch counts, periods := counts(&p), periods(&p); rng.IntN(5) {
	case 0:
		p.Tags = []string{"important"}
	case 1:
		*counts[rng.IntN(len(counts))] = snapshot.Unlimited
	case 2:
		periods[rng.IntN(len(periods))].Days += 1 + rng.IntN(40)
	default:
		if c := counts[rng.IntN(len(counts))]; *c != snapshot.Unlimited {
			*c += 1 + rng.IntN(3)
		}
	}
	return p
}

func TestRetentionProperties(t *testing.T) {
	loc := berlin(t)
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		p, list := random(rng)
		decided := p.Apply(list, now, loc)
		stay := staying(decided)

		shuffled := slices.Clone(list)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if diff := cmp.Diff(decided, p.Apply(shuffled, now, loc)); diff != "" {
			t.Fatalf("seed %d: the order of the input matters:\n%s", seed, diff)
		}
		left := kept(list, stay)
		if diff := cmp.Diff(stay, staying(p.Apply(left, now, loc))); diff != "" {
			t.Fatalf("seed %d: applied twice:\n%s", seed, diff)
		}
		more := generous(rng, p)
		if !p.Empty() {
			within(t, seed, "a more generous policy", stay, staying(more.Apply(list, now, loc)))
		}
		newestStay(t, seed, snapshot.Retention{Policy: p, By: snapshot.Grouping{System: rng.IntN(2) == 0}}, list, loc)
	}
}

func kept(list []snapshot.Summary, ids []string) []snapshot.Summary {
	return slices.DeleteFunc(slices.Clone(list), func(s snapshot.Summary) bool { return !slices.Contains(ids, s.ID) })
}

func within(t *testing.T, seed uint64, what string, part, whole []string) {
	t.Helper()
	for _, id := range part {
		if !slices.Contains(whole, id) {
			t.Fatalf("seed %d: %s loses %s", seed, what, id)
		}
	}
}

// newestStay: of each system the newest snapshot and the newest complete one stay, those of doubted times
// aside, which stay anyway.
func newestStay(t *testing.T, seed uint64, r snapshot.Retention, list []snapshot.Summary, loc *time.Location) {
	t.Helper()
	var stay []string
	for _, g := range r.Plan(list, now, loc) {
		stay = append(stay, staying(g.Decisions)...)
	}
	for _, system := range []string{"shop", "wiki"} {
		for _, complete := range []bool{false, true} {
			if id := newest(list, system, complete); id != "" && !slices.Contains(stay, id) {
				t.Fatalf("seed %d: %+v removes %s, the newest of %s (complete: %v)", seed, r.Policy, id, system, complete)
			}
		}
	}
	if err := snapshot.CheckLast(list, slices.DeleteFunc(slices.Clone(list), func(s snapshot.Summary) bool { return slices.Contains(stay, s.ID) })); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

func newest(list []snapshot.Summary, system string, complete bool) string {
	var best snapshot.Summary
	for _, s := range list {
		sane := s.Stored.Sub(s.Time).Abs() < 24*time.Hour && s.Stored.Before(now.Add(time.Hour))
		later := s.Stored.After(best.Stored) || s.Stored.Equal(best.Stored) && s.ID < best.ID
		if s.System == system && (s.Complete || !complete) && sane && later {
			best = s
		}
	}
	return best.ID
}

// What must never go is found among all snapshots, whatever the filter leaves to the rules.
func TestPlanKeepsTheNewest(t *testing.T) {
	day := func(n int, system, host string, complete bool, tags ...string) snapshot.Summary {
		s := taken(n, time.Date(2026, 11, n, 2, 0, 0, 0, time.UTC))
		s.System, s.Host, s.Complete, s.Tags = system, host, complete, tags
		return s
	}
	all := []snapshot.Summary{
		day(1, "shop", "home", true, "nightly"),
		day(2, "shop", "home", true),
		day(3, "shop", "attic", false, "nightly"),
		day(4, "shop", "home", false, "nightly"),
		day(5, "shop", "home", false, "nightly"),
		day(6, "wiki", "attic", false),
	}
	for name, tt := range map[string]struct {
		r    snapshot.Retention
		want string
	}{
		"by tag alone": {
			snapshot.Retention{Policy: snapshot.Policy{Tags: []string{"keep"}}},
			"6 newest of wiki; 5 newest of shop; 2 newest complete of shop",
		},
		"no exception": {
			snapshot.Retention{Policy: snapshot.Policy{Tags: []string{"keep"}}, AllowLast: true},
			"",
		},
		"filtered": {
			snapshot.Retention{Policy: snapshot.Policy{Tags: []string{"keep"}}, Filter: snapshot.Filter{Tags: []string{"nightly"}}},
			"5 newest of shop",
		},
		"by system": {
			snapshot.Retention{Policy: snapshot.Policy{Last: 1}, By: snapshot.Grouping{System: true}},
			"5 last 1; 2 complete last 1; 6 last 1",
		},
		"by system and host": {
			snapshot.Retention{Policy: snapshot.Policy{Last: 1}, By: snapshot.Grouping{System: true, Host: true}},
			"3 last 1; 5 last 1; 2 complete last 1; 6 last 1",
		},
		"by tag": {
			snapshot.Retention{Policy: snapshot.Policy{Last: 1}, By: snapshot.Grouping{Tag: true}},
			"6 last 1; 2 complete last 1; 5 last 1; 1 complete last 1",
		},
		"young ones only": {
			snapshot.Retention{Policy: snapshot.Policy{Within: snapshot.Period{Hours: 1}}},
			"6 within 1h; 5 newest of shop; 2 complete within 1h",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, g := range tt.r.Plan(all, now, time.UTC) {
				for _, d := range g.Decisions {
					if d.Stays() {
						got = append(got, fmt.Sprintf("%d %s", d.Snapshot.Stored.Day(), strings.Join(d.Reasons, ", ")))
					}
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "; ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckLast(t *testing.T) {
	list := nights() // three of shop, one of wiki, one of cafe; none is complete
	whole := nights()
	whole[0].Complete = true
	for name, tt := range map[string]struct {
		all, gone []snapshot.Summary
		want      string
	}{
		"none":          {list, nil, ""},
		"some":          {list, list[:2], ""},
		"all of shop":   {list, []snapshot.Summary{list[0], list[1], list[3]}, "system shop: no snapshot would be left"},
		"only one":      {list, []snapshot.Summary{list[0], list[2]}, "system wiki: no snapshot would be left"},
		"only complete": {whole, whole[:1], "system shop: no complete snapshot would be left"},
		"incomplete":    {whole, whole[1:2], ""},
	} {
		err := snapshot.CheckLast(tt.all, tt.gone)
		got := ""
		var last *snapshot.LastError
		if errors.As(err, &last) {
			got = last.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestParseGrouping(t *testing.T) {
	for s, want := range map[string]snapshot.Grouping{
		"none": {}, "system": {System: true}, "host": {Host: true}, "system,host": {System: true, Host: true}, "tag": {Tag: true},
		"host,tag,system": {System: true, Host: true, Tag: true},
	} {
		if got, err := snapshot.ParseGrouping(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "tags", "system,", "none,host", "System"} {
		if got, err := snapshot.ParseGrouping(s); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}

func TestGroupingByTags(t *testing.T) {
	a, b, c := taken(1, now), taken(2, now), taken(3, now)
	a.Tags, b.Tags = []string{"y", "x"}, []string{"x", "y", "x"}
	groups := snapshot.Grouping{Tag: true}.Split([]snapshot.Summary{a, c, b})
	want := []snapshot.Group{{Snapshots: []snapshot.Summary{c}}, {Tags: []string{"x", "y"}, Snapshots: []snapshot.Summary{a, b}}}
	if diff := cmp.Diff(want, groups); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParsePeriod(t *testing.T) {
	for s, want := range map[string]snapshot.Period{
		"1y5m7d2h": {Years: 1, Months: 5, Days: 7, Hours: 2},
		"30d":      {Days: 30},
		"36h":      {Hours: 36},
		"2h1y":     {Years: 1, Hours: 2},
		"0y3m":     {Months: 3},
	} {
		got, err := snapshot.ParsePeriod(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if again, err := snapshot.ParsePeriod(got.String()); err != nil || again != got {
			t.Errorf("%s: again %+v, %v", s, again, err)
		}
	}
	for _, s := range []string{"", "7", "d", "7x", "-7d", "7d7d", "1d 2h", "1.5d", "0d", "1000000y", "99999999999999999999h", "7D"} {
		if got, err := snapshot.ParsePeriod(s); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}
