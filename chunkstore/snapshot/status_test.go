package snapshot_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func TestStatuses(t *testing.T) {
	const rpo, rto = "io.github.hakobune-dr.rpo", "io.github.hakobune-dr.rto"
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	type record map[string]any
	drill := func(rto time.Duration, passed bool) record {
		return record{"kind": "drill", "system": "shop", "started": now.Add(-time.Hour), "rto": rto, "passed": passed}
	}
	failover := record{"kind": "failover", "system": "shop", "started": now.Add(-2 * time.Hour), "rto": time.Minute}
	for _, tt := range []struct {
		name    string
		age     time.Duration
		labels  map[string]string
		records []record
		missed  string
	}{
		{"nothing wanted", 1000 * time.Hour, nil, nil, ""},
		{"young enough", 23 * time.Hour, map[string]string{rpo: "1d"}, nil, ""},
		{"too old", 25 * time.Hour, map[string]string{rpo: "24h"}, nil, "the newest good snapshot is 25h0m0s old, wanted are 24h0m0s"},
		{"no length of time", 0, map[string]string{rpo: "daily"}, nil, `label io.github.hakobune-dr.rpo of container web: "daily" is no length of time, as in 90m, 24h or 2d`},
		{"never shown", 0, map[string]string{rto: "30m"}, nil, "no drill or failover has shown the 30m0s that are wanted"},
		{"shown by a drill", 0, map[string]string{rto: "30m"}, []record{drill(29*time.Minute, true)}, ""},
		{"shown by a failover", 0, map[string]string{rto: "30m"}, []record{failover}, ""},
		{"the newest counts", 0, map[string]string{rto: "30m"}, []record{failover, drill(31*time.Minute, true)}, "it took 31m0s until the system ran, wanted are 30m0s"},
		{"failed", 0, nil, []record{failover, drill(0, false)}, "the last drill failed"},
		{"failed, once shown", 0, map[string]string{rto: "30m"}, []record{failover, drill(0, false)}, "the last drill failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repo := newRepository(t, mem.New(mem.Options{}))
			for _, complete := range []bool{true, false} { // the incomplete one is newer, and does not count
				snap := &snapshot.Snapshot{
					Summary: snapshot.Summary{System: "shop", Time: now.Add(-tt.age), Complete: complete},
					System:  snapshot.System{Name: "shop", Containers: []snapshot.Container{{Name: "web", Labels: tt.labels, Inspect: []byte("{}")}}},
				}
				if !complete {
					snap.Time = now
				}
				commit(t, repo, snap)
			}
			for _, r := range tt.records {
				if err := repo.AddRecord(t.Context(), r["kind"].(string), r); err != nil {
					t.Fatal(err)
				}
			}
			got, err := catalog(t, repo).Statuses(t.Context(), now)
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			if diff := cmp.Diff(tt.missed, strings.Join(got[0].Missed, "; ")); diff != "" || got[0].Age != tt.age {
				t.Errorf("age %v, missed (-want +got):\n%s", got[0].Age, diff)
			}
		})
	}
}

// A system without a complete snapshot, or with strays only, has nothing to come back from.
func TestStatusWithout(t *testing.T) {
	repo := newRepository(t, mem.New(mem.Options{}))
	claimShop(t, repo, standby)
	shopNight(t, repo, 1, 0)
	got, err := catalog(t, repo).Statuses(t.Context(), time.Now())
	if err != nil || len(got) != 1 || got[0].Snapshot != "" || strings.Join(got[0].Missed, "") != "there is no complete snapshot" {
		t.Errorf("%+v, %v", got, err)
	}
	if got[0].Owner == nil || got[0].Owner.Site != standby {
		t.Errorf("owner %v", got[0].Owner)
	}
}
