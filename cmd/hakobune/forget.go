package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
)

func (p *program) forgetCommand() *cli.Command {
	flags := append(filterFlags(),
		&cli.StringFlag{Name: "group-by", Usage: "apply the rules to each `GROUP` by itself: system, host, tag, several with commas, or none", Value: "system"},
		&cli.BoolFlag{Name: "allow-last", Usage: "let a system lose its last snapshot, or its last complete one"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "only show what would go, and why the others stay"},
	)
	return &cli.Command{
		Name:      "forget",
		Usage:     "take snapshots out of the repository, by rules or by name",
		ArgsUsage: "[ID...]",
		Description: `Snapshots that no rule keeps are forgotten, or, where ids are given, those named. The space is given
back by hakobune prune.

   hakobune forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly 3
   hakobune forget -n --keep-within 30d --system shop
   hakobune forget 1f0c9a52

What any rule keeps stays. --keep-daily 7 keeps the newest snapshot of each of the newest 7 days that have
one; --keep-within 1y5m7d2h what is younger than that, counted from the newest snapshot, not from today;
--keep-within-daily 30d one of each day in that time. N may be unlimited. Where a rule keeps fewer than it
may, the oldest snapshot stays too. Days end at midnight here (TZ); times are those of the store, so that a
host whose clock is wrong pushes nothing out. A snapshot on whose time its host and the store disagree by
more than a day stays, as after the copying of a repository.

An incomplete snapshot takes no complete one's place: every rule goes over all snapshots, and once more over
the complete ones alone. Of each system the newest snapshot stays, and the newest complete one, whatever the
rules and filters say. Only --allow-last lifts that. A snapshot that cannot be read stays.`,
		Flags:  append(keepFlags(), flags...),
		Action: p.forget,
	}
}

// keepCounts returns the flags of rules that count, with the fields of a policy that they set.
func keepCounts(pol *snapshot.Policy) []keepCount {
	return []keepCount{
		{"keep-last", "keep the newest `N` snapshots", &pol.Last},
		{"keep-hourly", "keep one of each of the newest `N` hours", &pol.Hourly},
		{"keep-daily", "keep one of each of the newest `N` days", &pol.Daily},
		{"keep-weekly", "keep one of each of the newest `N` weeks", &pol.Weekly},
		{"keep-monthly", "keep one of each of the newest `N` months", &pol.Monthly},
		{"keep-yearly", "keep one of each of the newest `N` years", &pol.Yearly},
	}
}

type keepCount struct {
	name, usage string
	field       *int
}

// keepPeriods is keepCounts for rules of periods.
func keepPeriods(pol *snapshot.Policy) []keepPeriod {
	return []keepPeriod{
		{"keep-within", "keep all within `PERIOD` of the newest", &pol.Within},
		{"keep-within-hourly", "keep one of each hour within `PERIOD` of the newest", &pol.WithinHourly},
		{"keep-within-daily", "keep one of each day within `PERIOD` of the newest", &pol.WithinDaily},
		{"keep-within-weekly", "keep one of each week within `PERIOD` of the newest", &pol.WithinWeekly},
		{"keep-within-monthly", "keep one of each month within `PERIOD` of the newest", &pol.WithinMonthly},
		{"keep-within-yearly", "keep one of each year within `PERIOD` of the newest", &pol.WithinYearly},
	}
}

type keepPeriod struct {
	name, usage string
	field       *snapshot.Period
}

func keepFlags() []cli.Flag {
	var flags []cli.Flag
	for _, k := range keepCounts(new(snapshot.Policy)) {
		flags = append(flags, &cli.StringFlag{Name: k.name, Usage: k.usage})
	}
	for _, k := range keepPeriods(new(snapshot.Policy)) {
		flags = append(flags, &cli.StringFlag{Name: k.name, Usage: k.usage})
	}
	return append(flags, &cli.StringSliceFlag{Name: "keep-tag", Usage: "keep snapshots with `TAG`; may be given several times"})
}

