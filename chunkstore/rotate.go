package chunkstore

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// RotateOptions say who can open the repository after a rotation.
type RotateOptions struct {
	// Secrets open further slots, which are renewed beside the one of the secret at hand.
	Secrets []crypto.Secret
	// Recipients are the public keys of the age slots that are renewed, by the slots' ids. They are needed also
	// where identities are at hand.
	Recipients map[string]crypto.Secret
	// DropOthers removes all other slots. Without it they are an OtherSlotsError.
	DropOthers bool
	// DryRun changes nothing and tells what would be done.
	DryRun bool
}

// RotateReport says what a rotation did.
type RotateReport struct {
	Epoch   int  // that seals from now on
	Resumed bool // a rotation that was interrupted has been ended; no further epoch begins
	Renewed []RenewedSlot
	Removed []crypto.SlotInfo // others
	Locked  []crypto.SlotInfo // old ones and others that are gone only when the store lets them: they open what was stored before
}

// RenewedSlot is a slot that was, and the id of the one in its place.
type RenewedSlot struct {
	crypto.SlotInfo
	New string
}

// OtherSlotsError says which slots keep the keys from being rotated: they cannot be renewed, and whoever has
// only them could not read what is stored from then on.
type OtherSlotsError struct{ Slots []crypto.SlotInfo }

func (e *OtherSlotsError) Error() string {
	var list []string
	for _, s := range e.Slots {
		list = append(list, strings.TrimRight(fmt.Sprintf("%s (%s %s", s.ID, s.Kind, s.Label), " ")+")")
	}
	return "rotate the keys: other key slots would not open what is stored from then on: " + strings.Join(list, ", ")
}

// ErrRotating says that a rotation has begun that only another secret can end.
var ErrRotating = errors.New("a rotation has begun with another secret")

// RotateKeys begins a new key epoch: what is stored from then on cannot be read with the keys from before, as
// a lost slot or a dismissed holder has them. What is stored stays readable for whoever has these, and the new
// ones open everything.
//
// Each slot that stays is put anew, with all keys, before any old one is deleted, and that of secret is the
// first to come and the last to go: wherever it stops, the repository opens, and a second run with the same
// secret ends what the first began (RotateReport.Resumed). Two rotations at once: one of them fails, and
// changes nothing.
//
// Processes that have opened the repository before go on; what they store is sealed in the old epoch. When
// they meet an object of the new one, their error is crypto.ErrRotated.
func RotateKeys(ctx context.Context, b Backend, secret crypto.Secret, o RotateOptions) (*RotateReport, error) {
	return rotateKeys(ctx, b, secret, o, contestTime)
}

func rotateKeys(ctx context.Context, b Backend, secret crypto.Secret, o RotateOptions, contestTime time.Duration) (*RotateReport, error) {
	r := &rotation{b: view(ctx, b), o: o, secrets: append([]crypto.Secret{secret}, o.Secrets...), report: &RotateReport{}, contestTime: contestTime}
	steps := []func(context.Context) error{r.open, r.opensAll, r.plan}
	if !o.DryRun {
		steps = append(steps, r.write, r.alone, r.remove)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			if _, ok := errors.AsType[*OtherSlotsError](err); !ok {
				err = fmt.Errorf("rotate the keys: %w", err)
			}
			return nil, err
		}
	}
	return r.report, nil
}

type rotation struct {
	b       Backend
	o       RotateOptions
	secrets []crypto.Secret // the one at hand first
	report  *RotateReport

	contestTime time.Duration
	repo        *Repository // with the keys before
	creates     bool        // the store creates conditionally

	cfg     Config
	slots   []*heldSlot // newest first
	payload crypto.Payload
	keys    *crypto.Keys // before
	renew   []*heldSlot  // the one of the secret at hand first
	old     []*heldSlot  // to be removed, in this order
}

// heldSlot is a slot with what the secrets tell of it.
type heldSlot struct {
	*slot
	by      int           // number of the secret that opens it, or -1
	epochs  int           // that it holds; 0: not known
	sealer  crypto.Secret // for which it is renewed
	renewed string        // id of the slot in its place
	put     []byte        // that slot, if it has been put
}

