package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// DrillEngine is an engine that a drill boots a system on.
type DrillEngine interface {
	Engine
	// Exec runs a command in a container, writes what it says to out, and returns its exit code.
	Exec(ctx context.Context, id string, argv []string, out io.Writer) (int, error)
}

// KindDrill is the kind of the records that drills leave in the repository; their bodies are DrillRecords.
const KindDrill = "drill"

// ErrPushed says that a snapshot is of no system that could run.
var ErrPushed = errors.New("it is an image that was pushed, of which nothing runs; restore gives it to an engine, registry serve to all")

// DrillOptions of a drill. Dir and Host are needed.
type DrillOptions struct {
	Dir           string        // where notes of running drills are kept, and the throwaway directories of binds
	Host          string        // name of this host
	Probes        []Probe       // asked when the system is healthy
	ProbeTimeout  time.Duration // how long each may fail before it counts as failed; zero means a minute
	HealthTimeout time.Duration // as in Options
	Settle        time.Duration // as in Options
	TempDir       string        // as in Options
	Observer      snapshot.Observer
}

// DrillRecord is what a drill proved, or did not.
type DrillRecord struct {
	System       string             `json:"system"`
	Snapshot     string             `json:"snapshot"`
	SnapshotTime time.Time          `json:"snapshot_time"`
	Host         string             `json:"host"` // on which it was done
	Engine       snapshot.Engine    `json:"engine"`
	Started      time.Time          `json:"started"`
	Age          time.Duration      `json:"age"` // of the snapshot when the drill started: what would have been lost
	Passed       bool               `json:"passed"`
	Failure      string             `json:"failure,omitempty"`
	RTO          time.Duration      `json:"rto,omitempty"` // from the start until all was healthy; 0: it never was
	Took         time.Duration      `json:"took"`          // with probes and removal
	Bytes        int64              `json:"bytes"`         // written before it was healthy
	Containers   []string           `json:"containers"`
	Probes       []ProbeResult      `json:"probes,omitempty"`
	Notes        []snapshot.Problem `json:"notes,omitempty"` // what was other than in a real restore
	Left         []string           `json:"left,omitempty"`  // what could not be removed
}

// A DrillError says that a drill failed: the system was not restored, did not come up, did not answer a probe, or
// could not be removed again.
type DrillError struct {
	System string
	Err    error
}

func (e *DrillError) Error() string { return "drill of " + e.System + " failed: " + e.Err.Error() }

func (e *DrillError) Unwrap() error { return e.Err }

// Labels of all that drills make: the drill's id, and whose it is.
const (
	labelDrill   = "io.github.hakobune-dr.drill"
	labelDrillOf = "io.github.hakobune-dr.drill-of"
)

// drillPrefix begins the names of all that drills make.
const drillPrefix = "hakobune-drill-"

// driller is one run of Drill.
type driller struct {
	*restorer
	engine DrillEngine
	o      DrillOptions
	id     string
	note   *drillNote
	record *DrillRecord
}

// Drill boots a snapshot in isolation, waits until it is healthy, asks the probes, removes all that it made, and
// leaves a record of that in the repository. What is booted reaches nothing outside, publishes nothing, and bears
// names of its own; see isolator. First it removes what drills left that were killed.
//
// It is a *DrillError if the drill failed: that is on record too. After any other error, or when ctx ended, there
// is no record; what was made is removed all the same. The record is never nil.
func Drill(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, e DrillEngine, o DrillOptions) (*DrillRecord, error) {
	started := time.Now()
	record := &DrillRecord{
		System: snap.System.Name, Snapshot: snap.ID, SnapshotTime: snap.Time, Host: o.Host,
		Started: started.UTC(), Age: max(0, started.Sub(snap.Time)), Containers: snap.System.ContainerNames(),
	}
	if snap.Pushed != nil {
		return record, fmt.Errorf("drill %s: %w", snap.System.Name, ErrPushed)
	}
	record.Engine = e.Facts().Engine
	if _, err := CleanDrills(ctx, e, o.Dir, o.Host); err != nil {
		return record, fmt.Errorf("drill %s: %w", snap.System.Name, err)
	}
	d := &driller{engine: e, o: o, id: newID(), record: record}
	var err error
	if d.note, err = newDrillNote(o.Dir, d.id, e.Facts()); err != nil {
		return record, fmt.Errorf("drill %s: %w", snap.System.Name, err)
	}
	failure := d.drill(ctx, repo, snap)
	if ctx.Err() != nil {
		return record, fmt.Errorf("drill %s: %w", snap.System.Name, failure)
	}
	record.Took, record.Passed = time.Since(started), failure == nil
	if failure != nil {
		record.Failure = failure.Error()
		failure = &DrillError{snap.System.Name, failure}
	}
	return record, errors.Join(failure, repo.AddRecord(ctx, KindDrill, record))
}

