package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// recipient is the public key of the golden identity of package crypto.
const recipient = "age1jjh08e4699pyhgauhz966l4pqxnr94eaaxhfekdtlzh9gte6hfrskfqlrd"

// ring are the secrets of the slots of a test's repository, beside password.
type ring struct {
	second, third crypto.Secret
	age           crypto.Secret // opens
	secondID      string
	thirdID       string
	ageID         string
}

// manySlots returns a store with one snapshot, which four secrets open.
func manySlots(t *testing.T) (*mem.Store, []byte, ring) {
	t.Helper()
	b, before := seeded(t)
	k := ring{second: crypto.KeyFile(crypto.NewKeyFile()), third: crypto.KeyFile(crypto.NewKeyFile())}
	identity, err := os.ReadFile("../crypto/testdata/v1/identity.txt")
	if err != nil {
		t.Fatal(err)
	}
	if k.age, err = crypto.AgeIdentities(bytes.NewReader(identity)); err != nil {
		t.Fatal(err)
	}
	k.secondID = addSlot(t, b, k.second, "second")
	k.thirdID = addSlot(t, b, k.third, "third")
	k.ageID = addSlot(t, b, ageRecipient(t), "safe")
	return b, before, k
}

func ageRecipient(t testing.TB) crypto.Secret {
	t.Helper()
	s, err := crypto.AgeRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func addSlot(t testing.TB, b chunkstore.Backend, s crypto.Secret, label string) string {
	t.Helper()
	id, err := chunkstore.AddSlot(t.Context(), b, password, s, crypto.SlotInfo{Label: label}, cheap)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// rotate rotates to an epoch of the password alone.
func rotate(t testing.TB, b chunkstore.Backend) *chunkstore.RotateReport {
	t.Helper()
	report, err := chunkstore.RotateKeys(t.Context(), b, password, chunkstore.RotateOptions{DropOthers: true})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// The slot with the newest keys is not removed while the others are older: as after a rotation that was stopped.
func TestNewestSlotStays(t *testing.T) {
	b := mem.New(mem.Options{})
	newRepository(t, b, chunkstore.Options{})
	old := slotsOf(t, b)[0]
	object := bytesOf(t, b, "k/"+old)
	rotate(t, b)
	fresh := slotsOf(t, b)[0]
	if err := b.Put(t.Context(), "k/"+old, object); err != nil {
		t.Fatal(err)
	}
	if err := chunkstore.RemoveSlot(t.Context(), b, password, fresh); !errors.Is(err, chunkstore.ErrLastSlot) {
		t.Errorf("the newest: %v", err)
	}
	other := crypto.KeyFile(crypto.NewKeyFile())
	if _, err := chunkstore.AddSlot(t.Context(), b, password, other, crypto.SlotInfo{Created: time.Now().Add(time.Minute)}, cheap); err != nil {
		t.Fatal(err)
	}
	if err := chunkstore.RemoveSlot(t.Context(), b, password, fresh); err != nil {
		t.Errorf("the newest beside another with its keys: %v", err)
	}
}

func slotsOf(t testing.TB, b chunkstore.Backend) []string {
	t.Helper()
	ids, err := chunkstore.SlotsOf(t.Context(), b, password)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func opens(t testing.TB, b chunkstore.Backend, s crypto.Secret) error {
	t.Helper()
	_, err := chunkstore.Open(t.Context(), b, s, chunkstore.Options{})
	return err
}

// Who opened the repository before goes on, reads what was there, and is told when it meets what he has no key
// for; who opens it afterwards reads everything. What a copy of the old slot opens is the old.
func TestRotate(t *testing.T) {
	store, before := seeded(t)
	early := reopen(t, store, chunkstore.Options{})
	old := store.Clone()
	if report := rotate(t, store); report.Epoch != 2 || report.Resumed || len(report.Renewed) != 1 || len(report.Removed) != 0 {
		t.Errorf("%+v", report)
	}
	during := noise(30, 50_000)
	if _, err := backup(t.Context(), early, during); err != nil {
		t.Fatalf("one who was there before: %v", err)
	}
	after := noise(31, 50_000)
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), after); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, store, before, during, after)
	for name, r := range map[string]*chunkstore.Repository{"early": early, "old slot": reopen(t, withSlots(t, store, old), chunkstore.Options{})} {
		if err := r.LoadIndex(t.Context()); !errors.Is(err, crypto.ErrRotated) || !errors.Is(err, crypto.ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
		all, err := r.Outcomes(t.Context())
		if err != nil || len(all) != 3 || all[0].Err != nil || !errors.Is(all[2].Err, crypto.ErrRotated) {
			t.Errorf("%s: %v: %+v", name, err, all)
		}
	}
	if report := rotate(t, store); report.Epoch != 3 {
		t.Errorf("again: %+v", report)
	}
	wantSnapshots(t, store, before, during, after)
}

// withSlots returns a copy of the store with the key slots of another.
func withSlots(t testing.TB, store, slots *mem.Store) *mem.Store {
	t.Helper()
	clone := store.Clone()
	for _, b := range []*mem.Store{clone, slots} {
		if err := b.List(t.Context(), "k/", func(i chunkstore.Info) error {
			if b == clone {
				return clone.Delete(t.Context(), i.Name)
			}
			object, err := slots.Get(t.Context(), i.Name, 0, -1)
			return errors.Join(err, clone.Put(t.Context(), i.Name, object))
		}); err != nil {
			t.Fatal(err)
		}
	}
	return clone
}

// While a slot is there that would be left behind nothing happens; those whose secrets are given stay, under
// their labels.
func TestRotateOtherSlots(t *testing.T) {
	store, before, k := manySlots(t)
	was := names(t, store)
	_, err := chunkstore.RotateKeys(t.Context(), store, password, chunkstore.RotateOptions{Secrets: []crypto.Secret{k.second}})
	others, ok := errors.AsType[*chunkstore.OtherSlotsError](err)
	if !ok || len(others.Slots) != 2 {
		t.Fatalf("%v", err)
	}
	for name, o := range map[string]chunkstore.RotateOptions{
		"an unknown slot":        {DropOthers: true, Recipients: map[string]crypto.Secret{"0123456789abcdef": ageRecipient(t)}},
		"a slot of another kind": {DropOthers: true, Recipients: map[string]crypto.Secret{k.secondID: ageRecipient(t)}},
		"dry run":                {DropOthers: true, DryRun: true},
	} {
		if _, err := chunkstore.RotateKeys(t.Context(), store, password, o); (err == nil) != o.DryRun {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Identities open, but only the public key seals, and it must be theirs.
	if _, err := chunkstore.RotateKeys(t.Context(), store, k.age, chunkstore.RotateOptions{DropOthers: true}); err == nil {
		t.Error("rotated for identities without their public key")
	}
	stranger, err := crypto.AgeRecipient("age14seuqp7886x567dp35yph8szyq2vxdu7nsqegvfvmgjcplup230qxmtgd4")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunkstore.RotateKeys(t.Context(), store, k.age, chunkstore.RotateOptions{
		Recipients: map[string]crypto.Secret{k.ageID: stranger}, DropOthers: true,
	}); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("rotated for somebody else's public key: %v", err)
	}
	if diff := cmp.Diff(was, names(t, store)); diff != "" {
		t.Errorf("something was changed: %s", diff)
	}
	report, err := chunkstore.RotateKeys(t.Context(), store, k.age, chunkstore.RotateOptions{
		Secrets: []crypto.Secret{password}, Recipients: map[string]crypto.Secret{k.ageID: ageRecipient(t)}, DropOthers: true,
	})
	if err != nil || len(report.Renewed) != 2 || len(report.Removed) != 2 {
		t.Fatalf("%v: %+v", err, report)
	}
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), noise(32, 1000)); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, store, before, noise(32, 1000))
	if err := opens(t, store, k.age); err != nil {
		t.Error(err)
	}
	for _, gone := range []crypto.Secret{k.second, k.third} {
		if err := opens(t, store, gone); !errors.Is(err, crypto.ErrWrongKey) {
			t.Errorf("a removed slot: %v", err)
		}
	}
	slots, err := chunkstore.Slots(t.Context(), store)
	var labels []string
	for _, s := range slots {
		labels = append(labels, s.Label)
	}
	if slices.Sort(labels); err != nil || !slices.Equal(labels, []string{"safe", "test"}) {
		t.Errorf("%v, %v", labels, err)
	}
}

