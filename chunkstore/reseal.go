package chunkstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// What is sealed anew in a later key epoch, but for packs and the index, is another object: its name, and this
// with the epoch as 8 hex digits. So it sorts behind what it replaces, and a list that begins before it is there
// and comes by after the old one has gone has it all the same.
const resealedMark = "-e"

func resealedName(name string, epoch uint32) string {
	return fmt.Sprintf("%s%s%08x", name, resealedMark, epoch)
}

// isResealed tells whether an object's name is one that resealedName makes.
func isResealed(name string) bool { return strings.HasPrefix(name, sealedFirst(name)+resealedMark) }

// sealedFirst returns the name that an object was sealed under first.
func sealedFirst(name string) string {
	first, _, _ := strings.Cut(name, "-")
	return first
}

// sealings are the objects that are stored of one outcome, forget record, record, or put-only host: what was sealed last comes first.
type sealings struct {
	name    string // that it was sealed under first
	objects []Info
}

func (s sealings) names() []string {
	names := make([]string, len(s.objects))
	for i, info := range s.objects {
		names[i] = info.Name
	}
	return names
}

// listSealings lists them under a prefix, in order of their names.
func (r *Repository) listSealings(ctx context.Context, prefix string) ([]sealings, error) {
	return r.listSealedAs(ctx, prefix, sealedFirst)
}

// listSealedAs is listSealings where first tells the names that objects were sealed under first.
func (r *Repository) listSealedAs(ctx context.Context, prefix string, first func(string) string) ([]sealings, error) {
	var all []sealings
	err := r.backend.List(ctx, prefix, func(i Info) error {
		name := first(i.Name)
		if n := len(all); n == 0 || all[n-1].name != name {
			all = append(all, sealings{name: name})
		}
		last := &all[len(all)-1]
		last.objects = slices.Insert(last.objects, 0, i)
		return nil
	})
	return all, err
}

// resealedOutcome is what the plaintext of an outcome that is sealed anew holds, behind the signature of those who may
// take something out: whoever can put an outcome in another's place could take it out.
type resealedOutcome struct {
	Version int       `json:"version"`
	Stored  time.Time `json:"stored"`  // when the session put it, by the store's clock
	Outcome []byte    `json:"outcome"` // the plaintext that the session sealed
}

// resealedRecord is the same of a record: whoever can say when it was stored could have an old one count.
type resealedRecord struct {
	Version int       `json:"version"`
	Stored  time.Time `json:"stored"` // when it was added, by the store's clock
	Record  []byte    `json:"record"` // the plaintext that its writer sealed
}

// sealedInItsEpoch returns an error unless an object is sealed in the epoch that its name has: whoever has older keys only could
// take the place of those that were sealed later.
func sealedInItsEpoch(first, name string, object []byte) error {
	if name != resealedName(first, crypto.ObjectEpoch(object)) {
		return fmt.Errorf("%w: sealed in key epoch %d", crypto.ErrDamaged, crypto.ObjectEpoch(object))
	}
	return nil
}

// unwrap reads what the plaintext of an object that is sealed anew holds.
func (r *Repository) unwrap(t crypto.Type, name string, object, plain []byte, v any) error {
	if err := sealedInItsEpoch(sealedFirst(name), name, object); err != nil {
		return err
	}
	body, err := r.signed(t, sealedFirst(name), plain)
	if err != nil {
		return err
	}
	return unmarshalVersioned(body, v)
}

// wrap is its inverse, for an object that was sealed first under the name.
func (r *Repository) wrap(t crypto.Type, name string, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return r.sign(t, name, body)
}

// reseal seals snapshots' outcomes, forget records, records, and put-only hosts of old key epochs anew. The new object is there, and was read back,
// before the old one is deleted. What is damaged stays: check tells. Outcomes of aborted sessions hold nothing
// and stay too. Of a locked repository everything stays: it could not be deleted.
func (c *collector) reseal(ctx context.Context) error {
	if c.o.MaxReencrypt == 0 || c.r.keys.Epoch() == 1 || c.r.locker != nil {
		return nil
	}
	announced, err := listNames(ctx, c.r.backend, sessionPrefix)
	if err != nil {
		return err
	}
	outcomes, err := c.r.listOutcomes(ctx, outcomePrefix)
	if err != nil {
		return err
	}
	outcomes = slices.DeleteFunc(outcomes, func(o sealings) bool { // the session may yet look for what it has put
		return slices.Contains(announced, sessionPrefix+strings.TrimPrefix(o.name, outcomePrefix))
	})
	forgets, err := c.r.listSealings(ctx, forgetPrefix)
	if err != nil {
		return err
	}
	records, err := c.r.listSealings(ctx, recordPrefix)
	if err != nil {
		return err
	}
	hosts, err := c.r.hostObjects(ctx)
	if err != nil {
		return err
	}
	var count atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	each := func(list []sealings, t crypto.Type, plain func(context.Context, sealings) ([]byte, error)) {
		for _, s := range list {
			g.Go(func() error {
				done, err := c.resealOne(gctx, s, t, plain)
				if done {
					count.Add(1)
				}
				return err
			})
		}
	}
	each(outcomes, crypto.TypeOutcome, c.outcomeText)
	each(forgets, crypto.TypeForget, c.forgetText)
	each(records, crypto.TypeRecord, c.recordText)
	each(hosts, crypto.TypeHost, c.hostText)
	err = g.Wait()
	c.report.Resealed = int(count.Load())
	if err != nil {
		return fmt.Errorf("seal records anew: %w", err)
	}
	return nil
}