// PlanDrill says what a drill would make.
func PlanDrill(ctx context.Context, snap *snapshot.Snapshot, e DrillEngine, o DrillOptions) (*Plan, error) {
	if snap.Pushed != nil {
		return nil, fmt.Errorf("drill %s: %w", snap.System.Name, ErrPushed)
	}
	isolated, opts, notes, err := drillOf(snap, "00000000", e.Facts(), o)
	if err != nil {
		return nil, err
	}
	target, err := Survey(ctx, e, isolated, opts)
	if err != nil {
		return nil, err
	}
	plan, err := NewPlan(isolated, target, opts)
	if plan != nil {
		plan.Notes = append(plan.Notes, notes...)
	}
	return plan, err
}

// drillOf returns what a drill restores instead of a snapshot, and how.
func drillOf(snap *snapshot.Snapshot, id string, facts snapshot.Facts, o DrillOptions) (*snapshot.Snapshot, Options, []snapshot.Problem, error) {
	dir := ""
	if facts.Local {
		dir = filepath.Join(noteDir(o.Dir), id, "binds")
	}
	isolated, binds, notes, err := isolate(snap, drillPrefix+id, dir, map[string]string{labelDrill: id, labelDrillOf: drillOwner(o.Host, o.Dir)})
	return isolated, Options{
		As: drillPrefix + id, Binds: binds, Fit: true, HealthTimeout: o.HealthTimeout, Settle: o.Settle, TempDir: o.TempDir, Observer: o.Observer,
	}, notes, err
}

// drill does it all but the record, and returns why it failed.
func (d *driller) drill(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot) (err error) {
	isolated, opts, notes, err := drillOf(snap, d.id, d.engine.Facts(), d.o)
	if err != nil {
		return errors.Join(err, d.note.remove())
	}
	d.record.Notes = notes
	d.restorer = newRestorer(repo, isolated, d.engine, opts)
	d.run = "drill-" + d.id // names what is there for a moment
	err = d.boot(ctx)
	d.record.Notes = append(d.record.Notes, d.res.Notes...)
	_, _ = d.undo.run(ctx) // what it leaves is found by its labels
	left, removed := removeDrill(ctx, d.engine, d.id)
	d.record.Left = left
	if removed == nil { // else the note is wanted by who tries again
		removed = d.note.remove()
	}
	d.note.close()
	if removed != nil {
		return errors.Join(err, removed)
	}
	return err
}

// boot restores the isolated system and asks the probes.
func (d *driller) boot(ctx context.Context) error {
	if err := d.restore(ctx); err != nil {
		return err
	}
	d.record.RTO = d.res.Healthy
	for _, o := range d.res.Objects {
		if o.Action == Create {
			d.record.Bytes += o.Bytes
		}
	}
	if d.res.Healthy == 0 {
		d.record.Notes = append(d.record.Notes, snapshot.Problem{Where: "system", What: "nothing of it ran when the snapshot was taken, so nothing was started"})
	}
	return d.probe(ctx)
}

