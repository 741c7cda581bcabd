package importer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// dyingEngine makes no container: before the first one the restore is killed.
type dyingEngine struct {
	*docker.Engine
	die func()
}

func (e *dyingEngine) CreateContainer(context.Context, snapshot.Container, snapshot.Placement) (string, []string, error) {
	e.die()
	return "", nil, errKilled
}

// A restore that is killed when it has moved a running system aside and filled its volumes anew is taken back: the system
// runs again, on what it had written.
func TestKilledReplaceOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		repo, snap, conf := realShop(t, prefix)
		db, web := snap.System.Containers[0].Name, snap.System.Containers[1].Name
		o := importer.Options{Settle: brisk.Settle, StateDir: t.TempDir()}
		_, err := importer.Restore(t.Context(), repo, snap, e, o)
		ok(t, err)
		run(t, e, db, "echo newer > /data/table")
		kept, at := filepath.Join(t.TempDir(), "journal"), ""
		o.Replace, o.Keep = true, true
		_, err = importer.Restore(t.Context(), repo, snap, &dyingEngine{e, func() {
			all, err := filepath.Glob(filepath.Join(o.StateDir, "restores", "*"))
			ok(t, err)
			at = all[0]
			ok(t, os.Link(at, kept))
		}}, o)
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		ok(t, os.Rename(kept, at))
		found, err := importer.Recover(t.Context(), e, o.StateDir, "")
		if err != nil || len(found.Left) > 0 {
			t.Fatal(err, found.Left)
		}
		if got := run(t, e, db, "cat /data/table") + run(t, e, web, "cat /conf/site.conf"); got != "newer\nlisten\n" {
			t.Errorf("put back was %q", got)
		}
		checkNothingAside(t, e, prefix, conf)
	})
}
