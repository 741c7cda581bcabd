package evidence_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/evidence"
)

func TestEvidence(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 2, 0, 0, 0, time.UTC) }
	record := func(kind string, stored time.Time, body any) chunkstore.Record {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return chunkstore.Record{Kind: kind, Modified: stored, Body: text}
	}
	list := []snapshot.Summary{
		{ID: "d", System: "shop", Time: day(9), Complete: false},
		{ID: "c", System: "shop", Time: day(8), Complete: true, Stats: snapshot.Stats{Bytes: 7}},
		{ID: "x", System: "wiki", Time: day(1), Complete: false},
		{ID: "a", System: "shop", Time: day(1), Complete: true},
		{ID: "b", System: "shop", Time: day(2), Complete: true},
	}
	failed := importer.DrillRecord{System: "shop", Started: day(7), Failure: "x"}
	passed := importer.DrillRecord{System: "shop", Started: day(5), Passed: true, RTO: 20 * time.Second}
	records := []chunkstore.Record{
		record("drill", day(5), passed), record("drill", day(7), failed),
		record("failover", day(4), map[string]any{"system": "shop", "term": 2, "site": snapshot.Site{Name: "cloud", ID: "1"}, "rto": 30 * time.Second, "rpo": time.Hour}),
		record("nobody knows", day(4), "x"), record("drill", day(6), []int{1}),
		{Err: errors.New("damaged")},
	}
	e := evidence.New(day(10), "", list, records)
	if len(e.Systems) != 2 || e.Systems[0].System != "shop" || e.Systems[1].System != "wiki" || e.Unreadable != 2 {
		t.Fatalf("%+v", e)
	}
	shop := e.Systems[0]
	if len(shop.Snapshots) != 4 || shop.Snapshots[0].ID != "d" || shop.Complete != 3 || shop.RPO != 48*time.Hour || shop.Gap != 6*24*time.Hour {
		t.Errorf("snapshots of the shop: %+v", shop)
	}
	if diff := cmp.Diff([]importer.DrillRecord{failed, passed}, shop.Drills); diff != "" {
		t.Errorf("drills (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]evidence.Failover{{System: "shop", Kind: "failover", Site: "cloud", Term: 2, Started: day(4), RTO: 30 * time.Second, RPO: time.Hour}}, shop.Failovers); diff != "" {
		t.Errorf("failovers (-want +got):\n%s", diff)
	}
	if shop.RTO != 20*time.Second || !shop.Proved.Equal(day(5)) || shop.NeverTried {
		t.Errorf("the shop is proved: %v at %v", shop.RTO, shop.Proved)
	}
	if wiki := e.Systems[1]; !wiki.NeverTried || wiki.RPO != 0 || wiki.Complete != 0 {
		t.Errorf("of the wiki nothing is proved: %+v", wiki)
	}
	if one := evidence.New(day(10), "wiki", list, records); len(one.Systems) != 1 || one.Systems[0].System != "wiki" {
		t.Errorf("of the wiki alone: %+v", one.Systems)
	}
}
