package chunkstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// vault is a bucket with a locked repository, whose clock tests move.
type vault struct {
	*mem.Bucket
	lock chunkstore.Lock
	late *atomic.Int64 // by how much the clock is ahead
}

// newVault locks what is put for a week and a week more.
func newVault(t *testing.T, contents ...[]byte) vault {
	t.Helper()
	v := vault{lock: chunkstore.Lock{Mode: chunkstore.Compliance, Days: 7}, late: new(atomic.Int64)}
	v.Bucket = mem.NewBucket(mem.Options{Now: func() time.Time { return time.Now().Add(time.Duration(v.late.Add(int64(time.Second)))) }})
	if _, err := chunkstore.InitWith(t.Context(), v.Bucket, password, crypto.SlotInfo{Label: "test"}, cheap, chunkstore.InitOptions{Lock: &v.lock}); err != nil {
		t.Fatal(err)
	}
	for _, content := range contents {
		v.backup(t, content)
	}
	return v
}

// first is the view that sees what was put first.
func (v vault) first(t *testing.T) chunkstore.Backend {
	t.Helper()
	b, err := v.Lock(v.lock)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v vault) backup(t *testing.T, content []byte) {
	t.Helper()
	if _, err := backup(t.Context(), reopen(t, v, chunkstore.Options{}), content); err != nil {
		t.Fatal(err)
	}
}

// put puts an object as an attacker does who locks it.
func (v vault) put(t *testing.T, name string, object []byte) {
	t.Helper()
	if err := v.first(t).Put(t.Context(), name, object); err != nil {
		t.Fatal(err)
	}
}

// wait lets time go by until nothing is locked any more.
func (v vault) wait() { v.late.Add(int64(v.lock.Span() + time.Hour)) }

// wantContents demands exactly these contents, oldest first.
func wantContents(t *testing.T, b chunkstore.Backend, contents ...[]byte) {
	t.Helper()
	r := reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != len(contents) {
		t.Fatalf("%d snapshots, want %d: %v", len(all), len(contents), err)
	}
	for i, o := range all {
		if !bytes.Equal(restore(t, r, o), contents[i]) {
			t.Errorf("snapshot %d differs", i)
		}
	}
}

// epochHeader is a header of a mark as anybody can write it, with some bytes after it.
func epochHeader(epoch uint32) []byte {
	junk := append([]byte("HAKO\x01g\x01\x00"), make([]byte, 200)...)
	binary.BigEndian.PutUint32(junk[8:], epoch)
	return junk
}

// junkMarks returns what cannot be read as a mark.
func junkMarks(t *testing.T, v vault) map[string][]byte {
	t.Helper()
	if err := chunkstore.MarkPacks(t.Context(), reopen(t, v, chunkstore.Options{}), "g/0b0b0b0b0b0b0b0b/00000000000000000000000000000001", 1); err != nil {
		t.Fatal(err)
	}
	flipped := bytesOf(t, v, "g/0b0b0b0b0b0b0b0b/00000000000000000000000000000001")
	flipped[90] ^= 1
	newer := bytes.Clone(flipped)
	newer[4] = 9
	return map[string][]byte{
		"bytes": []byte("ransom"), "nothing": {}, "a flipped bit": flipped, "a newer version": newer, "epoch 2": epochHeader(2), "epoch 4000000000": epochHeader(4e9),
	}
}

