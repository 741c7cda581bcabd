package chunkstore

import (
	"context"
	"errors"
	"time"
)

// Errors that every backend returns, wrapped, for the cases a caller branches on.
var (
	// ErrNotExist says that no object has the name.
	ErrNotExist = errors.New("object does not exist")
	// ErrExist says that PutIfAbsent found the name taken; the stored object is untouched.
	ErrExist = errors.New("object exists already")
	// ErrUnsupported says that the store refused a conditional write as such (HTTP 501): the
	// commit protocol then uses its stated fallback.
	ErrUnsupported = errors.New("not supported by the backend")
	// ErrNoStore says that the store itself (bucket, directory) is missing, not an object in it.
	ErrNoStore = errors.New("backend location does not exist")
	// ErrAccess says that the store refused the credentials or the permission. Never retried.
	ErrAccess = errors.New("access denied by the backend")
)

// MaxObject bounds the bytes of one object: no backend returns more for one Get.
const MaxObject = 256 << 20

// Info describes one stored object.
type Info struct {
	Name     string    // full name, as given to Put
	Size     int64     // stored bytes
	Modified time.Time // by the store's clock, never this host's, where the store has one
	Archived bool      // as List says: it may have to be thawed before it can be read, see Thawer
}

// Backend keeps immutable named objects. For what a name may be see CheckName; no object's name is
// a directory of another's. Every method may be called from many goroutines at
// once, returns promptly with ctx's error when ctx ends, and wraps the sentinels above.
//
// The contract is executable: package storetest holds every backend and every decorator to it.
type Backend interface {
	// Put stores data under name. When it returns nil the object is durable and complete, and a
	// crash at any moment leaves either nothing or the whole object under name. Objects are
	// immutable: where the name exists already, Put either replaces it whole or leaves it and
	// returns nil, but never leaves a mixture. data is not retained or modified.
	Put(ctx context.Context, name string, data []byte) error

	// Get returns n bytes from offset off, in a slice of the caller's own. n < 0 means: to the end
	// of the object. A range that reaches beyond the object is an error, never a short result.
	// A missing object is ErrNotExist.
	Get(ctx context.Context, name string, off, n int64) ([]byte, error)

	// Stat describes the object, ErrNotExist if there is none.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn for every object whose name starts with prefix, in ascending order of names,
	// and stops with fn's error if it returns one. A prefix need not end at a slash. Objects put
	// before List was called are listed (some stores lag; see the fallback of the protocol).
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes the object. Deleting what is not there is not an error.
	Delete(ctx context.Context, name string) error

	// Location names the store for messages and as a key for what is remembered about it. It
	// holds no secret.
	Location() string
}

// Creator is implemented by backends that can create an object only where there is none
// (HTTP If-None-Match: *, link(2) without replace).
type Creator interface {
	// PutIfAbsent is Put that returns ErrExist where the name is taken. Of several concurrent
	// calls for one name exactly one returns nil. After an error that is neither ErrExist nor
	// ErrUnsupported the object may or may not have been stored.
	PutIfAbsent(ctx context.Context, name string, data []byte) error
}
