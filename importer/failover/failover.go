// Package failover makes a system run at the site that this host is at, because the site that had it is lost, or
// because this is its home and it comes back (Options.Why).
//
// The steps, in this order: what a killed run left is taken back; the plan is made, and if it clashes nothing is
// done; the system is claimed for this site (snapshot.Term), which exactly one of several sites gets, so that the
// backups of all others stop; the newest snapshot is restored and waited for until it is healthy; gates look from
// outside whether it does its work; hooks bring the traffic; a record of it all goes into the repository.
//
// A run may be killed at any moment. Run again it goes on: the claim is ours already, a restore that was killed is
// taken back or gone on with (importer.Options.StateDir), and one that was complete is not done again, for a
// file in the state directory tells of it. The time of the first "go" counts.
package failover

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
)

// Engine is what a failover needs of an engine: *docker.Engine has it.
type Engine interface {
	importer.Engine
	// Exec runs argv in a running container and returns its exit code.
	Exec(ctx context.Context, id string, argv []string, out io.Writer) (int, error)
}

// Options of a failover. Site and StateDir are needed.
type Options struct {
	Why      string        // snapshot.WhyFailover, which is the default, or snapshot.WhyFailback
	Site     snapshot.Site // that gets the system
	Host     string        // this one
	StateDir string        // remembers how far a run came
	Restore  importer.Options
	Gates    []Gate
	// GateTimeout bounds the wait for each gate. Zero means two minutes: the containers are healthy by then.
	GateTimeout time.Duration
	Hooks       []Hook
	// HookOutput gets what the commands of hooks print. Nil: nobody.
	HookOutput io.Writer
	// SorryPage answers at ports of this host until the system does.
	SorryPage SorryPage
	// Planned, if not nil, is told the plan before anything is done.
	Planned func(*importer.Plan)
	// StandIn is where a system that comes home still runs: see StandIn. Nil: what is newest in the catalog counts.
	StandIn StandIn
	// Stay leaves the system here, and the StandIn stopped, where a gate is not passed.
	Stay bool
	// Incomplete lets a last snapshot of the stand-in count that lacks something.
	Incomplete bool
	// Told, if not nil, is told what the StandIn is about to do.
	Told func(what string)
}

// Kinds of the records that this package leaves in the repository, see chunkstore.Record.
const (
	RecordKind   = snapshot.WhyFailover
	KindFailback = "failback"
)

// Record is what such a record says.
type Record struct {
	System   string        `json:"system"`
	Snapshot string        `json:"snapshot"`
	Site     snapshot.Site `json:"site"` // that got the system
	Host     string        `json:"host"`
	Term     int           `json:"term"`
	Started  time.Time     `json:"started"` // "go", by the host's clock
	RPO      time.Duration `json:"rpo"`     // age of the snapshot at "go"
	RTO      time.Duration `json:"rto"`     // from "go" until it was healthy and all gates were passed
	Bytes    int64         `json:"bytes"`   // of content written
	Fetched  int64         `json:"fetched"` // of content read from the repository
	Staged   int64         `json:"staged"`  // of content that was held ready here
	Local    int64         `json:"local"`   // of content that was taken from what the site had before
	// Downtime is how long the system was down where a StandIn stopped it: from then until all gates were passed.
	Downtime time.Duration `json:"downtime,omitempty"`
}

// Result says what a failover did.
type Result struct {
	Record
	Resumed   bool     `json:"resumed"`             // an earlier run had begun
	Addresses []string `json:"addresses,omitempty"` // of the containers
	Ports     []string `json:"ports,omitempty"`     // published: "0.0.0.0:8080->80/tcp"
	Gates     []Passed `json:"gates,omitempty"`
	Notes     []string `json:"notes,omitempty"`
	// Kept names, after a failback, what was here before and was moved aside: by this run and by those that did not end.
	Kept    []string         `json:"kept,omitempty"`
	Restore *importer.Result `json:"restore"`
}

// state is what the state directory remembers of a failover that is not complete.
type state struct {
	Version  int              `json:"version"`
	System   string           `json:"system"`
	Snapshot string           `json:"snapshot"`
	Term     int              `json:"term"` // that it is done in
	Started  time.Time        `json:"started"`
	Restored *importer.Result `json:"restored,omitempty"` // set: it is complete
	Recorded bool             `json:"recorded,omitempty"`
	// Stopped, of a failback: the stand-in is stopped, Snapshot is its last, and what comes after happens here.
	Stopped *exporter.Stopped `json:"stopped,omitempty"`
	From    snapshot.Site     `json:"from,omitzero"` // the stand-in's
	// Back: home did not do, and the system is on its way back to the stand-in.
	Back bool `json:"back,omitempty"`
	// Fetched and Local are what was read by the stages before the restore.
	Fetched int64 `json:"fetched,omitempty"`
	Local   int64 `json:"local,omitempty"`
}