// Whoever can write to a locked repository adds marks that nobody can read, and locks them: backups and restores go on, and
// say so; a prune does where it is clear that nothing of ours was damaged. Where objects can be changed it stays as it was:
// nothing can be told of such a mark.
func TestLockedJunkMarks(t *testing.T) {
	content, next := words(1, 3000), words(2, 3000)
	whole := newVault(t, content)
	for what, junk := range junkMarks(t, whole) {
		for _, suffix := range []string{"", "-done", "-waits"} {
			v := vault{whole.Clone(), whole.lock, whole.late}
			name := "g/0a0a0a0a0a0a0a0a/00000000000000000000000000000001" + suffix
			v.put(t, name, junk)
			var log bytes.Buffer
			r := reopen(t, v, chunkstore.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if _, err := backup(t.Context(), r, next); err != nil {
				t.Errorf("%s%s: %v", what, suffix, err)
				continue
			}
			if n := strings.Count(log.String(), "object="+name); n != 1 {
				t.Errorf("%s%s: told %d times: %s", what, suffix, n, log.String())
			}
			wantContents(t, v, content, next)
			clear := what != "a newer version"
			if _, err := tryCollect(t.Context(), v); clear && err != nil || !clear && !errors.Is(err, chunkstore.ErrMarks) {
				t.Errorf("%s%s: prune: %v", what, suffix, err)
			}
			if report := check(t, reopen(t, v, chunkstore.Options{})); len(report.Faults) != 1 || report.Faults[0].Object != name {
				t.Errorf("%s%s: check: %+v", what, suffix, report.Faults)
			}
		}
	}
	b := nights(t, content)
	if err := b.Put(t.Context(), "g/0a0a0a0a0a0a0a0a/00000000000000000000000000000001", []byte("ransom")); err != nil {
		t.Fatal(err)
	}
	if _, err := backup(t.Context(), reopen(t, b, chunkstore.Options{}), next); !errors.Is(err, chunkstore.ErrMarks) {
		t.Errorf("without locks: %v", err)
	}
}

// A mark of an epoch that has begun is not junk: whoever has not its keys must get them first. Once he has, what is damaged is.
func TestLockedMarkOfNewKeys(t *testing.T) {
	v := newVault(t, words(1, 300))
	early := reopen(t, v, chunkstore.Options{})
	for range 2 { // the first slot of the epoch between is gone, or hidden
		rotate(t, v)
	}
	late := reopen(t, v, chunkstore.Options{})
	if err := chunkstore.MarkPacks(t.Context(), late, "g/0b0b0b0b0b0b0b0b/00000000000000000000000000000001", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := backup(t.Context(), early, words(2, 300)); !errors.Is(err, chunkstore.ErrMarks) || !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("with the keys from before: %v", err)
	}
	if _, err := early.Collect(t.Context(), collectOptions(early)); !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("a prune with the keys from before: %v", err)
	}
	v.put(t, "g/0a0a0a0a0a0a0a0a/00000000000000000000000000000001", epochHeader(3))
	v.put(t, "g/0a0a0a0a0a0a0a0a/00000000000000000000000000000002", epochHeader(4))
	v.backup(t, words(2, 300))
	wantContents(t, v, words(1, 300), words(2, 300))
}

// deletes deletes all data packs for good when the session is about to commit.
func deletes(ctx context.Context, t *testing.T, b chunkstore.Backend, packs []string) func(storetest.Call) {
	return func(c storetest.Call) {
		if !strings.HasPrefix(c.Name, "i/") || !c.Write() {
			return
		}
		for _, name := range packs {
			if err := b.Delete(ctx, name); err != nil {
				t.Error(err)
			}
		}
	}
}

// A snapshot that relies on a pack which is gone by then is none, with locks or without; the next backup of the host stores anew
// what was in it, also in another process.
func TestCommitWithoutPack(t *testing.T) {
	content := noise(1, 2<<20)
	v := newVault(t, content)
	for name, b := range map[string]chunkstore.Backend{"locked": v, "unlocked": nights(t, content)} {
		there, cache := b, t.TempDir()
		if name == "locked" {
			v.wait()
			there = v.first(t)
		}
		packs := namesUnder(t, there, "p/")
		around := deletes(t.Context(), t, there, packs)
		r := reopen(t, storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
			around(c)
			return next()
		}), chunkstore.Options{CacheDir: cache})
		if _, err := backup(t.Context(), r, content); !errors.Is(err, chunkstore.ErrPackGone) || !strings.Contains(fmt.Sprint(err), packs[0]) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(outcomes(t, reopen(t, b, chunkstore.Options{}))); n != 1 {
			t.Errorf("%s: %d snapshots", name, n)
		}
		if _, err := backup(t.Context(), reopen(t, b, chunkstore.Options{CacheDir: cache}), content); err != nil {
			t.Errorf("%s: the next one: %v", name, err)
		}
		// What was stored anew serves the snapshot of before as well.
		if missing := slices.DeleteFunc(check(t, reopen(t, b, chunkstore.Options{CacheDir: cache})).Faults, func(f chunkstore.Fault) bool { return f.Object == packs[0] && len(f.Snapshots) == 0 }); len(missing) > 0 {
			t.Errorf("%s: %+v", name, missing)
		}
		last := reopen(t, b, chunkstore.Options{CacheDir: cache})
		if all := outcomes(t, last); !bytes.Equal(restore(t, last, all[1]), content) {
			t.Errorf("%s: content differs", name)
		}
		if _, err := backup(t.Context(), last, content); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
	}
}