// rotateMost rotates and keeps all slots but the third.
func rotateMost(ctx context.Context, t testing.TB, b chunkstore.Backend, k ring) (*chunkstore.RotateReport, error) {
	return chunkstore.RotateWithin(ctx, b, password, chunkstore.RotateOptions{
		Secrets: []crypto.Secret{k.second}, Recipients: map[string]crypto.Secret{k.ageID: ageRecipient(t)}, DropOthers: true,
	}, time.Millisecond)
}

// rotatedSomehow verifies what must hold after a rotation that ended somehow: the repository opens, and takes
// another backup; a second run with the same secrets ends well, and leaves one slot for each of them that opens
// everything.
func rotatedSomehow(t *testing.T, store *mem.Store, before []byte, k ring, first error) {
	t.Helper()
	after := noise(33, 1000)
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), after); err != nil {
		t.Fatalf("a backup: %v", err)
	}
	wantSnapshots(t, store, before, after)
	if first != nil {
		if _, err := rotateMost(t.Context(), t, store, k); err != nil && !errors.Is(err, chunkstore.ErrNotExist) { // nothing was left to do
			t.Fatalf("again: %v", err)
		}
	}
	wantSnapshots(t, store, before, after)
	slots, err := chunkstore.Slots(t.Context(), store)
	if err != nil || len(slots) != 3 {
		t.Fatalf("%v: %+v", err, slots)
	}
	for _, s := range []crypto.Secret{password, k.second, k.age} {
		r, err := chunkstore.Open(t.Context(), store, s, chunkstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if all, err := r.Outcomes(t.Context()); err != nil || len(all) != 2 || all[0].Err != nil || all[1].Err != nil {
			t.Errorf("%v: %+v", err, all)
		}
	}
	if err := opens(t, store, k.third); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("the slot that was to go: %v", err)
	}
}

