package importer

import (
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Result says what a restore did. After a failure it says how far that came.
type Result struct {
	Plan    *Plan              `json:"plan"`
	Started time.Time          `json:"started"`
	Took    time.Duration      `json:"took"`
	Healthy time.Duration      `json:"healthy,omitempty"` // from the start until all was healthy: the RTO; 0 if nothing was started
	Objects []Object           `json:"objects"`           // what was made or used, as it came to be
	Notes   []snapshot.Problem `json:"notes,omitempty"`   // what is other than it was; those of the plan too
	Fetched int64              `json:"fetched"`           // bytes of content that were read from the repository
	Staged  int64              `json:"staged"`            // bytes of content of volumes and changes that were staged here before
	Local   int64              `json:"local"`             // bytes of content that were taken from what was replaced
	Left    []string           `json:"left,omitempty"`    // what a failed restore left there, or what was moved aside and is kept

	mu sync.Mutex
}

// Object is one thing on the target.
type Object struct {
	Kind      Kind          `json:"kind"`
	Name      string        `json:"name"`
	ID        string        `json:"id,omitempty"`
	Action    Action        `json:"action"`
	Way       string        `json:"way,omitempty"` // of an image: load or pull
	Bytes     int64         `json:"bytes,omitempty"`
	Took      time.Duration `json:"took,omitempty"`
	State     string        `json:"state,omitempty"` // of a container
	Health    string        `json:"health,omitempty"`
	Healthy   time.Duration `json:"healthy,omitempty"` // from the start of the restore
	Addresses []string      `json:"addresses,omitempty"`
	Ports     []string      `json:"ports,omitempty"` // "0.0.0.0:8080->80/tcp"
}

// The ways by which images get into an engine.
const (
	WayLoad = "load"
	WayPull = "pull"
)

func (r *Result) object(o Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Objects = append(r.Objects, o)
}

func (r *Result) note(where, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Notes = append(r.Notes, snapshot.Problem{Where: where, What: what})
}

// container returns the object of a container that was made.
func (r *Result) container(name string) *Object {
	for i := range r.Objects {
		if o := &r.Objects[i]; o.Kind == KindContainer && o.Name == name {
			return o
		}
	}
	return nil
}
