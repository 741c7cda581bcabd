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
		ArgsUsage: "SNAPSHOT | --pack ID...",
		Description: `Contents that were put into an archive class of S3 (--data-class GLACIER or DEEP_ARCHIVE, or by a rule of the
bucket) cannot be read at once. This asks the store for all that the snapshot needs, and waits until it can be
read: hours, by the class and the tier. Lists, metadata and configuration are not archived. hakobune restore does
the same by itself. GLACIER_IR can be read at once and needs none of this.

   hakobune thaw shop
   hakobune thaw --tier Bulk --days 14 shop@2026-11-20
   hakobune thaw --pack 0a1b2c3d --pack 4e5f6071      what a repair could not read
   hakobune thaw --pack all

The wait may be interrupted: what was asked for goes on in the store, and the next run takes it up.

` + selectorHelp,
		Flags: append(filterFlags(),
			&cli.StringSliceFlag{Name: "pack", Usage: "bring back packs instead, by the beginning `ID` of their ids, or all"},
			&cli.IntFlag{Name: "days", Value: 7, Usage: "keep it readable for `N` days"},
			&cli.StringFlag{Name: "tier", Usage: "how fast and at what price: `TIER` Standard, Bulk or Expedited", Value: "Standard"},
		),
		Action: p.thaw,
	}
}

type thawLine struct {
	Type     string `json:"message_type"`
	Snapshot string `json:"snapshot,omitempty"`
	Packs    int    `json:"packs"`
}

func (p *program) thaw(c *cli.Context) error {
	ids := c.StringSlice("pack")
	selector, err := "", none(c)
	if len(ids) == 0 {
		selector, err = one(c, "a snapshot")
	}
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
	if len(ids) > 0 {
		return p.thawPacks(c, repo, ids, o)
	}
	snap, err := p.chooseWhole(c, repo, selector)
	if err != nil {
		return err
	}
	n, err := p.thawSnapshot(c, repo, snap.Summary, o)
	if err != nil {
		return err
	}
	return p.result(c, thawLine{Type: "summary", Snapshot: snap.ID, Packs: n}, func() {
		fmt.Fprintf(p.out, "snapshot %s of %s can be read; %d packs of it were archived\n", snap.ID[:8], snap.Summary.System, n)
	})
}

// thawPacks brings packs back, whatever needs them.
func (p *program) thawPacks(c *cli.Context, repo *chunkstore.Repository, ids []string, o chunkstore.ThawOptions) error {
	if slices.Contains(ids, "all") {
		ids = nil
	}
	for _, id := range ids {
		if len(id) < shortPackID {
			return usage("--pack %q is too short for the id of a pack", id).hint("a repair tells the names of packs that it could not read; the id is the last part")
		}
	}
	pr := p.newProgress(c)
	o.Progress = thawProgress(pr)
	n, err := repo.ThawPacks(c.Context, ids, o)
	pr.stop()
	if err != nil {
		return err
	}
	return p.result(c, thawLine{Type: "summary", Packs: n}, func() {
		fmt.Fprintf(p.out, "%d packs that were archived can be read\n", n)
	})
}

func thawProgress(pr progress) func(ready, total int) {
	return func(ready, total int) {
		snapshot.Observer(pr.show).Notify(snapshot.Event{Phase: "thaw", What: fmt.Sprintf("%d of %d packs can be read", ready, total)})
	}
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
	o.Progress = thawProgress(pr)
	return repo.Thaw(c.Context, importer.Refs(repo)(c.Context, outcomes[at]), o)
}
