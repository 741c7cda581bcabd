package importer_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// TestStageOnEngines restores a system from its stage: nothing is fetched, and it is what a restore makes without one.
func TestStageOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		repo, snap, conf := realShop(t, prefix)
		dir := t.TempDir()
		t.Cleanup(func() { dropStages(t, e, prefix) })
		r, err := importer.SyncStage(t.Context(), repo, snap, e, importer.StageOptions{Dir: dir})
		ok(t, err)
		if r.Fetched == 0 || len(r.Steps) != 5 {
			t.Errorf("first: %+v", r)
		}
		r, err = importer.SyncStage(t.Context(), repo, snap, e, importer.StageOptions{Dir: dir})
		ok(t, err)
		if r.Fetched != 0 {
			t.Errorf("again: %+v", r)
		}
		opts := brisk
		opts.Stage = dir
		opts.Ports = map[string]string{"18099": ""}
		res, err := importer.Restore(t.Context(), repo, snap, e, opts)
		ok(t, err)
		if res.Fetched != 0 || res.Healthy == 0 {
			t.Errorf("%d bytes fetched, healthy after %v: %+v", res.Fetched, res.Healthy, res.Objects)
		}
		if got := run(t, e, snap.System.Containers[0].Name, "cat /data/table /etc/os"); !strings.HasPrefix(got, "rows\n") {
			t.Errorf("in the container: %q", got)
		}
		if data, err := os.ReadFile(conf + "/site.conf"); err != nil || string(data) != "listen\n" {
			t.Errorf("bind: %q, %v", data, err)
		}
	})
}

// dropStages removes the volumes in which a system of the test is staged.
func dropStages(t *testing.T, e *docker.Engine, prefix string) {
	ctx := context.Background() // the test's has ended
	names, err := e.Names(ctx)
	ok(t, err)
	for _, v := range names.Volumes {
		if strings.HasPrefix(v.Name, "hakobune-stage-"+prefix) {
			ok(t, e.RemoveVolume(ctx, v.Name))
		}
	}
}
