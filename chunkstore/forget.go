package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

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

// ErrForgetRecord says that a forget record cannot be read.
var ErrForgetRecord = errors.New("a forget record cannot be read, so what it lists counts as wanted")

// Forget takes snapshots out of all lists, by one record that all hosts see: all of them or, after an error,
// none, unless the store's answer was lost. What only they need is given back by the next collection; until
// then nothing of them is lost. An empty list does nothing.
//
// It refuses with ErrForgetRecord while some record cannot be read: a snapshot that was forgotten before may
// be the reason why list was thought dispensable.
func (r *Repository) Forget(ctx context.Context, host string, list []Outcome) error {
	if len(list) == 0 {
		return nil
	}
	if err := r.CheckForgets(ctx); err != nil {
		return fmt.Errorf("forget snapshots: %w", err)
	}
	record := forgetRecord{Version: 1, Host: host, Time: time.Now().UTC()}
	for _, o := range list {
		record.Snapshots = append(record.Snapshots, o.Name)
	}
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	w, release, err := claimWriter(r.opts.StateDir, r.keys.Repository())
	if err != nil {
		return err
	}
	defer release()
	if err := r.putSigned(ctx, crypto.TypeForget, sessionName(forgetPrefix, w, newSessionID(time.Now())), text); err != nil {
		return fmt.Errorf("forget snapshots: %w", err)
	}
	return nil
}

// CheckForgets returns an error that wraps ErrForgetRecord if some forget record cannot be read: what it lists is among the
// Outcomes. One that the store just did not give (IsPassing) is told first.
func (r *Repository) CheckForgets(ctx context.Context) error {
	f, err := r.forgotten(ctx)
	if err != nil {
		return err
	}
	err = firstPassing(f.bad)
	if names := slices.Sorted(maps.Keys(f.bad)); err == nil && len(names) > 0 {
		err = f.bad[names[0]]
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForgetRecord, err)
	}
	return nil
}

// forgets is what forget records say.
type forgets struct {
	names map[string]bool  // of all outcomes that are listed
	bad   map[string]error // records that cannot be read, by name: what they list counts as wanted
}

// forgotten reads all forget records. One that is gone when it is read was sealed anew: then it lists again.
func (r *Repository) forgotten(ctx context.Context) (forgets, error) {
	for attempt := 1; ; attempt++ {
		f, err := r.forgottenOnce(ctx)
		there := maps.Clone(f.bad)
		maps.DeleteFunc(there, func(_ string, err error) bool { return errors.Is(err, ErrNotExist) })
		switch {
		case err != nil || len(there) == len(f.bad):
			return f, err
		case attempt == loadAttempts && !r.lags(ctx):
			return f, nil
		case attempt == loadAttempts || r.knownToLag():
			return forgets{f.names, there}, nil
		}
	}
}

func (r *Repository) forgottenOnce(ctx context.Context) (forgets, error) {
	if r.host != nil {
		return forgets{}, crypto.ErrPutOnly
	}
	f := forgets{map[string]bool{}, map[string]error{}}
	names, err := listNames(ctx, r.backend, forgetPrefix)
	if err != nil {
		return f, err
	}
	records, errs := make([]forgetRecord, len(names)), make([]error, len(names))
	var g errgroup.Group
	g.SetLimit(16) // there may be one of each night
	for i, name := range names {
		g.Go(func() error {
			records[i], errs[i] = r.readForget(ctx, name)
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return f, err
	}
	for i, name := range names {
		if errs[i] != nil {
			f.bad[name] = errs[i]
			continue
		}
		for _, s := range records[i].Snapshots {
			f.names[s] = true
		}
	}
	r.cache.keep(forgetPrefix, names)
	return f, nil
}

func (r *Repository) readForget(ctx context.Context, name string) (record forgetRecord, err error) {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return record, err
	}
	plain, err := r.keys.Open(crypto.TypeForget, name, object)
	if err == nil {
		plain, err = r.signed(crypto.TypeForget, name, plain)
	}
	if err == nil {
		err = unmarshalVersioned(plain, &record)
	}
	if err != nil {
		r.cache.drop(name)
		return record, fmt.Errorf("object %s: %w", name, err)
	}
	return record, nil
}