// open opens all slots that the secrets fit.
func (r *rotation) open(ctx context.Context) error {
	var clear []byte
	var err error
	if r.cfg, clear, err = readConfig(ctx, r.b); err != nil {
		return err
	}
	slots, err := readSlots(ctx, r.b)
	if err != nil {
		return err
	}
	fits := false
	for _, s := range slots {
		h := &heldSlot{slot: s, by: -1}
		r.slots = append(r.slots, h)
		for by, secret := range r.secrets {
			p, err := s.open(secret)
			if err != nil {
				continue // one of another secret, or damaged: it is among the others then
			}
			if err := sameConfig(p, r.cfg, clear); err != nil {
				return err
			}
			if h.by, h.epochs = by, len(p.Masters); h.epochs > len(r.payload.Masters) {
				r.payload = p
			}
			fits = fits || by == 0
			break
		}
	}
	if !fits {
		return crypto.ErrWrongKey
	}
	r.keys, err = crypto.NewKeys(r.payload.Repository, r.payload.Masters...)
	return err
}

// opensAll refuses keys that do not open what is there: of a slot that was put by somebody else, or where a
// rotation has begun that they know nothing of.
func (r *rotation) opensAll(ctx context.Context) error {
	repo, err := open(r.b, r.cfg, r.payload, Options{})
	if err != nil {
		return err
	}
	repo.contestTime, r.repo = r.contestTime, repo
	all, _, err := repo.allOutcomes(ctx)
	if err != nil {
		return err
	}
	good, bad := false, error(nil)
	for _, o := range all {
		if errors.Is(o.Err, crypto.ErrWrongKey) {
			return o.Err
		}
		good = good || o.Err == nil
		bad = errors.Join(bad, o.Err)
	}
	if good {
		return nil
	}
	return bad
}

// plan decides what becomes of each slot.
func (r *rotation) plan(context.Context) error {
	epochs := len(r.payload.Masters)
	served := r.servedSecrets(epochs)
	for _, s := range r.slots {
		locked := r.cfg.Lock != nil && served[s.by] // a slot that could not be deleted
		r.report.Resumed = r.report.Resumed || s.by >= 0 && s.epochs < epochs && !locked
	}
	if !r.report.Resumed {
		epochs++
		r.payload.Masters = append(slices.Clip(r.payload.Masters), crypto.NewMaster(uint32(epochs)))
	}
	r.report.Epoch = epochs
	for id := range r.o.Recipients {
		if !slices.ContainsFunc(r.slots, func(s *heldSlot) bool { return s.ID == id && s.Kind == "age" || r.succeeds(s, id) }) {
			return fmt.Errorf("age slot %s: %w", id, ErrNotExist)
		}
	}
	served = r.servedSecrets(epochs)
	var others []*heldSlot
	for _, s := range r.slots {
		switch recipient := r.o.Recipients[s.ID]; {
		case s.epochs == epochs || r.isSuccessor(s):
		case recipient != nil:
			r.take(s, recipient)
		case s.by < 0 || s.Kind == "age":
			others = append(others, s)
		case served[s.by]:
			r.old = append(r.old, s)
		default:
			served[s.by] = true
			r.take(s, r.secrets[s.by])
		}
	}
	return r.settle(others)
}

// servedSecrets returns the numbers of the secrets that open a slot with all epochs already.
func (r *rotation) servedSecrets(epochs int) map[int]bool {
	served := map[int]bool{}
	for _, s := range r.slots {
		if s.epochs == epochs {
			served[s.by] = true
		}
	}
	return served
}

// isSuccessor tells whether the slot was put in the place of an age slot by a rotation that was interrupted.
func (r *rotation) isSuccessor(s *heldSlot) bool {
	for id := range r.o.Recipients {
		if r.succeeds(s, id) {
			return true
		}
	}
	return false
}

// succeeds tells whether the slot was put in the place of another.
func (r *rotation) succeeds(s *heldSlot, old string) bool {
	return s.ID == slotID(r.keys, r.report.Epoch, old)
}

