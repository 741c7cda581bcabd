package snapshot

// Event is one step of progress of a long operation.
type Event struct {
	Phase string // "layers", "copy", "pause", "rescan", "commit", "images", "volumes", "containers", "health", ...
	What  string // the object: "container web", "layer sha256:...", "volume db"
	Done  int64  // bytes done in this phase, or 0
	Total int64  // bytes of this phase where known, or 0
}

// Observer receives events; it may be called from several goroutines at once and must return
// promptly. A nil Observer is not called.
type Observer func(Event)

// Notify calls o with e unless o is nil.
func (o Observer) Notify(e Event) {
	if o != nil {
		o(e)
	}
}