func TestRotateEveryCallFails(t *testing.T) {
	base, before, k := manySlots(t)
	for _, late := range []bool{false, true} {
		failures := 0
		for n := 1; ; n += stride() {
			store := base.Clone()
			f := &storetest.Faulty{N: n, After: late}
			_, err := rotateMost(t.Context(), t, f.Wrap(store), k)
			if !f.Fired() {
				break
			}
			if err != nil {
				failures++
			}
			if rotatedSomehow(t, store, before, k, err); t.Failed() {
				t.Fatalf("call %d failed, after its effect: %v; %v", n, late, err)
			}
		}
		if failures*stride() < 15 {
			t.Errorf("only %d rotations failed: were the faults seen?", failures)
		}
	}
}

func TestRotateCrashes(t *testing.T) {
	base, before, k := manySlots(t)
	for name, kind := range kinds() {
		n := 0
		for ; ; n += stride() {
			store := base.Clone()
			c := &storetest.Crash{After: n, Apply: n/stride()%2 == 1}
			_, err := rotateMost(t.Context(), t, c.Wrap(kind(store)), k)
			if !c.Crashed() {
				break
			}
			if rotatedSomehow(t, store, before, k, err); t.Failed() {
				t.Fatalf("%s: crash after write %d; %v", name, n, err)
			}
		}
		if n < 7 { // three slots put, four deleted
			t.Errorf("%s: only %d writes", name, n)
		}
	}
}

// Two who begin an epoch at once would make two of the same number: one of them fails, and changes nothing.
func TestRotateAtOnce(t *testing.T) {
	store, before, k := manySlots(t)
	var inner error
	began := false
	b := storetest.Intercept(store, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.PutIfAbsent && strings.HasPrefix(c.Name, "k/") && !began {
			began = true
			_, inner = rotateMost(t.Context(), t, store, k)
		}
		return next()
	})
	_, err := chunkstore.RotateKeys(t.Context(), b, k.second, chunkstore.RotateOptions{DropOthers: true})
	if !began || inner != nil || !errors.Is(err, chunkstore.ErrRotating) {
		t.Fatalf("the first: %v, the second: %v", inner, err)
	}
	rotatedSomehow(t, store, before, k, nil)
}

// twoSlots returns a store with one snapshot, which two key files open, and whose clock goes on by seconds with each put and
// by what is added to late.
func twoSlots(t *testing.T) (b *mem.Store, other crypto.Secret, before []byte, late *atomic.Int64) {
	t.Helper()
	late = new(atomic.Int64)
	began := time.Now()
	b = mem.New(mem.Options{Now: func() time.Time { return began.Add(time.Duration(late.Add(2)) * time.Second) }})
	before, other = noise(36, 1000), crypto.KeyFile(crypto.NewKeyFile())
	if _, err := backup(t.Context(), newRepository(t, b, chunkstore.Options{}), before); err != nil {
		t.Fatal(err)
	}
	addSlot(t, b, other, "other")
	return b, other, before, late
}

