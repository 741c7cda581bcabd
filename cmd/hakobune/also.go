package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// destination is one of the repositories that a backup goes to.
type destination struct {
	name string
	open func() (*chunkstore.Repository, error)
	repo *chunkstore.Repository // once it is open
	err  error                  // why nothing goes there any more
}

// get opens the repository when it is needed first.
func (d *destination) get() (*chunkstore.Repository, error) {
	if d.repo == nil && d.err == nil {
		d.repo, d.err = d.open()
	}
	return d.repo, d.err
}

// down looks whether the place still answers, after an error that may have another reason, and remembers the
// error if it does not.
func (p *program) down(c *cli.Context, d *destination, err error) bool {
	if _, _, gone := p.lookInto(c, d.repo.Backend()); gone != nil && c.Context.Err() == nil {
		d.err = err
	}
	return d.err != nil
}

// alsoFlags say where else a backup goes.
func alsoFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "also", Usage: "store the snapshot in `REPO` as well; may be given several times [HAKOBUNE_ALSO_1_REPOSITORY, _2_, ...]"},
		&cli.StringSliceFlag{Name: "also-password-file", Usage: "the password of that one is the first line of `FILE`; the n-th is of the n-th --also"},
		&cli.StringSliceFlag{Name: "also-key-file", Usage: "open it with the key in `FILE`"},
		&cli.StringSliceFlag{Name: "also-profile", Usage: "its S3 keys are those of the section `NAME` of AWS's shared files, not the environment's"},
	}
}

// others returns the further repositories of a backup, as flags and environment name them.
func (p *program) others(c *cli.Context) ([]other, error) {
	names := c.StringSlice("also")
	for n := 1; len(c.StringSlice("also")) == 0; n++ {
		name, err := p.env.own(alsoEnv(n) + "REPOSITORY")
		if err != nil {
			return nil, err
		}
		if name == "" {
			break
		}
		names = append(names, name)
	}
	nth := func(flag string, i int) string {
		if list := c.StringSlice(flag); i < len(list) {
			return list[i]
		}
		return ""
	}
	var list []other
	for i, name := range names {
		o := other{
			name: name, passwordFile: nth("also-password-file", i), keyFile: nth("also-key-file", i),
			profile: cmp.Or(nth("also-profile", i), p.env.get("HAKOBUNE_"+alsoEnv(i+1)+"PROFILE")),
			env:     alsoEnv(i + 1), flags: "--also-",
		}
		list = append(list, o)
	}
	for _, flag := range []string{"also-password-file", "also-key-file", "also-profile"} {
		if n := len(c.StringSlice(flag)); n > len(list) {
			return nil, usage("--%s is given %d times, --also %d times", flag, n, len(list)).hint("the n-th --%s is of the n-th --also", flag)
		}
	}
	return list, nil
}

func alsoEnv(n int) string { return "ALSO_" + strconv.Itoa(n) + "_" }

// destinations returns where a backup goes: the repository of -r first, then the others.
func (p *program) destinations(c *cli.Context) ([]*destination, error) {
	name, err := p.repoName(c)
	if err != nil {
		return nil, err
	}
	others, err := p.others(c)
	if err != nil {
		return nil, err
	}
	list := []*destination{{name: name}}
	opts, err := p.cached(c)
	if err != nil {
		return nil, err
	}
	list[0].open, err = p.opening(c, opts, openAny)
	if err != nil && (len(others) == 0 || errors.Is(err, errUsage) || c.Context.Err() != nil) {
		return nil, err
	}
	list[0].err = err
	for _, o := range others {
		for _, d := range list {
			if d.name == o.name {
				return nil, usage("the backup goes to %s twice", o.name)
			}
		}
		list = append(list, &destination{name: o.name, open: func() (*chunkstore.Repository, error) { return p.openOther(c, o, openAny) }})
	}
	return list, nil
}

