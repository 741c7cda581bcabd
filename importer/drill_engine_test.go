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

// Drills in a row, of which one fails and one is cancelled, leave a real engine as it was.
func TestDrillsOnEngine(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("boots a system three times")
	}
	hosts := dockertest.Engines(t)
	h := hosts[min(1, len(hosts)-1)]
	prefix, dir := dockertest.Prefix(t, h), t.TempDir()
	e, err := docker.Connect(t.Context(), docker.Options{Host: h.Host})
	ok(t, err)
	t.Cleanup(func() { e.Close() })
	repo, snap, _ := realShop(t, prefix)
	o := importer.DrillOptions{Dir: dir, Host: "home", Settle: brisk.Settle, Probes: []importer.Probe{
		probe(t, "exec:db:cat /data/table", "rows"), probe(t, "exec:web:cat /conf/site.conf; test ! -e /sys/class/net/eth1", "/^listen/"),
	}}
	record, err := importer.Drill(t.Context(), repo, snap, e, o)
	ok(t, err)
	t.Logf("healthy after %v, all in %v, notes %v", record.RTO, record.Took, record.Notes)
	nothingOfDrills(t, e, snap, dir)

	bad := o
	bad.ProbeTimeout, bad.Probes = 1, []importer.Probe{probe(t, "exec:db:cat /data/table", "no such row")}
	if record, err := importer.Drill(t.Context(), repo, snap, e, bad); err == nil || record.Passed || record.RTO == 0 {
		t.Errorf("a drill with a wrong answer: %v, %+v", err, record)
	}
	nothingOfDrills(t, e, snap, dir)

	ctx, cancel := context.WithCancel(t.Context())
	o.Observer = func(ev snapshot.Event) {
		if ev.Phase == "probes" {
			cancel()
		}
	}
	if _, err := importer.Drill(ctx, repo, snap, e, o); err == nil {
		t.Error("a cancelled drill passed")
	}
	nothingOfDrills(t, e, snap, dir)
	all, err := repo.Records(t.Context())
	ok(t, err)
	if len(all) != 2 {
		t.Errorf("%d records, want those of the two drills that came to an end", len(all))
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
