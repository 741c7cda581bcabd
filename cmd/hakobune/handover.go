package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *program) handoverCommand() *cli.Command {
	return &cli.Command{
		Name:      "handover",
		Usage:     "give a system to another site",
		ArgsUsage: "SYSTEM",
		Description: `A system belongs to one site at a time, and only that backs it up. This gives one away of one's own accord:
from now on the backups of this site stop with exit code 22, and those of the other site are the system's.
Neither stops nor starts any container: back the system up, stop it here, hand it over, restore it there.
A failover takes a system without being given it.

   hakobune backup shop && docker compose -p shop stop
   hakobune handover --to cloud shop
   hakobune restore shop                            at the site cloud, with HAKOBUNE_SITE=cloud`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "the site that gets it: its `NAME` as it says it itself, by --site or HAKOBUNE_SITE, or by its host's name"},
			siteFlag(),
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "tell what would be done and do nothing"},
		},
		Action: p.handover,
	}
}

type handoverLine struct {
	Type string `json:"message_type"`
	snapshot.Term
	DryRun bool `json:"dry_run"`
}

func (p *program) handover(c *cli.Context) error {
	system, err := one(c, "a system")
	if err != nil {
		return err
	}
	to := c.String("to")
	if err := validSite(to, nil); to == "" || err != nil {
		return usage("hand %s over to which site? %q is none", system, to).hint("hakobune handover --to SITE %s", system)
	}
	site, err := p.site(c, hostName())
	if err != nil {
		return err
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	newest, err := snapshot.Select(cat.Snapshots, system, snapshot.Filter{}, time.Local)
	if err != nil {
		return withHint(err, "hakobune snapshots lists what there is")
	}
	if newest.Summary.System != system {
		return usage("handover takes the name of a system, not %q", system).hint("the system of that snapshot is %s", newest.Summary.System)
	}
	if _, err := snapshot.CheckOwner(c.Context, repo, system, site); err != nil {
		return err
	}
	t := snapshot.Term{System: system, Number: 1, Site: snapshot.Site{Name: to}, Why: snapshot.WhyHandover, Host: hostName(), Snapshot: newest.Summary.ID}
	if t.Site.Is(site) {
		return usage("%s is this site: there is nothing to hand over", to)
	}
	if now := cat.Owner(system); now != nil {
		t.Number += now.Number
	}
	if !c.Bool("dry-run") {
		if t, err = cat.Claim(c.Context, t); err != nil {
			return err
		}
	}
	return p.result(c, handoverLine{"handover", t, c.Bool("dry-run")}, func() {
		word := "handed"
		if c.Bool("dry-run") {
			word = "would hand"
		}
		fmt.Fprintf(p.out, "%s %s over to site %s; its newest snapshot is %s of %s\n", word, system, to, newest.Summary.ID[:8], localTime(newest.Summary.Time))
	})
}