// run is one run of Run.
type run struct {
	repo   *chunkstore.Repository
	cat    *snapshot.Catalog
	snap   *snapshot.Snapshot
	engine Engine
	o      Options
	state  state
	sorry  *sorry
	res    *Result

	planned bool // Options.Planned was called
}

// Run does it with a snapshot of the catalog. If another site gets the system the error is a *snapshot.OwnedError, if
// the plan clashes a *importer.ClashError: nothing was done then. After any other error the command is to be run
// again. The Result is never nil.
func Run(ctx context.Context, repo *chunkstore.Repository, cat *snapshot.Catalog, snap *snapshot.Snapshot, e Engine, o Options) (*Result, error) {
	f := &run{repo: repo, cat: cat, snap: snap, engine: e, o: o, res: &Result{}}
	f.o.Why = cmp.Or(o.Why, snapshot.WhyFailover)
	err := error(importer.ErrPushed)
	if snap.Pushed == nil {
		err = f.run(ctx)
	}
	if err != nil {
		return f.res, fmt.Errorf("%s of %s: %w", f.o.Why, snap.System.Name, err)
	}
	return f.res, nil
}

func (f *run) run(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	if f.state.Back {
		if err := f.endMoveBack(ctx); err != nil {
			return err
		}
	}
	if f.state.Restored == nil {
		f.sorry = f.o.SorryPage.open(ctx, f.o.SorryPage.at(&f.snap.System, f.o.Restore), func(port int, err error) {
			f.res.Notes = append(f.res.Notes, fmt.Sprintf("no page at port %d: %v", port, err))
		})
		defer f.sorry.close()
		if err := f.fetchHome(ctx); err != nil {
			return err
		}
		if err := f.bringUp(ctx); err != nil {
			return f.moveBack(ctx, err)
		}
		f.sorry.close() // also at ports that nobody publishes: no gate is passed by the page
	}
	if err := f.claim(ctx); err != nil { // ours by now; if it was lost meanwhile nothing more is done
		return err
	}
	f.describe()
	if f.o.Why == snapshot.WhyFailback {
		var err error
		if f.res.Kept, err = f.kept(ctx); err != nil {
			return err
		}
	}
	if err := f.pass(ctx); err != nil {
		return f.notPassed(ctx, err)
	}
	if err := f.record(ctx); err != nil {
		return err
	}
	f.retireStandIn(ctx)
	if err := f.runHooks(ctx); err != nil {
		return err
	}
	return os.Remove(f.stateFile())
}