// rotateBoth rotates with one secret and keeps the other one.
func rotateBoth(ctx context.Context, b chunkstore.Backend, by, other crypto.Secret) (*chunkstore.RotateReport, error) {
	return chunkstore.RotateWithin(ctx, b, by, chunkstore.RotateOptions{Secrets: []crypto.Secret{other}}, time.Millisecond)
}

func backupBy(t *testing.T, b chunkstore.Backend, s crypto.Secret) {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), b, s, chunkstore.Options{})
	if err == nil {
		_, err = backup(t.Context(), r, noise(37, 100))
	}
	if err != nil {
		t.Error(err)
	}
}

// wantOneEpoch demands that what is stored by either secret can be read by both: nowhere is there another master of the same epoch.
func wantOneEpoch(t *testing.T, b chunkstore.Backend, secrets ...crypto.Secret) {
	t.Helper()
	for _, s := range secrets {
		backupBy(t, b, s)
	}
	for _, s := range secrets {
		r, err := chunkstore.Open(t.Context(), b, s, chunkstore.Options{})
		if err != nil {
			t.Error(err)
			continue
		}
		wantClean(t, r)
	}
}

// Two who rotate at once on a store that creates unconditionally: whenever the second comes, and wherever it stops, at most one begins an
// epoch, both can be ended, and everything is sealed with the same keys.
func TestRotateAtOnceUnconditionally(t *testing.T) {
	base, other, _, late := twoSlots(t)
	for kind, wrap := range map[string]func(chunkstore.Backend) chunkstore.Backend{"no create": storetest.NoCreate, "ignored": storetest.IgnoresCondition} {
		for _, stop := range []int{1, 2, 1000} { // the second, after so many writes
			if stop < 1000 && (kind == "ignored" || testing.Short()) {
				continue
			}
			for n := int64(1); ; n += int64(stride()) {
				store := base.Clone()
				var calls atomic.Int64
				var second *chunkstore.RotateReport
				var secondErr error
				crash := &storetest.Crash{After: stop}
				b := storetest.Intercept(wrap(store), func(_ context.Context, _ storetest.Call, next func() error) error {
					if calls.Add(1) == n {
						if second, secondErr = rotateBoth(t.Context(), crash.Wrap(wrap(store)), other, password); secondErr == nil {
							backupBy(t, store, other)
						}
					}
					return next()
				})
				first, firstErr := rotateBoth(t.Context(), b, password, other)
				if calls.Load() < n {
					break
				}
				if firstErr == nil {
					backupBy(t, store, password)
				}
				if firstErr == nil && secondErr == nil && first.Epoch == second.Epoch && !first.Resumed && !second.Resumed {
					t.Errorf("both began epoch %d", first.Epoch)
				}
				if firstErr != nil && secondErr != nil && !crash.Crashed() {
					t.Errorf("neither began an epoch: %v; %v", firstErr, secondErr)
				}
				late.Add(120) // a candidate of one who died counts for a minute
				if _, err := rotateBoth(t.Context(), wrap(store), password, other); err != nil && !errors.Is(err, chunkstore.ErrRotating) {
					t.Errorf("again: %v", err)
				}
				if _, err := rotateBoth(t.Context(), wrap(store), other, password); err != nil {
					t.Errorf("again, with the other secret: %v", err)
				}
				if wantOneEpoch(t, wrap(store), password, other); t.Failed() {
					t.Fatalf("%s: the second before call %d, stopped after %d writes: %v; %v", kind, n, stop, firstErr, secondErr)
				}
			}
		}
	}
}

// Where the store keeps old slots for a time they stay, and open what was stored before.
func TestRotateLockedSlots(t *testing.T) {
	store, before := seeded(t)
	b := storetest.Intercept(store, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.Delete {
			return chunkstore.ErrLocked
		}
		return next()
	})
	if report := rotate(t, b); len(report.Locked) != 1 || len(report.Renewed) != 1 {
		t.Errorf("%+v", report)
	}
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), noise(35, 1000)); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, store, before, noise(35, 1000))
}