// openFirst opens the first destination that can be opened; that is where a backup is made.
func openFirst(list []*destination) error {
	var errs []error
	for _, d := range list {
		_, err := d.get()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// storeFunc backs a system up in a repository.
type storeFunc func(*chunkstore.Repository) (*snapshot.Snapshot, error)

// tryAll calls store with one destination after the other until one takes the snapshot, and returns which. An
// error of a place that still answers is not for another one to mend.
func (p *program) tryAll(c *cli.Context, list []*destination, store storeFunc) (*destination, *snapshot.Snapshot, error) {
	var errs []error
	for _, d := range list {
		repo, err := d.get()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		snap, err := store(repo)
		if err == nil {
			return d, snap, nil
		}
		errs = append(errs, err)
		if len(list) == 1 || !p.down(c, d, err) {
			return nil, nil, err
		}
	}
	return nil, nil, errors.Join(errs...)
}

type alsoLine struct {
	Type       string `json:"message_type"`
	Repository string `json:"repository"`
	snapshot.Summary
	Read int64 `json:"read"`
}

type missedLine struct {
	Type       string `json:"message_type"`
	Repository string `json:"repository"`
	System     string `json:"system"`
	Message    string `json:"message"`
	Hint       string `json:"hint,omitempty"`
}

// copyToOthers copies a snapshot from the destination that took it to the others. One that cannot be reached
// lets the command end with its own exit code; the others have the snapshot. What a put-only host has stored it cannot copy,
// and to where it stores it cannot copy: there store makes another snapshot.
func (p *program) copyToOthers(c *cli.Context, list []*destination, taker *destination, snap *snapshot.Snapshot, store storeFunc) {
	for _, d := range list {
		if d == taker || c.Context.Err() != nil {
			continue
		}
		err := p.copyTo(c, taker.repo, d, snap.Summary, store)
		if err == nil {
			continue
		}
		p.exit = exitIncomplete
		hint := hintFor(err, false)
		if hint == "" {
			hint = fmt.Sprintf("once it can be reached: hakobune -r %s copy --from-repo %s", d.name, taker.name)
		}
		if isSet(c, "json") {
			writeJSON(p.out, missedLine{"error", d.name, snap.Summary.System, err.Error(), hint})
			continue
		}
		fmt.Fprintf(p.err, "hakobune: the snapshot of %s is NOT in %s: %v\nhint: %s\n", snap.Summary.System, d.name, err, hint)
	}
}

// copyTo copies a snapshot to another destination, and tells of it.
func (p *program) copyTo(c *cli.Context, from *chunkstore.Repository, d *destination, s snapshot.Summary, store storeFunc) error {
	to, err := d.get()
	if err != nil {
		return err
	}
	if from.IsPutOnly() || to.IsPutOnly() {
		snap, err := store(to)
		if err == nil {
			p.showBackup(c, snap, d.name)
		}
		return err
	}
	cat, err := snapshot.ReadCatalog(c.Context, from)
	if err != nil {
		return err
	}
	copier, err := p.newCopier(c, from, cat, to)
	if err != nil {
		return err
	}
	stored, err := storedAs(cat, s)
	if err != nil {
		return err
	}
	pr := p.newProgress(c)
	copied, err := copier.Copy(c.Context, stored, pr.show)
	pr.stop()
	if err != nil {
		p.down(c, d, err)
		return err
	}
	return p.result(c, alsoLine{"copied", d.name, copied.Summary, copied.Read}, func() {
		fmt.Fprintf(p.out, "  also in %s as %s: %s read, %s stored\n", d.name, copied.ID[:8], size(copied.Read), size(copied.Stats.Stored))
	})
}

// storedAs finds a snapshot in a catalog, where it has the time that its store gave it.
func storedAs(cat *snapshot.Catalog, s snapshot.Summary) (snapshot.Summary, error) {
	for _, found := range cat.Snapshots {
		if found.ID == s.ID {
			return found, nil
		}
	}
	return s, fmt.Errorf("snapshot %s is not in the list of its repository", s.ID)
}