// policy reads the flags of rules.
func policy(c *cli.Context) (snapshot.Policy, error) {
	pol := snapshot.Policy{Tags: c.StringSlice("keep-tag")}
	for _, k := range keepCounts(&pol) {
		if !c.IsSet(k.name) {
			continue
		}
		n, err := parseCount(c.String(k.name))
		if err != nil {
			return pol, usage("--%s %q is not a number of snapshots", k.name, c.String(k.name)).hint("such as 7, or unlimited")
		}
		*k.field = n
	}
	for _, k := range keepPeriods(&pol) {
		if !c.IsSet(k.name) {
			continue
		}
		period, err := snapshot.ParsePeriod(c.String(k.name))
		if err != nil {
			return pol, usage("--%s: %v", k.name, err)
		}
		*k.field = period
	}
	return pol, nil
}

// parseCount reads a number of at least 0; -1 and "unlimited" are snapshot.Unlimited.
func parseCount(s string) (int, error) {
	if s == "unlimited" {
		return snapshot.Unlimited, nil
	}
	n, err := strconv.Atoi(s)
	if err == nil && n < snapshot.Unlimited {
		err = strconv.ErrRange
	}
	return n, err
}

// retention reads the flags of a forget by rules.
func retention(c *cli.Context) (snapshot.Retention, error) {
	pol, err := policy(c)
	if err != nil {
		return snapshot.Retention{}, err
	}
	by, err := snapshot.ParseGrouping(c.String("group-by"))
	if err != nil {
		return snapshot.Retention{}, usage("--group-by: %v", err)
	}
	if pol.Empty() == (c.NArg() == 0) {
		return snapshot.Retention{}, usage("forget what? Give rules or ids, one of the two").
			hint("hakobune forget -n --keep-daily 7 --keep-weekly 5 --keep-monthly 12, or hakobune forget ID...")
	}
	return snapshot.Retention{Policy: pol, By: by, Filter: filter(c), AllowLast: c.Bool("allow-last")}, nil
}

func (p *program) forget(c *cli.Context) error {
	ret, err := retention(c)
	if err != nil {
		return err
	}
	repo, cat, err := p.openCatalog(c)
	if err == nil {
		err = p.readWhole(c, repo, cat)
	}
	if err != nil {
		return err
	}
	p.tellDamage(cat)
	if c.NArg() > 0 {
		return p.forgetNamed(c, cat, ret)
	}
	if err := tagsAreKnown(cat, ret); err != nil {
		return err
	}
	plans := ret.Plan(cat.Snapshots, time.Now(), time.Local)
	line := forgetSummary{Type: "summary", Damaged: len(cat.Damaged), DryRun: c.Bool("dry-run")}
	var gone []snapshot.Summary
	for _, plan := range plans {
		p.showDecisions(c, plan)
		for _, d := range plan.Decisions {
			if d.Stays() {
				line.Kept++
			} else {
				gone = append(gone, d.Snapshot)
			}
		}
	}
	return p.forgetAll(c, cat, gone, line)
}

// tagsAreKnown refuses rules and filters that go by tags while a record cannot be read: what it says may be why a
// snapshot is to stay.
func tagsAreKnown(cat *snapshot.Catalog, ret snapshot.Retention) error {
	if len(cat.Untold) == 0 || len(ret.Policy.Tags)+len(ret.Filter.Tags) == 0 && !ret.By.Tag {
		return nil
	}
	return withHint(fmt.Errorf("forget by tags: %w", errors.Join(cat.Untold...)), "nothing was changed: a snapshot may have tags that are not known; without rules for tags it can be done")
}

// forgetNamed forgets the snapshots that the arguments name.
func (p *program) forgetNamed(c *cli.Context, cat *snapshot.Catalog, ret snapshot.Retention) error {
	gone, err := named(cat, c.Args().Slice(), ret.Filter)
	if err != nil {
		return err
	}
	if !ret.AllowLast {
		if err := snapshot.CheckLast(cat.Snapshots, gone); err != nil {
			return withHint(fmt.Errorf("forget snapshots: %w", err), "nothing was changed; --allow-last does it all the same")
		}
	}
	plan := snapshot.GroupPlan{}
	for _, s := range gone {
		plan.Decisions = append(plan.Decisions, snapshot.Decision{Snapshot: s})
	}
	p.showDecisions(c, plan)
	kept := len(ret.Filter.Apply(cat.Snapshots)) - len(gone)
	return p.forgetAll(c, cat, gone, forgetSummary{Type: "summary", Kept: kept, Damaged: len(cat.Damaged), DryRun: c.Bool("dry-run")})
}