// errStays says that an object is left as it is.
var errStays = errors.New("it stays")

// outcomeText returns the plaintext of an outcome for its next object.
func (c *collector) outcomeText(ctx context.Context, s sealings) ([]byte, error) {
	o := c.r.readOutcome(ctx, s)
	if o.Aborted || errors.Is(o.Err, crypto.ErrDamaged) {
		return nil, errStays
	}
	if o.Err != nil {
		return nil, o.Err
	}
	object, err := c.r.cachedGet(ctx, s.objects[0].Name)
	if err != nil {
		return nil, err
	}
	plain, _, err := c.r.outcomePlain(s.objects[0].Name, object)
	if err != nil {
		return nil, errStays // damaged, but an older object is not
	}
	return c.r.wrap(crypto.TypeOutcome, s.name, resealedOutcome{Version: 1, Stored: o.Modified.UTC(), Outcome: plain})
}

// forgetText returns the plaintext of a forget record.
func (c *collector) forgetText(ctx context.Context, s sealings) ([]byte, error) {
	object, err := c.r.cachedGet(ctx, s.objects[0].Name)
	if err != nil {
		return nil, err
	}
	plain, err := c.r.keys.Open(crypto.TypeForget, s.objects[0].Name, object)
	if err == nil {
		_, err = c.r.signed(crypto.TypeForget, s.name, plain)
	}
	if err != nil {
		return nil, errStays
	}
	return plain, nil
}

// recordText returns the plaintext of a record for its next object.
func (c *collector) recordText(ctx context.Context, s sealings) ([]byte, error) {
	object, err := c.r.cachedGet(ctx, s.objects[0].Name)
	if err != nil {
		return nil, err
	}
	record, plain, err := c.r.parseRecord(s.objects[0], object)
	if err != nil {
		return nil, errStays
	}
	return c.r.wrap(crypto.TypeRecord, s.name, resealedRecord{Version: 1, Stored: record.Modified.UTC(), Record: plain})
}

// hostText returns the plaintext of what is on record of a put-only host for its next object. From when on it is removed is told by that
// itself then, and not by the time of the object.
func (c *collector) hostText(ctx context.Context, s sealings) ([]byte, error) {
	text, err := c.r.hostText(ctx, s.objects[0].Name)
	if isPassing(ctx, err) {
		return nil, err
	}
	if err == nil && strings.HasSuffix(s.name, removedSuffix) {
		text, err = datedRemoval(text, s.objects[0].Modified)
	}
	if err != nil {
		return nil, errStays
	}
	return c.r.sign(crypto.TypeHost, s.name, text)
}

// datedRemoval returns the text of a removal that was stored at that time, with the time from when on it counts.
func datedRemoval(text []byte, stored time.Time) ([]byte, error) {
	var record removal
	if err := unmarshalVersioned(text, &record); err != nil {
		return nil, err
	}
	record.Since = removedAt(record.Since, stored).UTC()
	return json.Marshal(record)
}

// resealOne puts the object of the newest epoch, unless it is there, and deletes the others when every list shows
// it. It reports whether it has put one.
func (c *collector) resealOne(ctx context.Context, s sealings, t crypto.Type, text func(context.Context, sealings) ([]byte, error)) (bool, error) {
	newest, err := c.r.cachedGet(ctx, s.objects[0].Name)
	if errors.Is(err, ErrNotExist) {
		return false, nil // another collection was faster
	}
	if err != nil {
		return false, err
	}
	if !c.isOld(newest) {
		return false, c.dropOlder(ctx, s, text)
	}
	plain, err := text(ctx, s)
	if errors.Is(err, errStays) || errors.Is(err, ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	name := resealedName(s.name, c.r.keys.Epoch())
	object, err := c.r.keys.Seal(t, name, plain)
	if err == nil {
		err = c.r.backend.Put(ctx, name, object)
	}
	if err == nil {
		err = c.readBack(ctx, t, name, plain)
	}
	if err != nil || c.lag() > 0 {
		return err == nil, err
	}
	return true, c.deleteAll(ctx, s.names())
}

// readBack verifies an object that has been put; another collection may have put the same.
func (c *collector) readBack(ctx context.Context, t crypto.Type, name string, plain []byte) error {
	object, err := c.r.backend.Get(ctx, name, 0, -1)
	if err == nil {
		object, err = c.r.keys.Open(t, name, object)
	}
	if err == nil && !bytes.Equal(object, plain) {
		err = fmt.Errorf("%w: something else is there", crypto.ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	return nil
}

// dropOlder deletes the objects beside one of the newest epoch, if that is good.
func (c *collector) dropOlder(ctx context.Context, s sealings, text func(context.Context, sealings) ([]byte, error)) error {
	if len(s.objects) == 1 || c.now.Sub(s.objects[0].Modified) < c.lag() {
		return nil
	}
	_, err := text(ctx, s)
	if errors.Is(err, errStays) || errors.Is(err, ErrNotExist) {
		return nil // damaged: what is there beside it stays
	}
	if err != nil {
		return err
	}
	return c.deleteAll(ctx, s.names()[1:])
}