// begin reads what an earlier run left, and notes the time of "go".
func (f *run) begin(ctx context.Context) error {
	text, err := os.ReadFile(f.stateFile())
	if err == nil {
		err = json.Unmarshal(text, &f.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", f.stateFile(), err)
	}
	f.res.Resumed = err == nil
	t := f.cat.Owner(f.snap.System.Name)
	owned := t != nil && t.Site.Is(f.o.Site)
	if !f.goesOn(t) {
		f.state, f.res.Resumed = state{}, false // the system was elsewhere since
	}
	if f.state.Back {
		return ctx.Err()
	}
	if f.state.Restored != nil && !f.stands(ctx) {
		if f.state.Restored = nil; f.state.Stopped == nil || f.state.Recorded {
			f.state, f.res.Resumed = state{}, false // somebody has cleared up
		}
	}
	if owned && f.o.Why == snapshot.WhyFailback && !f.res.Resumed {
		if err := f.notHomeYet(ctx, t.Number); err != nil {
			return err
		}
	}
	if f.state.Term = 1; t != nil {
		f.state.Term += t.Number
	}
	if owned {
		f.state.Term = t.Number
	}
	if f.state.Restored == nil && f.state.Stopped == nil {
		f.state.Snapshot = f.snap.Summary.ID
	}
	if f.state.Started.IsZero() {
		f.state.Started = time.Now()
	}
	f.state.Version, f.state.System = 1, f.snap.System.Name
	return ctx.Err()
}

// goesOn reports whether what is remembered counts yet, by whose the system is now.
func (f *run) goesOn(t *snapshot.Term) bool {
	switch {
	case t == nil:
		return false
	case t.Site.Is(f.o.Site):
		return t.Number == f.state.Term
	case f.state.Stopped == nil || !t.Site.Is(f.state.From):
		return false
	}
	return t.Number == f.state.Term-1 || f.state.Back && t.Number == f.state.Term+1 // not claimed yet; given back
}

// stands reports whether the containers of the restore are still there and run.
func (f *run) stands(ctx context.Context) bool {
	return !slices.ContainsFunc(f.state.Restored.Objects, func(o importer.Object) bool {
		if o.Kind != importer.KindContainer || o.State != "running" {
			return false
		}
		s, err := f.engine.State(ctx, o.ID)
		return err != nil || s.State != "running"
	})
}

// bringUp makes the system run here.
func (f *run) bringUp(ctx context.Context) error {
	if err := f.plan(ctx); err != nil {
		return err
	}
	if err := f.save(); err != nil {
		return err
	}
	if err := f.claim(ctx); err != nil {
		return errors.Join(err, os.Remove(f.stateFile()))
	}
	o := f.o.Restore
	o.StateDir = f.o.StateDir
	if o.Replace {
		o.Had = f.hadHere(ctx)
	}
	o.Starting = func(_ string, ports []int) { f.sorry.close(slices.Concat(ports, []int{0})...) } // 0: never all of them
	o.Done = func(r *importer.Result) error {
		f.state.Restored = r
		return f.save()
	}
	r, err := importer.Restore(ctx, f.repo, f.snap, f.engine, o)
	f.res.Restore = r
	if err != nil {
		f.state.Restored = nil // it may have been complete, but for this process remembering it
	}
	return err
}

// plan takes back what a killed run left, and makes the plan, which must not clash: before the system is claimed.
func (f *run) plan(ctx context.Context) error {
	name := f.snap.System.Name
	if f.o.Restore.As != "" {
		name = f.o.Restore.As
	}
	found, err := importer.Recover(ctx, f.engine, f.o.StateDir, name)
	if err != nil {
		return err
	}
	for _, what := range found.Left {
		f.res.Notes = append(f.res.Notes, "left by a restore that was killed: "+what)
	}
	if len(found.Unfinished) > 0 {
		o := f.o.Restore
		o.StateDir = f.o.StateDir
		for _, u := range found.Unfinished {
			if !u.ResumedBy(f.state.Snapshot, o) {
				return u
			}
		}
		return nil // the restore goes on with it
	}
	target, err := importer.Survey(ctx, f.engine, f.snap, f.o.Restore)
	if err != nil {
		return err
	}
	plan, err := importer.NewPlan(f.snap, target, f.o.Restore)
	if plan != nil && f.o.Planned != nil && !f.planned {
		f.planned = true
		f.o.Planned(plan)
	}
	return err
}

func (f *run) claim(ctx context.Context) error {
	number, err := f.claimFor(ctx, f.o.Site, f.o.Why)
	f.res.Term = number
	return err
}

func (f *run) claimFor(ctx context.Context, site snapshot.Site, why string) (int, error) {
	t, err := f.cat.Claim(ctx, snapshot.Term{
		System: f.snap.System.Name, Site: site, Why: why, Host: f.o.Host, Snapshot: f.state.Snapshot,
	})
	return t.Number, err
}

// describe fills in what the restore tells.
func (f *run) describe() {
	r := f.state.Restored
	f.res.Restore = r
	f.res.Fetched, f.res.Staged, f.res.Local = f.state.Fetched+r.Fetched, r.Staged, f.state.Local+r.Local
	f.res.System, f.res.Snapshot, f.res.Site, f.res.Host = f.snap.System.Name, f.state.Snapshot, f.o.Site, f.o.Host
	f.res.Started = f.state.Started
	for _, s := range f.cat.Snapshots {
		if s.ID == f.state.Snapshot {
			f.res.RPO = max(0, f.state.Started.Sub(s.Time)) // a stand-in's last one is younger
		}
	}
	for _, o := range r.Objects {
		f.res.Addresses = append(f.res.Addresses, o.Addresses...)
		f.res.Ports = append(f.res.Ports, o.Ports...)
		if o.Action == importer.Create || o.Action == importer.Replace {
			f.res.Bytes += o.Bytes
		}
	}
}

func (f *run) record(ctx context.Context) error {
	f.res.RTO = time.Since(f.state.Started)
	if f.state.Stopped != nil {
		f.res.Downtime = time.Since(f.state.Stopped.Since)
	}
	if f.state.Recorded {
		return nil
	}
	kind := RecordKind
	if f.o.Why == snapshot.WhyFailback {
		kind = KindFailback
	}
	if err := f.repo.AddRecord(ctx, kind, f.res.Record); err != nil {
		return err
	}
	f.state.Recorded = true
	return f.save()
}

// stateFile is where this failover is remembered: one for each name of a system on an engine.
func (f *run) stateFile() string {
	facts := f.engine.Facts()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s", f.o.Why, facts.Host, facts.RootDir, f.snap.System.Name, f.o.Restore.As))
	return filepath.Join(f.o.StateDir, "failovers", hex.EncodeToString(sum[:8])+".json")
}

func (f *run) save() error {
	text, err := json.Marshal(f.state)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.stateFile()), 0o700); err != nil {
		return err
	}
	return importer.WriteFile(f.stateFile(), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}