// A backup that cannot tell that a mark is of newer keys, because the slots that say so are gone, does not rely on what that
// prune deletes: its commit finds out.
func TestLockedUnseenMark(t *testing.T) {
	a, b := noise(1, 2<<20), noise(2, 2<<20)
	v := newVault(t, a, b)
	early := reopen(t, v, chunkstore.Options{})
	rotate(t, v)
	forget(t, v, 0)
	v.wait()
	host := t.TempDir()
	prune := reopen(t, v, chunkstore.Options{StateDir: host})
	chunkstore.SetAges(prune, 0, 0, time.Hour, 0)
	session, err := reopen(t, v, chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{}) // keeps the prune from deleting at once
	if err != nil {
		t.Fatal(err)
	}
	if report, err := prune.Collect(t.Context(), collectOptions(prune)); err != nil || report.Unneeded.Packs == 0 || report.Deleted.Packs != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, name := range namesUnder(t, v.first(t), "k/") {
		if err := v.first(t).Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	s, err := early.Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report, err := prune.Collect(t.Context(), collectOptions(prune)); err != nil || report.Deleted.Packs == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	if err := save(t.Context(), s, a); !errors.Is(err, chunkstore.ErrPackGone) {
		t.Errorf("a snapshot of what is deleted: %v", err)
	}
}

// An index object that nobody can read, whatever its header says, keeps nobody from making the index again; nor does what
// somebody put over one of ours. What is locked stays, and is told.
func TestLockedRepairIndex(t *testing.T) {
	content := words(1, 3000)
	v := newVault(t, content)
	index := namesUnder(t, v, "i/")[0]
	newer := bytesOf(t, v, index)
	newer[4] = 9
	rotated := bytesOf(t, v, index)
	binary.BigEndian.PutUint32(rotated[8:], 7)
	forged := map[string][]byte{
		"g/0a0a0a0a0a0a0a0a/00000000000000000000000000000001":   epochHeader(5),
		"g/0a0a0a0a0a0a0a0a/00000000000000000000000000000002":   []byte("ransom"),
		"i/00000000000000aa/000000000000000000000000000000aa-0": newer,
		"i/00000000000000aa/000000000000000000000000000000aa-1": rotated,
		"i/00000000000000aa/000000000000000000000000000000aa-2": []byte("ransom"),
	}
	for name, object := range forged {
		v.put(t, name, object)
	}
	for _, object := range [][]byte{newer, rotated} { // over ours
		if err := v.Put(t.Context(), index, object); err != nil {
			t.Fatal(err)
		}
	}
	lost := namesUnder(t, v, "p/")[0]
	v.wait()
	if err := v.first(t).Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	r := reopen(t, v, chunkstore.Options{})
	for _, o := range []chunkstore.RepairOptions{{DryRun: true}, {}, {ReadAll: true}} {
		for name := range forged { // as whoever locks it goes on to do
			if err := v.first(t).(chunkstore.Locker).Retain(t.Context(), name, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		found, err := r.RepairIndex(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(found.Problems)
		for name, object := range forged {
			if told := strings.Contains(text, name); !told && !(o.DryRun && string(object) == "ransom") {
				t.Errorf("%+v: not told of %s: %s", o, name, text)
			}
		}
		if !strings.Contains(text, lost) || len(found.Missing)+found.Added > 0 {
			t.Errorf("%+v: %+v", o, found)
		}
	}
	if _, err := backup(t.Context(), r, content); err != nil { // of what is lost
		t.Errorf("a backup: %v", err)
	}
	early := reopen(t, v, chunkstore.Options{})
	rotate(t, v)
	if _, err := early.RepairIndex(t.Context(), chunkstore.RepairOptions{}); !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("with the keys from before: %v", err)
	}
	if _, err := reopen(t, v, chunkstore.Options{}).RepairIndex(t.Context(), chunkstore.RepairOptions{}); err != nil {
		t.Errorf("with the new keys: %v", err)
	}
}

// What a rotation leaves behind is not locked again by the backups that follow: when its lock has ended it can be removed. What
// opens the repository is, also a slot that was added since.
func TestLockedRotatedOut(t *testing.T) {
	content := words(1, 300)
	v := newVault(t, content)
	first := v.first(t).(chunkstore.Locker)
	added := crypto.KeyFile(crypto.NewKeyFile())
	for epoch := range 2 {
		old := namesUnder(t, v.first(t), "k/")
		if report := rotate(t, v); len(report.Locked) != len(old) {
			t.Fatalf("%+v", report)
		}
		v.late.Add(int64(v.lock.Retention() + time.Hour)) // half of the span
		addSlot(t, v, added, "second")
		v.backup(t, content)
		kept := 0
		for _, name := range namesUnder(t, v.first(t), "k/") {
			switch left, err := first.Retained(t.Context(), name); {
			case err != nil:
				t.Fatal(err)
			case slices.Contains(old, name) == (left >= v.lock.Retention()):
				t.Errorf("epoch %d: slot %s is locked for %v", epoch+2, name, left)
			case !slices.Contains(old, name):
				kept++
			}
		}
		report, err := reopen(t, v, chunkstore.Options{}).Check(t.Context(), chunkstore.CheckOptions{Walk: walk(reopen(t, v, chunkstore.Options{})), Immutable: true})
		if err != nil || kept != 2 {
			t.Fatalf("epoch %d: %d slots, %v", epoch+2, kept, err)
		}
		if slices.ContainsFunc(report.Faults, func(f chunkstore.Fault) bool { return slices.Contains(old, f.Object) }) {
			t.Errorf("epoch %d: a check wants them locked: %+v", epoch+2, report.Faults)
		}
		v.late.Add(int64(v.lock.Retention()))
		for _, name := range old {
			if err := chunkstore.RemoveSlot(t.Context(), v, password, name[len("k/"):]); err != nil {
				t.Errorf("epoch %d: %v", epoch+2, err)
			}
		}
		for _, s := range []crypto.Secret{password, added} {
			if err := opens(t, v, s); err != nil {
				t.Error(err)
			}
		}
		v.late.Add(-int64(v.lock.Retention()) / 2)
	}
}

// A key slot that was removed while it is locked is not locked again by the backups that follow, of put-only hosts neither, and goes when its
// lock has ended. The slot that is left is locked, and is the last one.
func TestLockedRemovedSlot(t *testing.T) {
	content, second := words(1, 300), crypto.KeyFile(crypto.NewKeyFile())
	v := newVault(t, content)
	host, own, removed := addHost(t, v, "db1", false), slotsOf(t, v)[0], addSlot(t, v, second, "second")
	for range 2 {
		if err := chunkstore.RemoveSlot(t.Context(), v, password, removed); !errors.Is(err, chunkstore.ErrLocked) {
			t.Fatal(err)
		}
	}
	if err := chunkstore.RemoveSlot(t.Context(), v, second, own); !errors.Is(err, chunkstore.ErrLastSlot) {
		t.Errorf("the one that is left: %v", err)
	}
	late := v.lock.Retention() + time.Hour // half of the span
	v.late.Add(int64(late))
	v.backup(t, content)
	hostBackup(t, v, host, content)
	wantLocked(t, v, own, true)
	wantLocked(t, v, removed, false)
	locked, err := reopen(t, v, chunkstore.Options{}).LockedSlots(t.Context())
	if err != nil || len(locked) != 1 || locked[0].ID != removed || locked[0].Left <= 0 || locked[0].Left > v.lock.Span()-late {
		t.Errorf("%+v, %v", locked, err)
	}
	wantClean(t, reopen(t, v, chunkstore.Options{}))
	v.late.Add(int64(v.lock.Retention()))
	if locked, err = reopen(t, v, chunkstore.Options{}).LockedSlots(t.Context()); err != nil || len(locked) != 1 || locked[0].Left != 0 {
		t.Errorf("when its lock has ended: %+v, %v", locked, err)
	}
	if err := chunkstore.RemoveSlot(t.Context(), v, password, removed); err != nil {
		t.Error(err)
	}
	if err := opens(t, v, second); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("the key that was removed: %v", err)
	}
	if locked, err = reopen(t, v, chunkstore.Options{}).LockedSlots(t.Context()); err != nil || len(locked) != 0 {
		t.Errorf("removed: %+v, %v", locked, err)
	}
}

// Whoever has no keys, or only those from before a rotation, does not have a slot go without its lock.
func TestLockedSlotIsNotForged(t *testing.T) {
	content := words(1, 300)
	v := newVault(t, content)
	early := reopen(t, v, chunkstore.Options{})
	rotate(t, v)
	added := addSlot(t, v, crypto.KeyFile(crypto.NewKeyFile()), "second")
	own := slotsOf(t, v)[0]
	if err := chunkstore.PutOldSlot(t.Context(), early, own); err != nil {
		t.Fatal(err)
	}
	v.put(t, "o/slot-"+added, []byte("junk"))
	if err := chunkstore.RemoveSlot(t.Context(), v, password, added); errors.Is(err, chunkstore.ErrLocked) || !errors.Is(err, crypto.ErrDamaged) {
		t.Errorf("what was put there before counts: %v", err)
	}
	v.late.Add(int64(v.lock.Retention() + time.Hour))
	v.backup(t, content)
	wantLocked(t, v, own, true)
	wantLocked(t, v, added, true)
}

// wantLocked demands that a key slot is locked for the retention, or that it is not.
func wantLocked(t *testing.T, v vault, slot string, want bool) {
	t.Helper()
	left, err := v.first(t).(chunkstore.Locker).Retained(t.Context(), "k/"+slot)
	if err != nil || want != (left >= v.lock.Retention()) {
		t.Errorf("slot %s is locked for %v, %v", slot, left, err)
	}
}

// A damaged pack that is locked stays where it is, and counts for nothing: what could be read of it is elsewhere. When its lock has
// ended a prune deletes it.
func TestLockedRepairPacks(t *testing.T) {
	content := noise(1, 5<<20)
	v := newVault(t, content)
	pack := namesUnder(t, v, "p/")[0]
	v.Rot(pack, len(bytesOf(t, v, pack))/3)
	if dry := repairPacks(t, v, chunkstore.RepairOptions{DryRun: true}); len(dry.Damaged) != 1 || !dry.Damaged[0].Locked {
		t.Errorf("a dry run: %+v", dry)
	}
	found := repairPacks(t, v, chunkstore.RepairOptions{})
	if len(found.Damaged) != 1 || !found.Damaged[0].Locked || found.Damaged[0].Lost == 0 || found.Damaged[0].Saved == 0 {
		t.Fatalf("%+v", found)
	}
	first := v.first(t)
	if _, err := first.Stat(t.Context(), pack); err != nil || len(namesUnder(t, first, "d/")) > 0 {
		t.Errorf("it does not stay where it is: %v", err)
	}
	if again := repairPacks(t, v, chunkstore.RepairOptions{}); len(again.Damaged) > 0 {
		t.Errorf("again: %+v", again)
	}
	v.backup(t, content) // of what is lost
	wantContents(t, v, content, content)
	for _, late := range []bool{false, true} {
		if late {
			v.wait()
		}
		report := collectNow(t, v)
		if _, err := first.Stat(t.Context(), pack); (err != nil) != late || (report.Locked.Packs > 0) == late {
			t.Errorf("when the lock has ended: %v: %v, %+v", late, err, report)
		}
	}
	wantContents(t, v, content, content)
}
