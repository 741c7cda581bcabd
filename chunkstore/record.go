package chunkstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Record is something that was done and is to be proved later, a drill or a failover: the object
// r/<writer>/<id>. Records are only ever added, each under a name of its own; a collection may seal one anew and leaves
// them alone otherwise.
type Record struct {
	Version int             `json:"version"`
	Kind    string          `json:"kind"`
	Time    time.Time       `json:"time"` // by the writer's clock
	Body    json.RawMessage `json:"body"` // what the kind says

	// Of the object, not in it:
	Name     string          `json:"-"` // that it was added under, also where it was sealed anew under another since
	Objects  []string        `json:"-"` // all that there are of it, what was sealed last first
	Writer   crypto.WriterID `json:"-"`
	Modified time.Time       `json:"-"` // by the store's clock: when it was added
	Err      error           `json:"-"` // no object could be read; only Name, Objects, Writer and Modified are set
}

// maxRecord is how long the text of a record may be: a list is read whole.
const maxRecord = 1 << 20

// AddRecord stores what was done, body as JSON. When it returns nil the record is durable and everybody's
// Records has it; after an error it may be there, if the store's answer was lost.
func (r *Repository) AddRecord(ctx context.Context, kind string, body any) error {
	if err := r.addRecord(ctx, kind, body); err != nil {
		return fmt.Errorf("record the %s: %w", kind, err)
	}
	return nil
}

func (r *Repository) addRecord(ctx context.Context, kind string, body any) error {
	if r.host != nil {
		return crypto.ErrPutOnly
	}
	inner, err := json.Marshal(body)
	if err != nil {
		return err
	}
	now := time.Now()
	text, err := json.Marshal(Record{Version: 1, Kind: kind, Time: now.UTC(), Body: inner})
	if err != nil {
		return err
	}
	if len(text) > maxRecord {
		return fmt.Errorf("%d bytes are too many", len(text))
	}
	w, release, err := claimWriter(r.opts.StateDir, r.keys.Repository())
	if err != nil {
		return err
	}
	defer release()
	name := sessionName(recordPrefix, w, newSessionID(now))
	mac := r.recordMAC(w, name, text)
	object, err := r.keys.Seal(crypto.TypeRecord, name, append(mac[:], text...))
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}

// recordMAC is the writer's tag. The name before the text keeps it apart from that of an outcome, which is
// over JSON alone.
func (r *Repository) recordMAC(w crypto.WriterID, name string, text []byte) [32]byte {
	return r.keys.MAC(w, slices.Concat([]byte(name), []byte{0}, text))
}

// Records returns all records, oldest first by the store's clock. One that cannot be read is returned too,
// with Err set: it must not hide the others, nor be taken for one that was never written. One that is gone when it is
// read was sealed anew: then it lists again.
func (r *Repository) Records(ctx context.Context) ([]Record, error) {
	for attempt := 1; ; attempt++ {
		all, err := r.recordsOnce(ctx)
		gone := func(record Record) bool { return errors.Is(record.Err, ErrNotExist) }
		switch {
		case err != nil || !slices.ContainsFunc(all, gone):
			return all, err
		case attempt == loadAttempts && !r.lags(ctx):
			return all, nil
		case attempt == loadAttempts || r.knownToLag():
			return slices.DeleteFunc(all, gone), nil
		}
	}
}

func (r *Repository) recordsOnce(ctx context.Context) ([]Record, error) {
	if r.host != nil {
		return nil, crypto.ErrPutOnly
	}
	stored, err := r.listSealings(ctx, recordPrefix)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	records := make([]Record, len(stored))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, s := range stored {
		g.Go(func() error {
			records[i] = r.readRecord(gctx, s)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range stored {
		names = append(names, s.names()...)
	}
	r.cache.keep(recordPrefix, names)
	slices.SortStableFunc(records, func(a, b Record) int { return a.Modified.Compare(b.Modified) })
	return records, nil
}

// readRecord reads one record and verifies it; failures go into Err. Of several objects the first that can be read
// counts.
func (r *Repository) readRecord(ctx context.Context, stored sealings) Record {
	record := Record{Modified: stored.objects[len(stored.objects)-1].Modified}
	for _, info := range stored.objects {
		opened, err := r.openRecord(ctx, info)
		if err == nil {
			record = opened
			break
		}
		if record.Err == nil {
			record.Err = fmt.Errorf("record %s: %w", info.Name, err)
		}
	}
	record.Name, record.Objects = stored.name, stored.names()
	record.Writer, _, _, _ = parseSessionName(recordPrefix, stored.name)
	return record
}

func (r *Repository) openRecord(ctx context.Context, info Info) (Record, error) {
	object, err := r.cachedGet(ctx, info.Name)
	if err != nil {
		return Record{}, err
	}
	record, _, err := r.parseRecord(info, object)
	if err != nil {
		r.cache.drop(info.Name)
	}
	return record, err
}

// parseRecord returns what an object says, and the plaintext that the writer sealed.
func (r *Repository) parseRecord(info Info, object []byte) (record Record, plain []byte, err error) {
	w, _, _, err := parseSessionName(recordPrefix, info.Name)
	if err == nil {
		plain, err = r.keys.Open(crypto.TypeRecord, info.Name, object)
	}
	stored := info.Modified
	if err == nil && isResealed(info.Name) {
		var anew resealedRecord
		err = r.unwrap(crypto.TypeRecord, info.Name, object, plain, &anew)
		plain, stored = anew.Record, anew.Stored
	}
	if err == nil && len(plain) < sha256.Size {
		err = fmt.Errorf("%w: %d bytes", crypto.ErrDamaged, len(plain))
	}
	if err != nil {
		return Record{}, nil, err
	}
	if mac := r.recordMAC(w, sealedFirst(info.Name), plain[sha256.Size:]); !hmac.Equal(mac[:], plain[:sha256.Size]) {
		return Record{}, nil, fmt.Errorf("%w: not written by the host that it names", crypto.ErrDamaged)
	}
	err = unmarshalVersioned(plain[sha256.Size:], &record)
	record.Modified = stored
	return record, plain, err
}