// take notes that a slot is renewed. The first slot of an epoch has a name of its own, for which rotations that
// run at once compete.
func (r *rotation) take(s *heldSlot, sealer crypto.Secret) {
	s.sealer, s.renewed = sealer, slotID(r.keys, r.report.Epoch, s.ID)
	if s.by == 0 && !slices.ContainsFunc(r.renew, func(s *heldSlot) bool { return s.by == 0 }) {
		if !r.report.Resumed {
			s.renewed = slotID(r.keys, r.report.Epoch, "")
		}
		r.renew = slices.Insert(r.renew, 0, s)
		return
	}
	r.renew = append(r.renew, s)
}

// settle puts the old slots into the order in which they go, that of the secret at hand last.
func (r *rotation) settle(others []*heldSlot) error {
	var list []crypto.SlotInfo
	own := slices.ContainsFunc(r.slots, func(s *heldSlot) bool { return s.by == 0 && s.epochs == r.report.Epoch || s.by == 0 && s.sealer != nil })
	for _, s := range others {
		if s.by == 0 && !own {
			return fmt.Errorf("age slot %s: its public key is needed to renew it", s.ID)
		}
		list = append(list, s.SlotInfo)
	}
	if len(others) > 0 && !r.o.DropOthers {
		return &OtherSlotsError{list}
	}
	r.report.Removed = list
	r.old = append(append(slices.Clip(others), r.old...), r.renew...)
	slices.SortStableFunc(r.old, func(a, b *heldSlot) int { return r.last(a) - r.last(b) })
	for _, s := range r.renew {
		r.report.Renewed = append(r.report.Renewed, RenewedSlot{s.SlotInfo, s.renewed})
	}
	return nil
}

// last is 1 for the slots that go last.
func (r *rotation) last(s *heldSlot) int {
	if s.by == 0 {
		return 1
	}
	return 0
}

// slotID returns the id of the slot that takes the place of another in an epoch; of "": of the first one.
func slotID(keys *crypto.Keys, epoch int, old string) string {
	id := keys.SharedID(fmt.Sprintf("slot:%d:%s", epoch, old))
	return hex.EncodeToString(id[:8])
}

