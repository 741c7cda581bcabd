package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// locks is what a Store knows that reads of each name what was put there first. A bucket with Object Lock keeps
// versions: who overwrites an object puts a version over it, who deletes it a marker, and only whoever names a
// version can delete that, if it is not locked.
type locks struct {
	lock chunkstore.Lock

	mu    sync.Mutex
	first map[string]minio.ObjectInfo // by name
}

// maxFirst is how many first versions are remembered, of about 200 bytes each.
const maxFirst = 100_000

var _ chunkstore.Locker = (*Store)(nil)

// Lock implements chunkstore.Locker. Whether the bucket locks objects shows at the first use.
func (s *Store) Lock(l chunkstore.Lock) (chunkstore.Backend, error) {
	return &Store{
		config: s.config, core: s.core, creds: s.creds, wire: s.wire,
		locks: &locks{lock: l, first: map[string]minio.ObjectInfo{}},
	}, nil
}

// now returns the time by the store's clock.
func (s *Store) now() time.Time { return time.Now().Add(-s.wire.skew()) }

// mode returns the mode of locks in S3's words.
func (l *locks) mode() minio.RetentionMode {
	if l.lock.Mode == chunkstore.Governance {
		return minio.Governance
	}
	return minio.Compliance
}

// lockNew asks for a lock on what is to be put, if it is to have one, and returns the MD5 of data, without which
// AWS refuses that.
func (s *Store) lockNew(name string, data []byte, o *minio.PutObjectOptions) (md5Base64 string) {
	if s.locks == nil || s.locks.lock.Days == 0 || !chunkstore.Lasting(name) {
		return ""
	}
	return s.locks.ask(o, data, s.now().Add(s.locks.lock.Span()))
}

func (l *locks) ask(o *minio.PutObjectOptions, data []byte, until time.Time) (md5Base64 string) {
	o.Mode, o.RetainUntilDate = l.mode(), until.UTC()
	sum := md5.Sum(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// versions iterates over all that is stored under a name, the newest first, markers of deletions too.
func (s *Store) versions(ctx context.Context, name string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		key := s.config.key(name)
		for o := range s.listing(ctx, minio.ListObjectsOptions{Prefix: key, WithVersions: true}) {
			if o.Err != nil {
				yield(o, o.Err)
				return
			}
			if o.Key != key || !yield(o, nil) { // those of other names come after it
				return
			}
		}
		if ctx.Err() != nil {
			yield(minio.ObjectInfo{}, ctx.Err()) // the listing just ends with it
		}
	}
}

// first returns what was put under a name first; chunkstore.ErrNotExist if there is nothing.
func (s *Store) first(ctx context.Context, name string) (minio.ObjectInfo, error) {
	s.locks.mu.Lock()
	found, ok := s.locks.first[name]
	s.locks.mu.Unlock()
	if ok {
		return found, nil
	}
	for o, err := range s.versions(ctx, name) {
		if err != nil {
			return minio.ObjectInfo{}, err
		}
		if !o.IsDeleteMarker {
			found, ok = o, true
		}
	}
	if !ok {
		return minio.ObjectInfo{}, minio.ErrorResponse{Code: minio.NoSuchKey, Message: "nothing was ever put there"}
	}
	s.locks.remember(name, found)
	return found, nil
}

func (l *locks) remember(name string, o minio.ObjectInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.first) >= maxFirst {
		clear(l.first)
	}
	l.first[name] = o
}

func (l *locks) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.first, name)
}

// isFirst returns chunkstore.ErrExist if there is a version under the name that was put before this one: the
// condition of the put looks at the newest, which may be a marker of a deletion.
func (s *Store) isFirst(ctx context.Context, name, version string) error {
	first, err := s.first(ctx, name)
	if err != nil {
		return s.translate(ctx, "put", name, err)
	}
	if first.VersionID != version {
		return fmt.Errorf("put %s: %w", name, chunkstore.ErrExist)
	}
	return nil
}

// firstOnes lists of each name what was put there first.
func (s *Store) firstOnes(ctx context.Context, prefix string) iter.Seq[minio.ObjectInfo] {
	return func(yield func(minio.ObjectInfo) bool) {
		var first minio.ObjectInfo
		for o := range s.listing(ctx, minio.ListObjectsOptions{Prefix: s.listPrefix(prefix), WithVersions: true}) {
			if o.Err != nil {
				yield(o)
				return
			}
			if o.IsDeleteMarker {
				continue
			}
			if first.Key != "" && o.Key != first.Key && !yield(first) {
				return
			}
			first = o
		}
		if first.Key != "" && ctx.Err() == nil {
			yield(first)
		}
	}
}

// deleteAll deletes all versions of a name, the newest first, so that no other one ever becomes the first.
func (s *Store) deleteAll(ctx context.Context, name string) error {
	var all []minio.ObjectInfo
	for o, err := range s.versions(ctx, name) {
		if err != nil {
			return s.translate(ctx, "delete", name, err)
		}
		all = append(all, o)
	}
	if !slices.ContainsFunc(all, func(o minio.ObjectInfo) bool { return !o.IsDeleteMarker }) {
		return nil // it is not there; markers take no space
	}
	if left, err := s.Retained(ctx, name); err != nil || left > 0 {
		return s.lockedOr(name, left, err)
	}
	for _, o := range all {
		err := s.core.RemoveObject(ctx, s.config.Bucket, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID})
		if err == nil {
			continue
		}
		left, lockErr := s.retained(ctx, name, o.VersionID)
		if lockErr != nil || left <= 0 {
			return s.translate(ctx, "delete", name, err)
		}
		return s.lockedOr(name, left, nil)
	}
	s.locks.forget(name)
	return nil
}

