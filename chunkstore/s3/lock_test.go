package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// root has all rights of the store, and what an attacker does with them.
type root struct {
	*minio.Client
	bucket string
}

func newRoot(t *testing.T, server *testserver.Server, bucket string) root {
	t.Helper()
	c, err := minio.New(server.Endpoint, &minio.Options{Creds: credentials.NewStaticV4(server.AccessKey, server.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	return root{c, bucket}
}

// destroy deletes every version of every object that it can, and puts something else, or nothing, in the place of
// the others. It returns how many versions it could delete.
func (r root) destroy(t *testing.T, ctx context.Context) int {
	t.Helper()
	var keys, versions []string
	for o := range r.ListObjectsIter(ctx, r.bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		keys, versions = append(keys, o.Key), append(versions, o.VersionID)
	}
	deleted := 0
	for i, key := range keys {
		if r.RemoveObject(ctx, r.bucket, key, minio.RemoveObjectOptions{VersionID: versions[i], GovernanceBypass: true}) == nil {
			deleted++
		}
		if i%2 == 0 {
			if _, err := r.PutObject(ctx, r.bucket, key, strings.NewReader("ransom"), 6, minio.PutObjectOptions{DisableMultipart: true}); err != nil {
				t.Fatal(err)
			}
		}
		if i%3 == 0 {
			if err := r.RemoveObject(ctx, r.bucket, key, minio.RemoveObjectOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return deleted
}

// locked creates a locked repository in a bucket of its own.
func locked(t *testing.T, mode chunkstore.LockMode) (s3.Config, *testserver.Server, chunkstore.Lock, crypto.Secret) {
	t.Helper()
	server := testserver.MinIO(t)
	c := config(server)
	c.NewLocked = true
	store := open(t, c)
	if err := store.CreateBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := crypto.KeyFile(crypto.NewKeyFile())
	lock := chunkstore.Lock{Mode: mode, Days: 7}
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	if _, err := chunkstore.InitWith(t.Context(), decorated(store), secret, crypto.SlotInfo{Label: "test"}, cheap, chunkstore.InitOptions{Lock: &lock}); err != nil {
		t.Fatal(err)
	}
	return c, server, lock, secret
}

// decorated is a store as the program uses it.
func decorated(s *s3.Store) chunkstore.Backend {
	return chunkstore.Retry(chunkstore.Limit(s, 1<<40, 0), chunkstore.RetryOptions{MaxElapsed: -1})
}

func openRepository(t *testing.T, c s3.Config, secret crypto.Secret, cache string) *chunkstore.Repository {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), decorated(open(t, c)), secret, chunkstore.Options{CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// commit stores a snapshot of one content, whose stream is its body.
func commit(t *testing.T, r *chunkstore.Repository, content []byte) {
	t.Helper()
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "test"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := s.SaveStream(t.Context(), content)
	if err == nil {
		err = s.Commit(t.Context(), "test", func(chunkstore.SessionStats) any { return nil }, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// walk is for snapshots of nothing but their bodies.
func walk(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return func(func(chunkstore.Ref, error) bool) {}
}

func check(t *testing.T, r *chunkstore.Repository) []string {
	t.Helper()
	report, err := r.Check(t.Context(), chunkstore.CheckOptions{Walk: walk, Data: chunkstore.Everything, Immutable: true})
	if err != nil {
		t.Fatal(err)
	}
	if report.Locks < 5 {
		t.Errorf("only %d locks were looked at", report.Locks)
	}
	var faults []string
	for _, f := range report.Faults {
		if strings.HasPrefix(f.Object, "s/") {
			continue // signs of life are not locked, and nothing depends on them
		}
		faults = append(faults, fmt.Sprintf("%s: %v", f.Object, f.Err))
	}
	return faults
}

// Whoever has all rights of the store deletes and replaces all that can be, again and again: every snapshot is there
// afterwards, and the next backup is made.
func TestLockedWithstands(t *testing.T) {
	t.Parallel()
	c, server, _, secret := locked(t, chunkstore.Compliance)
	first, second := bytes.Repeat([]byte("first night "), 1000), bytes.Repeat([]byte("second night "), 1000)
	commit(t, openRepository(t, c, secret, ""), first)
	if faults := check(t, openRepository(t, c, secret, "")); len(faults) > 0 {
		t.Fatalf("before: %q", faults)
	}
	attacker := newRoot(t, server, c.Bucket)
	attacker.destroy(t, t.Context())
	commit(t, openRepository(t, c, secret, ""), second)
	attacker.destroy(t, t.Context())
	r := openRepository(t, c, secret, "")
	if faults := check(t, r); len(faults) > 0 {
		t.Errorf("after: %q", faults)
	}
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	for i, want := range [][]byte{first, second} {
		if got, err := r.ReadStream(t.Context(), all[i].Body); err != nil || !bytes.Equal(got, want) {
			t.Errorf("snapshot %d: %d bytes, %v", i, len(got), err)
		}
	}
	place := mem.New(mem.Options{})
	if _, err := chunkstore.Sync(t.Context(), decorated(open(t, c)), place, chunkstore.SyncOptions{}); err != nil {
		t.Errorf("to another place: %v", err)
	} else if away, err := chunkstore.Open(t.Context(), place, secret, chunkstore.Options{}); err != nil {
		t.Error(err)
	} else if all, err := away.Outcomes(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("at another place: %d snapshots, %v", len(all), err)
	}
	// What is forgotten is kept until its time is up, and prune says so.
	if err := r.Forget(t.Context(), "test", all[:1]); err != nil {
		t.Fatal(err)
	}
	report, err := openRepository(t, c, secret, "").Collect(t.Context(), chunkstore.CollectOptions{
		Walk: func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] { return walk }, MinAge: -1,
	})
	if err != nil || report.Locked.Packs == 0 || report.Deleted.Packs != 0 {
		t.Errorf("prune: %+v, %v", report, err)
	}
	if faults := check(t, openRepository(t, c, secret, "")); len(faults) > 0 {
		t.Errorf("after the prune: %q", faults)
	}
	if err := chunkstore.RemoveSlot(t.Context(), open(t, c), secret, "0123456789abcdef"); !errors.Is(err, chunkstore.ErrNotExist) {
		t.Errorf("a slot that is not there: %v", err)
	}
}

// Whoever has all rights of the store adds objects of names that nobody had, and locks them: they keep nobody from
// reading and backing up, and a check tells of them.
func TestLockedAdded(t *testing.T) {
	t.Parallel()
	c, server, _, secret := locked(t, chunkstore.Compliance)
	commit(t, openRepository(t, c, secret, ""), []byte("first night"))
	r := newRoot(t, server, c.Bucket)
	var real []byte
	for o := range r.ListObjectsIter(t.Context(), r.bucket, minio.ListObjectsOptions{Recursive: true}) {
		if i := strings.Index(o.Key, "i/"); i >= 0 && real == nil {
			object, err := open(t, c).Get(t.Context(), o.Key[i:], 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			real = object
		}
	}
	newer := bytes.Clone(real)
	newer[4] = 99 // the format's version
	names := []string{"i/00000000000000aa/000000000000000000000000000000aa-0", "i/00000000000000ab/000000000000000000000000000000ab-0"}
	for i, junk := range [][]byte{[]byte("ransom"), newer} {
		_, err := r.PutObject(t.Context(), r.bucket, prefixOf(c)+names[i], bytes.NewReader(junk), int64(len(junk)), minio.PutObjectOptions{
			DisableMultipart: true, Mode: minio.Compliance, RetainUntilDate: time.Now().Add(time.Hour), SendContentMd5: true,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	commit(t, openRepository(t, c, secret, ""), []byte("second night"))
	again := openRepository(t, c, secret, "")
	all, err := again.Outcomes(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	for _, o := range all {
		if _, err := again.ReadStream(t.Context(), o.Body); err != nil {
			t.Error(err)
		}
	}
	if faults := check(t, openRepository(t, c, secret, "")); len(faults) < len(names) {
		t.Errorf("a check tells only of %q", faults)
	}
}

// prefixOf is what the names of objects begin with in the bucket.
func prefixOf(c s3.Config) string {
	if c.Prefix == "" {
		return ""
	}
	return strings.TrimSuffix(c.Prefix, "/") + "/"
}

// Whoever hides the key slots that a rotation made does not bring the old keys back.
func TestLockedRotated(t *testing.T) {
	t.Parallel()
	c, server, _, secret := locked(t, chunkstore.Compliance)
	old, err := chunkstore.SlotsOf(t.Context(), open(t, c), secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunkstore.RotateKeys(t.Context(), decorated(open(t, c)), secret, chunkstore.RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	commit(t, openRepository(t, c, secret, ""), []byte("sealed with the new keys"))
	r := newRoot(t, server, c.Bucket)
	for o := range r.ListObjectsIter(t.Context(), r.bucket, minio.ListObjectsOptions{Recursive: true}) {
		if strings.Contains(o.Key, "k/") && !strings.HasSuffix(o.Key, old[0]) {
			if err := r.RemoveObject(t.Context(), r.bucket, o.Key, minio.RemoveObjectOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if faults := check(t, openRepository(t, c, secret, "")); len(faults) > 0 {
		t.Errorf("%q", faults)
	}
	commit(t, openRepository(t, c, secret, ""), []byte("and more"))
}

// A lock that the host's own key can lift is none, and the check says so; a snapshot extends the locks of what it
// needs.
func TestLockedExtends(t *testing.T) {
	t.Parallel()
	c, server, lock, secret := locked(t, chunkstore.Governance)
	cache := t.TempDir()
	content := bytes.Repeat([]byte("the same "), 1000)
	for range 2 { // the second time, the cache knows the locks
		commit(t, openRepository(t, c, secret, cache), content)
	}
	faults := check(t, openRepository(t, c, secret, ""))
	if len(faults) == 0 || !strings.Contains(strings.Join(faults, "\n"), "bypass governance") {
		t.Errorf("faults: %q", faults)
	}
	// Time goes by for all locks; root may shorten these.
	attacker := newRoot(t, server, c.Bucket)
	short, mode := time.Now().Add(lock.Retention()-48*time.Hour).UTC(), minio.Governance
	shortened := 0
	for o := range attacker.ListObjectsIter(t.Context(), c.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if !chunkstore.Lasting(o.Key) {
			continue
		}
		if err := attacker.PutObjectRetention(t.Context(), c.Bucket, o.Key, minio.PutObjectRetentionOptions{GovernanceBypass: true, Mode: &mode, RetainUntilDate: &short}); err != nil {
			t.Fatal(err)
		}
		shortened++
	}
	if faults := check(t, openRepository(t, c, secret, "")); len(faults) < shortened {
		t.Errorf("of %d locks that are too short: %q", shortened, faults)
	}
	commit(t, openRepository(t, c, secret, ""), content) // without what the cache says of the locks
	view, err := open(t, c).Lock(lock)
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"config", "k/", "t/", "i/"} {
		if err := view.List(t.Context(), prefix, func(i chunkstore.Info) error {
			left, err := view.(chunkstore.Locker).Retained(t.Context(), i.Name)
			if err == nil && left < lock.Retention() {
				t.Errorf("%s is locked for %v", i.Name, left)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// A bucket without locks is refused.
func TestLockedNeedsBucket(t *testing.T) {
	t.Parallel()
	c := newBucket(t, testserver.MinIO(t))
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	_, err := chunkstore.InitWith(t.Context(), open(t, c), crypto.KeyFile(crypto.NewKeyFile()), crypto.SlotInfo{}, cheap,
		chunkstore.InitOptions{Lock: &chunkstore.Lock{Mode: chunkstore.Compliance, Days: 1}})
	if err == nil {
		t.Error("a repository was created")
	}
}