// probe asks the probes, one after the other, and all of them.
func (d *driller) probe(ctx context.Context) error {
	if len(d.o.Probes) == 0 {
		return nil
	}
	running, err := d.engine.Containers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range d.o.Probes {
		d.event("probes", p.text)
		r := ProbeResult{Probe: p.text, Failure: "there is no container " + p.container}
		if i := slices.IndexFunc(running, func(c snapshot.Container) bool { return c.ID == d.idOf(p.container) }); i >= 0 {
			r = p.probed(ctx, d.engine, running[i], cmp.Or(d.o.ProbeTimeout, time.Minute))
		}
		d.record.Probes = append(d.record.Probes, r)
		if !r.Passed {
			errs = append(errs, fmt.Errorf("probe %s: %s", r.Probe, r.Failure))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// idOf returns the id of a booted container by its name at home or its Compose service.
func (d *driller) idOf(name string) string {
	for _, c := range d.snap.System.Containers {
		if c.Name == name || c.Service == name {
			return d.ids[c.Name]
		}
	}
	return ""
}

// removeDrill removes all that a drill made from an engine, by labels and names, also after ctx has ended. left
// lists what is still there.
func removeDrill(ctx context.Context, e DrillEngine, id string) (left []string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	names, err := e.Names(ctx)
	if err != nil {
		return nil, err
	}
	all, err := e.Containers(ctx)
	if err != nil {
		return nil, err
	}
	images, err := e.Images(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	did := func(what string, err error) {
		if err != nil {
			left = append(left, what)
			errs = append(errs, err)
		}
	}
	for _, c := range names.Containers {
		if isOfDrill(c, id) {
			did("container "+c.Name, e.RemoveContainer(ctx, c.ID))
		}
	}
	for _, v := range names.Volumes {
		if isOfDrill(v, id) || madeFor(all, names.Containers, id, v.Name) {
			did("volume "+v.Name, e.RemoveVolume(ctx, v.Name))
		}
	}
	for _, n := range names.Networks {
		if isOfDrill(n, id) {
			did("network "+n.Name, e.RemoveNetwork(ctx, n.ID))
		}
	}
	for _, img := range images {
		for _, tag := range img.Tags {
			if strings.Contains(tag, "drill-"+id) {
				did("image "+tag, e.Untag(ctx, tag))
			}
		}
	}
	return left, errors.Join(errs...)
}

// isOfDrill reports whether a drill made a thing: it says so, or is there for a moment.
func isOfDrill(e snapshot.Existing, id string) bool {
	return e.Labels[labelDrill] == id || strings.HasPrefix(e.Name, "hakobune-fill-drill-"+id+"-")
}

// madeFor reports whether the engine made a volume by itself for a container of the drill: all others are ours.
func madeFor(all []snapshot.Container, names []snapshot.Existing, id, volume string) bool {
	if len(volume) != 64 {
		return false
	}
	return slices.ContainsFunc(all, func(c snapshot.Container) bool {
		i := slices.IndexFunc(names, func(e snapshot.Existing) bool { return e.ID == c.ID })
		return i >= 0 && isOfDrill(names[i], id) && mountsVolume(&c, volume)
	})
}

// drillOwner names a host and a state directory: only who has both removes what is left of a drill.
func drillOwner(host, dir string) string { return host + ":" + dir }

func noteDir(dir string) string { return filepath.Join(dir, "drills") }

// CleanDrills removes what drills of this host and directory left that do not run any more, on the engine and below
// dir, and returns the ids of these drills.
func CleanDrills(ctx context.Context, e DrillEngine, dir, host string) ([]string, error) {
	ids, err := DeadDrills(ctx, e, dir, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, id := range ids {
		if _, err := removeDrill(ctx, e, id); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.RemoveAll(filepath.Join(noteDir(dir), id)))
	}
	if err := errors.Join(errs...); err != nil {
		return ids, fmt.Errorf("remove what killed drills left: %w", err)
	}
	return ids, nil
}

// DeadDrills lists the drills of this host and directory that left something on the engine or below dir and do not
// run any more.
func DeadDrills(ctx context.Context, e DrillEngine, dir, host string) ([]string, error) {
	names, err := e.Names(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, o := range slices.Concat(names.Containers, names.Volumes, names.Networks) {
		if id := o.Labels[labelDrill]; isDrillID(id) && o.Labels[labelDrillOf] == drillOwner(host, dir) {
			found[id] = true
		}
	}
	notes, err := os.ReadDir(noteDir(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, n := range notes {
		if isDrillID(n.Name()) && ofEngine(dir, n.Name(), e.Facts()) {
			found[n.Name()] = true
		}
	}
	var dead []string
	for id := range found {
		if !drillRuns(dir, id) {
			dead = append(dead, id)
		}
	}
	slices.Sort(dead)
	return dead, nil
}

// isDrillID keeps what others wrote from becoming a path.
func isDrillID(s string) bool {
	return len(s) == 8 && strings.Trim(s, "0123456789abcdef") == ""
}