// One with another secret cannot begin the epoch anew that an interrupted rotation has begun.
func TestRotateInterrupted(t *testing.T) {
	store, _, k := manySlots(t)
	begun := false // when the first slot of the epoch is there
	crash := storetest.Intercept(store, func(_ context.Context, c storetest.Call, next func() error) error {
		if begun {
			return errors.New("crash")
		}
		if c.Write() && strings.HasPrefix(c.Name, "k/") {
			begun = true
		}
		return next()
	})
	if _, err := rotateMost(t.Context(), t, crash, k); err == nil {
		t.Fatal("it went on after the crash")
	}
	if _, err := chunkstore.RotateKeys(t.Context(), store, k.second, chunkstore.RotateOptions{DropOthers: true}); !errors.Is(err, chunkstore.ErrRotating) {
		t.Errorf("with another secret: %v", err)
	}
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), noise(34, 1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := chunkstore.RotateKeys(t.Context(), store, k.second, chunkstore.RotateOptions{DropOthers: true}); !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("where something is sealed in the new epoch: %v", err)
	}
	if _, err := chunkstore.AddSlot(t.Context(), store, k.second, crypto.KeyFile(crypto.NewKeyFile()), crypto.SlotInfo{}, cheap); !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("a slot added without the new epoch: %v", err)
	}
	if report, err := chunkstore.RotateKeys(t.Context(), store, k.second, chunkstore.RotateOptions{Secrets: []crypto.Secret{password}, DropOthers: true}); err != nil || !report.Resumed || report.Epoch != 2 {
		t.Errorf("with both: %v: %+v", err, report)
	}
	for _, s := range []crypto.Secret{password, k.second} {
		r, err := chunkstore.Open(t.Context(), store, s, chunkstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		wantClean(t, r)
	}
}

// A slot that somebody adds while the keys are rotated lacks the new epoch: either he is told, or the rotation
// stops before it deletes anything.
func TestRotateWhileASlotIsAdded(t *testing.T) {
	base, before := seeded(t)
	added := crypto.KeyFile(crypto.NewKeyFile())
	for _, moment := range []storetest.Op{storetest.Put, storetest.Stat} { // before the slot is there, and after
		store, began := base.Clone(), false
		var rotation error
		b := storetest.Intercept(store, func(_ context.Context, c storetest.Call, next func() error) error {
			if c.Op == moment && !began {
				began = true
				_, rotation = chunkstore.RotateKeys(t.Context(), store, password, chunkstore.RotateOptions{})
			}
			return next()
		})
		_, err := chunkstore.AddSlot(t.Context(), b, password, added, crypto.SlotInfo{}, cheap)
		if moment == storetest.Put && (!errors.Is(err, crypto.ErrRotated) || rotation != nil) {
			t.Errorf("added: %v, rotated: %v", err, rotation)
		}
		if others, ok := errors.AsType[*chunkstore.OtherSlotsError](rotation); moment == storetest.Stat && (!ok || len(others.Slots) != 1 || err != nil) {
			t.Errorf("added: %v, rotated: %v", err, rotation)
		}
		wantSnapshots(t, store, before)
	}
	// Between the look at the slots and the first new one.
	store, began := base.Clone(), false
	b := storetest.Intercept(store, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.PutIfAbsent && strings.HasPrefix(c.Name, "k/") && !began {
			began = true
			if _, err := chunkstore.AddSlot(t.Context(), store, password, added, crypto.SlotInfo{}, cheap); err != nil {
				t.Error(err)
			}
		}
		return next()
	})
	if _, err := chunkstore.RotateKeys(t.Context(), b, password, chunkstore.RotateOptions{}); err == nil {
		t.Error("rotated over a slot that was added meanwhile")
	}
	report, err := chunkstore.RotateKeys(t.Context(), store, password, chunkstore.RotateOptions{Secrets: []crypto.Secret{added}})
	if err != nil || !report.Resumed {
		t.Errorf("again: %v: %+v", err, report)
	}
	if err := opens(t, store, added); err != nil {
		t.Error(err)
	}
	wantSnapshots(t, store, before)
}

// Whoever opens the repository while its keys are rotated finds a slot, whichever call comes in between.
func TestOpenWhileRotated(t *testing.T) {
	base, _ := seeded(t)
	for n := 1; ; n++ {
		store, calls := base.Clone(), 0
		b := storetest.Intercept(store, func(_ context.Context, _ storetest.Call, next func() error) error {
			if calls++; calls == n {
				rotate(t, store)
			}
			return next()
		})
		if err := opens(t, b, password); err != nil {
			t.Errorf("rotated before call %d: %v", n, err)
		}
		if calls < n {
			return
		}
	}
}
