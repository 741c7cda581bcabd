package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

const selectorHelp = `A snapshot is named by its id or the beginning of it, by its system (the newest snapshot of that),
by SYSTEM@2026-11-20 (the newest up to then), or as "latest".`

// filterFlags narrow what a selector chooses from.
func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "system", Usage: "only snapshots of the system `NAME`"},
		&cli.StringFlag{Name: "from-host", Usage: "only snapshots that the host `NAME` made"},
		&cli.StringSliceFlag{Name: "tag", Usage: "only snapshots with `TAG`; may be given several times"},
	}
}

func filter(c *cli.Context) snapshot.Filter {
	return snapshot.Filter{System: c.String("system"), Host: c.String("from-host"), Tags: c.StringSlice("tag")}
}

// catalog reads the list of snapshots, and warns of those that cannot be read.
func (p *program) catalog(c *cli.Context, repo *chunkstore.Repository) (*snapshot.Catalog, error) {
	cat, err := snapshot.ReadCatalog(c.Context, repo)
	if err != nil {
		return nil, err
	}
	for _, err := range cat.Damaged {
		p.logger(c).Warn("a snapshot cannot be read; hakobune check tells more", "error", err)
	}
	for _, err := range cat.Untold {
		p.logger(c).Warn("a record cannot be read; it may say that a snapshot has other tags", "error", err)
	}
	return cat, nil
}

// openCatalog opens the repository and reads the list of its snapshots.
func (p *program) openCatalog(c *cli.Context) (*chunkstore.Repository, *snapshot.Catalog, error) {
	repo, err := p.open(c)
	if err != nil {
		return nil, nil, err
	}
	cat, err := p.catalog(c, repo)
	return repo, cat, err
}

// readWhole returns an error if the store did not give, for now, a part of what the list of snapshots is made of: whoever concludes from
// the list what is missing, or what may go, needs all of it.
func (p *program) readWhole(c *cli.Context, repo *chunkstore.Repository, cat *snapshot.Catalog) error {
	for _, err := range slices.Concat(cat.Damaged, cat.Untold) {
		if chunkstore.IsPassing(err) {
			return err
		}
	}
	if err := repo.CheckForgets(c.Context); !errors.Is(err, chunkstore.ErrForgetRecord) || chunkstore.IsPassing(err) {
		return err
	}
	return nil // a damaged one is told, and its snapshots count as wanted
}

// tellDamage lets the command end with its own exit code where snapshots cannot be read.
func (p *program) tellDamage(cat *snapshot.Catalog) { p.wentWithout(cat.Damaged) }

// wentWithout lets the command end with its own exit code where it went on without something: there is damage, unless the store
// just did not give it.
func (p *program) wentWithout(errs []error) {
	for _, err := range errs {
		p.exit = exitFailed
		if !chunkstore.IsPassing(err) {
			p.exit = exitDamage
			return
		}
	}
}

// choose finds the snapshot that the selector names and loads it.
func (p *program) choose(c *cli.Context, repo *chunkstore.Repository, selector string) (*snapshot.Snapshot, snapshot.Selection, error) {
	cat, err := p.catalog(c, repo)
	if err != nil {
		return nil, snapshot.Selection{}, err
	}
	return p.pick(c, cat, selector)
}

// pick is choose from a catalog that was read already.
func (p *program) pick(c *cli.Context, cat *snapshot.Catalog, selector string) (*snapshot.Snapshot, snapshot.Selection, error) {
	sel, err := snapshot.Select(cat.Snapshots, selector, filter(c), time.Local)
	if err != nil {
		return nil, sel, withHint(err, "hakobune snapshots lists what there is")
	}
	snap, err := cat.Load(c.Context, sel.Summary)
	return snap, sel, err
}

// openWhole opens the repository and chooses a snapshot of it, for commands that take no part of one.
func (p *program) openWhole(c *cli.Context, selector string) (*chunkstore.Repository, *snapshot.Snapshot, error) {
	repo, err := p.open(c)
	if err != nil {
		return nil, nil, err
	}
	snap, err := p.chooseWhole(c, repo, selector)
	return repo, snap, err
}

// chooseWhole is choose for commands that take no part of a snapshot.
func (p *program) chooseWhole(c *cli.Context, repo *chunkstore.Repository, selector string) (*snapshot.Snapshot, error) {
	snap, sel, err := p.choose(c, repo, selector)
	if err == nil && sel.Part != "" {
		err = usage("%s takes a whole snapshot, not a part (%q) of one", c.Command.FullName(), sel.Part)
	}
	return snap, err
}

// part is one tree of a snapshot under the name by which people ask for it.
type part struct {
	name   string // "web", "shop_db", "/etc/shop"
	kind   string // changes, volume, bind
	tree   *snapshot.Archive
	single bool // of a bind: a single file, in the tree under its base name
}

// parts lists the trees that a snapshot holds.
func parts(sys *snapshot.System) []part {
	var list []part
	for _, c := range sys.Containers {
		list = append(list, part{name: c.Name, kind: snapshot.KindChanges, tree: c.Changes})
	}
	for _, v := range sys.Volumes {
		list = append(list, part{name: v.Name, kind: snapshot.KindVolume, tree: v.Content})
	}
	for _, b := range sys.Binds {
		list = append(list, part{name: b.Source, kind: snapshot.KindBind, tree: b.Content, single: b.File})
	}
	return list
}

var errNoPart = errors.New("the snapshot has no such part")

// findPart finds the part that a selection names, and the path in it.
func findPart(sys *snapshot.System, sel snapshot.Selection) (part, string, error) {
	var names []string
	for _, p := range parts(sys) {
		inside, below := strings.CutPrefix(sel.Part, p.name+"/")
		bind := p.kind == snapshot.KindBind && below
		if p.name != sel.Part && !bind {
			names = append(names, p.name)
			continue
		}
		if p.tree == nil {
			return p, "", fmt.Errorf("%s %s: was recorded but not read; hakobune snapshots --details %s says why", p.kind, p.name, sel.Summary.ID[:8])
		}
		if bind {
			return p, cleanInside(inside), nil
		}
		return p, cleanInside(sel.Path), nil
	}
	near := snapshot.Nearest(sel.Part, names)
	if len(near) == 0 {
		near = names
	}
	return part{}, "", withHint(fmt.Errorf("%q: %w", sel.Part, errNoPart), "it has %s", strings.Join(near, ", "))
}

// cleanInside turns what a user typed into the path of a record.
func cleanInside(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// eachSnapshot loads the snapshots that the flags keep, one after the other.
func (p *program) eachSnapshot(ctx context.Context, cat *snapshot.Catalog, f snapshot.Filter, fn func(*snapshot.Snapshot) error) error {
	for _, s := range f.Apply(cat.Snapshots) {
		snap, err := cat.Load(ctx, s)
		if err == nil {
			err = fn(snap)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
