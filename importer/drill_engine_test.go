package importer_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// Ten drills in a row on each kind of engine, of which one fails and one is cancelled, leave it as it was.
func TestDrillsOnEngine(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("boots a system ten times on each engine")
	}
	for _, h := range dockertest.Engines(t)[:2] {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			tenDrills(t, h)
		})
	}
}

func tenDrills(t *testing.T, h dockertest.Host) {
	prefix, dir := dockertest.Prefix(t, h), t.TempDir()
	e, err := docker.Connect(t.Context(), docker.Options{Host: h.Host})
	ok(t, err)
	t.Cleanup(func() { e.Close() })
	repo, snap, _ := realShop(t, prefix)
	const failing, cancelled = 4, 7
	for n := range 10 {
		o := importer.DrillOptions{Dir: dir, Host: "home", Settle: brisk.Settle, Probes: []importer.Probe{
			probe(t, "exec:db:cat /data/table", "rows"), probe(t, "exec:web:cat /conf/site.conf; test ! -e /sys/class/net/eth1", "/^listen/"),
		}}
		ctx, cancel := context.WithCancel(t.Context())
		switch n {
		case failing:
			o.ProbeTimeout, o.Probes = 1, []importer.Probe{probe(t, "exec:db:cat /data/table", "no such row")}
		case cancelled:
			o.Observer = func(ev snapshot.Event) {
				if ev.Phase == "probes" {
					cancel()
				}
			}
		}
		record, err := importer.Drill(ctx, repo, snap, e, o)
		cancel()
		if passed := n != failing && n != cancelled; (err == nil) != passed || record.Passed != passed || n != cancelled && record.RTO == 0 {
			t.Errorf("drill %d: %v, %+v", n, err, record)
		}
		nothingOfDrills(t, e, snap, dir)
	}
	all, err := repo.Records(t.Context())
	ok(t, err)
	if len(all) != 9 {
		t.Errorf("%d records, want those of the nine drills that came to an end", len(all))
	}
}

// nothingOfDrills fails if the engine has anything that drills of the directory made.
func nothingOfDrills(t *testing.T, e *docker.Engine, snap *snapshot.Snapshot, dir string) {
	t.Helper()
	names, err := e.Names(t.Context())
	ok(t, err)
	for _, o := range slices.Concat(names.Containers, names.Volumes, names.Networks) {
		if strings.HasSuffix(o.Labels["io.github.hakobune-dr.drill-of"], dir) || strings.Contains(o.Name, snap.System.Name) {
			t.Errorf("%s is left", o.Name)
		}
	}
	images, err := e.Images(t.Context())
	ok(t, err)
	for _, img := range images {
		ours := img.Config == snap.System.Images[0].Config || img.ID == snap.System.Images[0].Config
		if ours || slices.ContainsFunc(img.Tags, func(tag string) bool { return strings.Contains(tag, snap.System.Name) }) {
			t.Errorf("image %s %v is left", img.ID, img.Tags)
		}
	}
	if left := drillsLeft(t, dir); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}