func (s *Store) lockedOr(name string, left time.Duration, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("delete %s: %w, for %v from now", name, chunkstore.ErrLocked, left.Round(time.Minute))
}

// Retained implements chunkstore.Locker.
func (s *Store) Retained(ctx context.Context, name string) (time.Duration, error) {
	first, err := s.first(ctx, name)
	if err != nil {
		return 0, s.translate(ctx, "look at the lock of", name, err)
	}
	return s.retained(ctx, name, first.VersionID)
}

func (s *Store) retained(ctx context.Context, name, version string) (time.Duration, error) {
	_, until, err := s.core.GetObjectRetention(ctx, s.config.Bucket, s.config.key(name), version)
	switch code := minio.ToErrorResponse(err).Code; {
	case code == "NoSuchObjectLockConfiguration" || code == "ObjectLockConfigurationNotFoundError":
		return 0, nil
	case err != nil:
		return 0, s.translate(ctx, "look at the lock of", name, err)
	case until == nil:
		return 0, nil
	}
	return until.Sub(s.now()), nil
}

// Retain implements chunkstore.Locker.
func (s *Store) Retain(ctx context.Context, name string, span time.Duration) error {
	first, err := s.first(ctx, name)
	if err != nil {
		return s.translate(ctx, "lock", name, err)
	}
	mode, until := s.locks.mode(), s.now().Add(span).UTC()
	err = s.core.PutObjectRetention(ctx, s.config.Bucket, s.config.key(name), minio.PutObjectRetentionOptions{
		Mode: &mode, RetainUntilDate: &until, VersionID: first.VersionID,
	})
	return s.translate(ctx, "lock", name, err)
}

// attackSpan is for how long the object of an attack is locked: it is there until the next one then.
const attackSpan = 2 * time.Minute

// Attack implements chunkstore.Locker.
func (s *Store) Attack(ctx context.Context) (broken []string, err error) {
	s.removeAttacked(ctx)
	var random [8]byte
	rand.Read(random[:])
	name, data := attacked+hex.EncodeToString(random[:]), []byte("locked")
	var opts minio.PutObjectOptions
	md5 := s.locks.ask(&opts, data, s.now().Add(attackSpan))
	info, err := s.core.PutObject(ctx, s.config.Bucket, s.config.key(name), bytes.NewReader(data), int64(len(data)), md5, "", opts)
	if err != nil {
		return nil, s.translate(ctx, "put", name, err)
	}
	for _, a := range s.attacks(name, info.VersionID) {
		if err := a.try(ctx); err == nil && !a.harmless {
			broken = append(broken, a.what)
		} else if err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	s.locks.forget(name)
	got, err := s.Get(ctx, name, 0, -1)
	if errors.Is(err, chunkstore.ErrNotExist) || err == nil && !bytes.Equal(got, data) {
		return append(broken, "is not what it was"), nil
	}
	return broken, err
}

// attacked is with what the names of objects begin that are attacked.
const attacked = "probe/lock-"

type attack struct {
	what     string
	harmless bool // if it works: versions are there for that
	try      func(context.Context) error
}

// attacks returns what can be tried on a version.
func (s *Store) attacks(name, version string) []attack {
	key, bucket := s.config.key(name), s.config.Bucket
	remove := func(o minio.RemoveObjectOptions) func(context.Context) error {
		return func(ctx context.Context) error { return s.core.RemoveObject(ctx, bucket, key, o) }
	}
	retain := func(o minio.PutObjectRetentionOptions) func(context.Context) error {
		return func(ctx context.Context) error {
			soon := s.now().Add(time.Second).UTC()
			mode := s.locks.mode()
			o.Mode, o.RetainUntilDate, o.VersionID = &mode, &soon, version
			return s.core.PutObjectRetention(ctx, bucket, key, o)
		}
	}
	return []attack{
		{"could be replaced", true, func(ctx context.Context) error {
			_, err := s.core.PutObject(ctx, bucket, key, strings.NewReader("broken"), 6, "", "", minio.PutObjectOptions{})
			return err
		}},
		{"could be deleted by its name", true, remove(minio.RemoveObjectOptions{})},
		{"could be unlocked", false, retain(minio.PutObjectRetentionOptions{})},
		{"could be unlocked by the permission to bypass governance", false, retain(minio.PutObjectRetentionOptions{GovernanceBypass: true})},
		{"could be deleted", false, remove(minio.RemoveObjectOptions{VersionID: version})},
		{"could be deleted by the permission to bypass governance", false, remove(minio.RemoveObjectOptions{VersionID: version, GovernanceBypass: true})},
	}
}

// removeAttacked deletes what earlier attacks left, as far as it is not locked any more.
func (s *Store) removeAttacked(ctx context.Context) {
	for o := range s.listing(ctx, minio.ListObjectsOptions{Prefix: s.config.key(attacked), WithVersions: true}) {
		if o.Err != nil {
			return
		}
		_ = s.core.RemoveObject(ctx, s.config.Bucket, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}) // what is locked stays
	}
}
