package chunkstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Record is something that was done and is to be proved later, a drill or a failover: the object
// r/<writer>/<id>. Records are only ever added, each under a name of its own; a collection leaves them alone.
type Record struct {
	Version int             `json:"version"`
	Kind    string          `json:"kind"`
	Time    time.Time       `json:"time"` // by the writer's clock
	Body    json.RawMessage `json:"body"` // what the kind says

	// Of the object, not in it:
	Name     string          `json:"-"`
	Writer   crypto.WriterID `json:"-"`
	Modified time.Time       `json:"-"` // by the store's clock
	Err      error           `json:"-"` // the object could not be read; only Name, Writer and Modified are set
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
// with Err set: it must not hide the others, nor be taken for one that was never written.
func (r *Repository) Records(ctx context.Context) ([]Record, error) {
	if r.host != nil {
		return nil, crypto.ErrPutOnly
	}
	var infos []Info
	if err := r.backend.List(ctx, recordPrefix, func(i Info) error {
		infos = append(infos, i)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	records, names := make([]Record, len(infos)), make([]string, len(infos))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, info := range infos {
		names[i] = info.Name
		g.Go(func() error {
			records[i] = r.readRecord(gctx, info)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r.cache.keep(recordPrefix, names)
	slices.SortStableFunc(records, func(a, b Record) int { return a.Modified.Compare(b.Modified) })
	return records, nil
}

// readRecord reads one record and verifies it; failures go into Err.
func (r *Repository) readRecord(ctx context.Context, info Info) Record {
	w, _, _, err := parseSessionName(recordPrefix, info.Name)
	var record Record
	if err == nil {
		record, err = r.openRecord(ctx, w, info.Name)
	}
	if err != nil {
		record = Record{Err: fmt.Errorf("record %s: %w", info.Name, err)}
	}
	record.Name, record.Writer, record.Modified = info.Name, w, info.Modified
	return record
}

func (r *Repository) openRecord(ctx context.Context, w crypto.WriterID, name string) (Record, error) {
	var record Record
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return record, err
	}
	plain, err := r.keys.Open(crypto.TypeRecord, name, object)
	if err == nil && len(plain) < sha256.Size {
		err = fmt.Errorf("%w: %d bytes", crypto.ErrDamaged, len(plain))
	}
	if err == nil {
		if mac := r.recordMAC(w, name, plain[sha256.Size:]); !hmac.Equal(mac[:], plain[:sha256.Size]) {
			err = fmt.Errorf("%w: not written by the host that it names", crypto.ErrDamaged)
		}
	}
	if err == nil {
		err = unmarshalVersioned(plain[sha256.Size:], &record)
	}
	if err != nil {
		r.cache.drop(name)
	}
	return record, err
}
