package exporter_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
)

// A system of another site is not backed up: nothing is held if that is known before, nothing stored if it becomes so
// while the system is copied.
func TestExportOfAnotherSite(t *testing.T) {
	repo := memRepository(t)
	f := newFakeSystem(t, "web")
	home := snapshot.Site{Name: "home", ID: "01"}
	catalog := func() *snapshot.Catalog {
		t.Helper()
		cat, err := snapshot.ReadCatalog(t.Context(), repo)
		if err != nil {
			t.Fatal(err)
		}
		return cat
	}
	claim := func(site snapshot.Site) {
		t.Helper()
		if _, err := catalog().Claim(t.Context(), snapshot.Term{System: "shop", Site: site, Why: snapshot.WhyFailover}); err != nil {
			t.Error(err)
		}
	}
	export := func(observer snapshot.Observer) (*snapshot.Snapshot, error) {
		t.Helper()
		return exporter.Export(t.Context(), repo, f, discover(t, f, "shop"), exporter.Options{Site: home, Observer: observer})
	}
	var owned *snapshot.OwnedError
	var once sync.Once
	if _, err := export(func(e snapshot.Event) {
		if e.Phase == "pause" || e.Phase == "copy" {
			once.Do(func() { claim(snapshot.Site{Name: "cloud"}) })
		}
	}); !errors.As(err, &owned) || owned.Term.Site.Name != "cloud" {
		t.Errorf("taken over while it was copied: %v", err)
	}
	held := false
	if _, err := export(func(snapshot.Event) { held = true }); !errors.As(err, &owned) || held {
		t.Errorf("taken over before: %v, something was done: %v", err, held)
	}
	if n := len(catalog().Snapshots); n != 0 {
		t.Errorf("%d snapshots", n)
	}
	claim(home)
	snap, err := export(nil)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Term != 2 || snap.Site != "home" || catalog().Snapshots[0].Term != 2 {
		t.Errorf("term %d, site %s", snap.Term, snap.Site)
	}
	if f.state("web") != "running" {
		t.Errorf("the container is %s", f.state("web"))
	}
}
