package chunkstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// forgetRecord is the object f/<writer>/<id>: these snapshots are no longer wanted. It stays, also when
// they are gone: it is why the next outcome of their writer names one that is missing.
type forgetRecord struct {
	Version   int       `json:"version"`
	Host      string    `json:"host"`
	Time      time.Time `json:"time"`      // by the host's clock, for people
	Snapshots []string  `json:"snapshots"` // names of their outcomes
}

// Forget takes snapshots out of all lists, by one record that all hosts see. What only they need is given
// back by the next collection; until then nothing of them is lost. An empty list does nothing.
func (r *Repository) Forget(ctx context.Context, host string, list []Outcome) error {
	if len(list) == 0 {
		return nil
	}
	record := forgetRecord{Version: 1, Host: host, Time: time.Now().UTC()}
	for _, o := range list {
		record.Snapshots = append(record.Snapshots, o.Name)
	}
	w, release, err := claimWriter(r.opts.StateDir, r.keys.Repository())
	if err != nil {
		return err
	}
	defer release()
	name := sessionName(forgetPrefix, w, newSessionID(time.Now()))
	if err := r.putSigned(ctx, crypto.TypeForget, name, record); err != nil {
		return fmt.Errorf("forget snapshots: %w", err)
	}
	return nil
}

// forgotten returns the names of all outcomes that forget records list, and those records that cannot be
// read: what they list counts as wanted.
func (r *Repository) forgotten(ctx context.Context) (map[string]bool, map[string]error, error) {
	names, err := listNames(ctx, r.backend, forgetPrefix)
	if err != nil {
		return nil, nil, err
	}
	all, bad := map[string]bool{}, map[string]error{}
	for _, name := range names {
		var record forgetRecord
		if err := r.getSigned(ctx, crypto.TypeForget, name, &record); err != nil {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			bad[name] = err
			continue
		}
		for _, s := range record.Snapshots {
			all[s] = true
		}
	}
	r.cache.keep(forgetPrefix, names)
	return all, bad, nil
}

// putSigned stores v as JSON behind its tag under the key of collections.
func (r *Repository) putSigned(ctx context.Context, t crypto.Type, name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	mac := r.keys.CollectionMAC(text)
	object, err := r.keys.Seal(t, name, append(mac[:], text...))
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}

// getSigned reads what putSigned stored.
func (r *Repository) getSigned(ctx context.Context, t crypto.Type, name string, v any) error {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return err
	}
	err = r.openSigned(t, name, object, v)
	if err != nil {
		r.cache.drop(name)
		return fmt.Errorf("object %s: %w", name, err)
	}
	return nil
}

func (r *Repository) openSigned(t crypto.Type, name string, object []byte, v any) error {
	plain, err := r.keys.Open(t, name, object)
	if err != nil {
		return err
	}
	if len(plain) < sha256.Size {
		return fmt.Errorf("%w: %d bytes", crypto.ErrDamaged, len(plain))
	}
	text := plain[sha256.Size:]
	if mac := r.keys.CollectionMAC(text); !hmac.Equal(mac[:], plain[:sha256.Size]) {
		return fmt.Errorf("%w: not written by one who may", crypto.ErrDamaged)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	if head.Version != 1 {
		return fmt.Errorf("%w: %s of version %d", crypto.ErrNewer, strings.TrimSuffix(name[:2], "/"), head.Version)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	return nil
}
