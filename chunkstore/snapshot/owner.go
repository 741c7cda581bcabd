package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// A system belongs to one site at a time: only that backs it up. Without any term it belongs to whoever does, which
// counts as term 0. Each change of the owner is the next term, of which there is exactly one (chunkstore.Claim),
// however many sites want it at once.

// Site is a place where a system can run.
type Site struct {
	Name string `json:"name"`
	// ID tells hosts apart that have the same name. Empty: the name was given by somebody, and says it all.
	ID string `json:"id,omitempty"`
}

// Is reports whether s and o are the same site.
func (s Site) Is(o Site) bool {
	return s.Name == o.Name && (s.ID == "" || o.ID == "" || s.ID == o.ID)
}

// Why a term began.
const (
	WhyFailover = "failover"
	WhyFailback = "failback"
	WhyHandover = "handover"
	WhyForced   = "forced"
)

// Term says whose a system is from a moment on.
type Term struct {
	System   string    `json:"system"`
	Number   int       `json:"term"`
	Site     Site      `json:"site"`  // the owner
	Since    time.Time `json:"since"` // by the clock of the host that claimed it
	Why      string    `json:"why"`
	Host     string    `json:"host"`               // that claimed it
	Snapshot string    `json:"snapshot,omitempty"` // id of the one that the owner begins with
	// Known lists the ids of all snapshots of the system that the repository had: one of an earlier term that is
	// not among them was stored by a site that had lost the system already.
	Known []string `json:"known"`
}

// OwnedError says that a system belongs to another site.
type OwnedError struct{ Term Term }

func (e *OwnedError) Error() string {
	t := e.Term
	return fmt.Sprintf("system %s belongs to site %s since %s (%s, term %d)", t.System, t.Site.Name, t.Since.Local().Format("2006-01-02 15:04:05 MST"), t.Why, t.Number)
}

// Owner returns the newest term of a system, nil if there is none. It is an error if that cannot be read.
func Owner(ctx context.Context, repo *chunkstore.Repository, system string) (*Term, error) {
	claims, err := repo.Claims(ctx, system)
	if err != nil {
		return nil, fmt.Errorf("owner of system %s: %w", system, err)
	}
	if len(claims) == 0 {
		return nil, nil
	}
	t, err := parseTerm(claims[len(claims)-1])
	if err != nil {
		return nil, fmt.Errorf("owner of system %s: %w", system, err)
	}
	return &t, nil
}

// CheckOwner returns the term under which site may back the system up, or an *OwnedError.
func CheckOwner(ctx context.Context, repo *chunkstore.Repository, system string, site Site) (int, error) {
	t, err := Owner(ctx, repo, system)
	switch {
	case err != nil:
		return 0, err
	case t == nil:
		return 0, nil
	case !t.Site.Is(site):
		return 0, &OwnedError{*t}
	}
	return t.Number, nil
}

// Claim makes t.Site the owner of t.System by the term after the newest one; t.Number, t.Since and t.Known are set. If
// it is the owner already, that term is returned and nothing is changed. Of several sites that claim a system after
// they have read the same catalog one gets it, the others an *OwnedError.
func (c *Catalog) Claim(ctx context.Context, t Term) (Term, error) {
	claims, err := c.repo.Claims(ctx, t.System)
	if err != nil {
		return Term{}, fmt.Errorf("claim system %s: %w", t.System, err)
	}
	t.Number = 0
	if len(claims) > 0 {
		last := claims[len(claims)-1]
		now, err := parseTerm(last)
		switch {
		case err == nil && now.Site.Is(t.Site):
			return now, nil
		case err == nil && now.Number > c.newestTerm(t.System):
			return Term{}, &OwnedError{now} // since the catalog was read: somebody was faster
		}
		t.Number = last.Number
	}
	t.Number++
	t.Since, t.Known = time.Now().UTC(), []string{}
	for _, s := range c.Snapshots {
		if s.System == t.System && !s.Stray {
			t.Known = append(t.Known, s.ID)
		}
	}
	err = c.repo.Claim(ctx, t.System, t.Number, t)
	if errors.Is(err, chunkstore.ErrClaimed) {
		_, err = CheckOwner(ctx, c.repo, t.System, t.Site) // another process of this site may be the one that got it
		if err == nil {
			err = fmt.Errorf("claim system %s: %w", t.System, chunkstore.ErrClaimed)
		}
	}
	return t, err
}

// newestTerm returns the number of the newest term that the catalog knows, 0 without one.
func (c *Catalog) newestTerm(system string) int {
	if t := c.Owner(system); t != nil {
		return t.Number
	}
	return 0
}

// parseTerm reads the term that a claim gives.
func parseTerm(c chunkstore.Claim) (Term, error) {
	if c.Err != nil {
		return Term{}, c.Err
	}
	var t Term
	if err := frugal.Unmarshal(c.Body, &t); err != nil {
		return t, fmt.Errorf("claim %s: %w: %w", c.Name, crypto.ErrDamaged, err)
	}
	if t.System != c.Series || t.Number != c.Number {
		return t, fmt.Errorf("claim %s: %w: it is of term %d of %s", c.Name, crypto.ErrDamaged, t.Number, t.System)
	}
	return t, nil
}

// readTerms adds the terms of all systems to the catalog, and finds the snapshots that are strays.
func (c *Catalog) readTerms(ctx context.Context) error {
	claims, err := c.repo.Claims(ctx, "")
	if err != nil {
		return err
	}
	for _, claim := range claims {
		t, err := parseTerm(claim)
		if err != nil {
			c.Damaged = append(c.Damaged, err)
			continue
		}
		c.Terms = append(c.Terms, t)
	}
	for i := range c.Snapshots {
		c.Snapshots[i].Stray = slices.ContainsFunc(c.Terms, c.Snapshots[i].strayFrom)
	}
	return nil
}

// strayFrom reports whether s was stored by a site that had lost the system to t. A copy from another repository is
// none: its term is of that one, where strays are copied only by their ids.
func (s *Summary) strayFrom(t Term) bool {
	return s.Origin == nil && s.System == t.System && s.Term < t.Number && !slices.Contains(t.Known, s.ID)
}

// Owner returns the newest term of a system that could be read, nil if there is none.
func (c *Catalog) Owner(system string) *Term {
	var newest *Term
	for i := range c.Terms {
		if t := &c.Terms[i]; t.System == system && (newest == nil || t.Number > newest.Number) {
			newest = t
		}
	}
	return newest
}
