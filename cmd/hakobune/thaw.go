package main

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

func (p *program) thawCommand() *cli.Command {
	return &cli.Command{
		Name:      "thaw",
		Usage:     "bring back what of a snapshot lies in an archive of the store, and wait for it",
		ArgsUsage: "SNAPSHOT",
		Description: `Contents that were put into an archive class of S3 (--data-class GLACIER or DEEP_ARCHIVE, or by a rule of the
bucket) cannot be read at once. This asks the store for all that the snapshot needs, and waits until it can be
read: hours, by the class and the tier. Lists, metadata and configuration are not archived. hakobune restore does
the same by itself. GLACIER_IR can be read at once and needs none of this.

   hakobune thaw shop
   hakobune thaw --tier Bulk --days 14 shop@2026-11-20

The wait may be interrupted: what was asked for goes on in the store, and the next run takes it up.

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.IntFlag{Name: "days", Value: 7, Usage: "keep it readable for `N` days"},
			&cli.StringFlag{Name: "tier", Usage: "how fast and at what price: `TIER` Standard, Bulk or Expedited", Value: "Standard"},
		),
		Action: p.thaw,
	}
}

type thawLine struct {
	Type     string `json:"message_type"`
	Snapshot string `json:"snapshot"`
	Packs    int    `json:"packs"`
}

func (p *program) thaw(c *cli.Context) error {
	selector, err := one(c, "a snapshot")
	if err != nil {
		return err
	}
	o := chunkstore.ThawOptions{Days: c.Int("days"), Tier: c.String("tier")}
	if o.Days < 1 || o.Days > 365 {
		return usage("--days %d: want 1 to 365", o.Days)
	}
	if !slices.Contains([]string{"Standard", "Bulk", "Expedited"}, o.Tier) {
		return usage("--tier %q: want Standard, Bulk or Expedited", o.Tier)
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	snap, err := p.chooseWhole(c, repo, selector)
	if err != nil {
		return err
	}
	n, err := p.thawSnapshot(c, repo, snap.Summary, o)
	if err != nil {
		return err
	}
	return p.result(c, thawLine{"summary", snap.ID, n}, func() {
		fmt.Fprintf(p.out, "snapshot %s of %s can be read; %d packs of it were archived\n", snap.ID[:8], snap.Summary.System, n)
	})
}

// thawSnapshot brings back what of a snapshot is archived, and returns how many packs that were.
func (p *program) thawSnapshot(c *cli.Context, repo *chunkstore.Repository, s snapshot.Summary, o chunkstore.ThawOptions) (int, error) {
	outcomes, err := repo.Outcomes(c.Context)
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(outcomes, func(o chunkstore.Outcome) bool { return o.Session.Random() == s.ID })
	if at < 0 {
		return 0, fmt.Errorf("snapshot %s is not in the list of its repository", s.ID)
	}
	pr := p.newProgress(c)
	defer pr.stop()
	o.Progress = func(ready, total int) {
		snapshot.Observer(pr.show).Notify(snapshot.Event{Phase: "thaw", What: fmt.Sprintf("%d of %d packs can be read", ready, total)})
	}
	return repo.Thaw(c.Context, importer.Refs(repo)(c.Context, outcomes[at]), o)
}