// rotated tells whether an epoch after those of payload has begun.
func rotated(ctx context.Context, b Backend, payload crypto.Payload) (bool, error) {
	keys, err := crypto.NewKeys(payload.Repository, payload.Masters...)
	if err != nil {
		return false, err
	}
	_, err = b.Stat(ctx, slotPrefix+slotID(keys, len(payload.Masters)+1, ""))
	if errors.Is(err, ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// farEpochs is how many rotations ahead of the keys at hand are looked for: the first slot of one that another followed
// is gone, in general.
const farEpochs = 1000

// laterEpoch tells whether any epoch after those of keys has begun whose first slot is there.
func laterEpoch(ctx context.Context, b Backend, keys *crypto.Keys) (bool, error) {
	slots, err := listNames(ctx, b, slotPrefix)
	if err != nil {
		return false, err
	}
	for n := range farEpochs {
		if slices.Contains(slots, slotPrefix+slotID(keys, int(keys.Epoch())+1+n, "")) {
			return true, nil
		}
	}
	return false, nil
}

// write puts the new slots.
func (r *rotation) write(ctx context.Context) error {
	created := time.Now()
	for _, s := range r.slots { // newer than all others, whatever the clocks of hosts say
		if next := s.Created.Add(time.Second); next.After(created) {
			created = next
		}
	}
	objects := make([][]byte, len(r.renew))
	for i, s := range r.renew { // all of them before the first is put
		var err error
		if objects[i], err = r.seal(s, created); err != nil {
			return err
		}
	}
	for i, s := range r.renew {
		if err := r.put(ctx, s, objects[i], i == 0 && !r.report.Resumed); err != nil {
			return fmt.Errorf("store the key slot in the place of %s: %w", s.ID, err)
		}
	}
	return nil
}

// seal makes a new slot and opens it, where the secret for that is at hand: a public key may be another's.
func (r *rotation) seal(s *heldSlot, created time.Time) ([]byte, error) {
	object, err := crypto.RenewSlot(s.object, s.sealer, s.renewed, created, r.payload)
	if err == nil && s.by >= 0 {
		_, _, err = crypto.OpenSlot(object, r.secrets[s.by])
	}
	if err != nil {
		return nil, fmt.Errorf("key slot in the place of %s: %w", s.ID, err)
	}
	return object, nil
}

// put stores a new slot, the first of an epoch only where there is none.
func (r *rotation) put(ctx context.Context, s *heldSlot, object []byte, first bool) error {
	switch {
	case first:
		s.put = object
		return r.create(ctx, slotPrefix+s.renewed, object)
	case r.has(s.renewed): // by the run that was interrupted
		return nil
	}
	s.put = object
	return r.b.Put(ctx, slotPrefix+s.renewed, object)
}

func (r *rotation) has(id string) bool {
	return slices.ContainsFunc(r.slots, func(s *heldSlot) bool { return s.ID == id })
}

// create puts the first slot of the epoch, which must not exist, and gives it to exactly one of those who want to. An answer
// that is lost and a request that is repeated look as if it had existed.
func (r *rotation) create(ctx context.Context, name string, object []byte) error {
	var err error
	if r.creates, err = r.repo.conditional(ctx); err != nil {
		return fmt.Errorf("probe for conditional writes: %w", err)
	}
	if err := r.unchanged(ctx); err != nil {
		return err
	}
	if r.creates {
		err = r.b.(Creator).PutIfAbsent(ctx, name, object)
	} else {
		id := strings.TrimPrefix(name, slotPrefix)
		err = r.repo.contest(ctx, name, object, probePrefix+"slot-"+id+"-", []byte("rotation"))
	}
	if errors.Is(err, ErrExist) {
		err = r.repo.isOurs(ctx, name, object)
	}
	if errors.Is(err, ErrClaimed) {
		err = ErrRotating
	}
	return err
}

// unchanged returns an error if the slots are not those that were opened: a rotation that has gone by since may have taken the first slot
// of its epoch away again.
func (r *rotation) unchanged(ctx context.Context) error {
	names, err := listNames(ctx, r.b, slotPrefix)
	if err != nil {
		return err
	}
	if len(names) != len(r.slots) || slices.ContainsFunc(names, func(name string) bool { return !r.has(strings.TrimPrefix(name, slotPrefix)) }) {
		return fmt.Errorf("%w, or the key slots have changed: nothing was", ErrRotating)
	}
	return nil
}

// alone reads the new slots back, and refuses to go on where somebody has put one meanwhile, which lacks the
// new epoch.
func (r *rotation) alone(ctx context.Context) error {
	for _, s := range r.renew {
		if s.put == nil {
			continue
		}
		stored, err := r.b.Get(ctx, slotPrefix+s.renewed, 0, -1)
		if err == nil && !bytes.Equal(stored, s.put) {
			err = ErrRotating // on a store that does not create conditionally
		}
		if err != nil {
			return fmt.Errorf("key slot in the place of %s: %w", s.ID, err)
		}
	}
	if !r.creates && !r.report.Resumed { // its lists may be late
		if err := r.repo.letListsCatchUp(ctx); err != nil {
			return err
		}
	}
	names, err := listNames(ctx, r.b, slotPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		id := strings.TrimPrefix(name, slotPrefix)
		if !r.has(id) && !slices.ContainsFunc(r.renew, func(s *heldSlot) bool { return s.renewed == id }) {
			return fmt.Errorf("key slot %s was added meanwhile: rotate again to end the rotation", id)
		}
	}
	return nil
}

// remove deletes the old slots.
func (r *rotation) remove(ctx context.Context) error {
	for _, s := range r.old {
		err := r.b.Delete(ctx, s.name)
		if errors.Is(err, ErrLocked) {
			r.report.Locked = append(r.report.Locked, s.SlotInfo)
			continue
		}
		if err != nil {
			return err
		}
	}
	r.report.Removed = slices.DeleteFunc(r.report.Removed, func(s crypto.SlotInfo) bool { return slices.Contains(r.report.Locked, s) })
	return nil
}