// named finds snapshots by their ids, each once. What is good enough to read the newest snapshot of a system
// is too little to remove it: whoever says "forget shop" may mean all of them.
func named(cat *snapshot.Catalog, ids []string, f snapshot.Filter) ([]snapshot.Summary, error) {
	var list []snapshot.Summary
	seen := map[string]bool{}
	for _, id := range ids {
		sel, err := snapshot.Select(cat.Snapshots, id, f, time.Local)
		if err != nil {
			return nil, withHint(err, "hakobune snapshots lists what there is")
		}
		s := sel.Summary
		if !strings.HasPrefix(s.ID, strings.ToLower(id)) {
			return nil, usage("forget takes ids of snapshots, not %q", id).hint("hakobune snapshots --system %s lists them", s.System)
		}
		if !seen[s.ID] {
			seen[s.ID] = true
			list = append(list, s)
		}
	}
	return list, nil
}

type forgetSummary struct {
	Type      string `json:"message_type"`
	Kept      int    `json:"kept"`      // of those that the filters keep
	Forgotten int    `json:"forgotten"` // or would be
	Damaged   int    `json:"damaged"`   // cannot be read, and stay
	DryRun    bool   `json:"dry_run"`
}

// forgetAll forgets gone unless this is a dry run, and prints the end of it.
func (p *program) forgetAll(c *cli.Context, cat *snapshot.Catalog, gone []snapshot.Summary, line forgetSummary) error {
	line.Forgotten = len(gone)
	if !line.DryRun {
		err := cat.Forget(c.Context, hostName(), gone)
		if errors.Is(err, chunkstore.ErrForgetRecord) && errors.Is(err, crypto.ErrDamaged) {
			err = withHint(err, "hakobune check names the record; if the store cannot give it back whole, remove that object: what it lists is wanted again then")
		}
		if err != nil {
			return err
		}
	}
	return p.result(c, line, func() {
		word := "forgot"
		if line.DryRun {
			word = "would forget"
		}
		fmt.Fprintf(p.out, "%s %d snapshots, %d stay\n", word, line.Forgotten, line.Kept)
		if line.Damaged > 0 {
			p.note(c, "%d snapshots cannot be read and stay; hakobune check tells more", line.Damaged)
		}
		if line.Forgotten > 0 && !line.DryRun {
			p.note(c, "the space is given back by: hakobune prune")
		}
	})
}

type forgetLine struct {
	Type string `json:"message_type"`
	snapshot.Summary
	Stored  time.Time      `json:"stored"` // by the store's clock
	Group   snapshot.Group `json:"group"`
	Stays   bool           `json:"stays"`
	Reasons []string       `json:"reasons,omitempty"`
}

// showDecisions prints what becomes of the snapshots of a group.
func (p *program) showDecisions(c *cli.Context, plan snapshot.GroupPlan) {
	if isSet(c, "json") {
		for _, d := range plan.Decisions {
			writeJSON(p.out, forgetLine{"forget_decision", d.Snapshot, d.Snapshot.Stored, plan.Group, d.Stays(), d.Reasons})
		}
		return
	}
	if name := groupName(plan.Group); name != "" {
		fmt.Fprintf(p.out, "%s\n", name)
	}
	t := newTable("ID", "Stored", "System", "Host", "Tags", "", "Why")
	for i := len(plan.Decisions) - 1; i >= 0; i-- { // the newest last, next to the prompt
		d := plan.Decisions[i]
		s, what, why := d.Snapshot, "goes", "-"
		if d.Stays() {
			what, why = "stays", strings.Join(d.Reasons, ", ")
		}
		if !s.Complete {
			what += ", INCOMPLETE"
		}
		t.row(s.ID[:8], localTime(s.Stored), s.System, s.Host, strings.Join(s.Tags, ","), what, why)
	}
	t.write(p.out)
	fmt.Fprintln(p.out)
}

// groupName names a group as its grouping made it; the group of all has no name.
func groupName(g snapshot.Group) string {
	var parts []string
	if g.System != "" {
		parts = append(parts, "system "+g.System)
	}
	if g.Host != "" {
		parts = append(parts, "host "+g.Host)
	}
	if len(g.Tags) > 0 {
		parts = append(parts, "tags "+strings.Join(g.Tags, ","))
	}
	return strings.Join(parts, ", ")
}
