package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Host is a put-only host: the object h/<writer>. It can add snapshots, and neither read nor delete any.
type Host struct {
	Version int             `json:"version"`
	Name    string          `json:"name"`
	Writer  crypto.WriterID `json:"writer"`
	Created time.Time       `json:"created"`           // by the clock of who added it, for people
	Systems []string        `json:"systems,omitempty"` // that it may store; empty: those that nobody stored before it

	// Removed is from when on what it stores counts for nothing, by the store's clock. Zero: it was not removed.
	Removed time.Time `json:"-"`
}

// removal is the object h/<writer>-removed.
type removal struct {
	Version int       `json:"version"`
	Since   time.Time `json:"since,omitzero"` // zero: from when this was stored
}

const removedSuffix = "-removed"

// Errors of put-only hosts.
var (
	// ErrHostRemoved says that the credential at hand was taken back.
	ErrHostRemoved = errors.New("this put-only host was removed")
	// ErrHostRotated says that the credential at hand is of before a rotation of the keys.
	ErrHostRotated = errors.New("this put-only host's credential is too old")
	// ErrHostBusy says that another process of this machine stores a snapshot with the same credential.
	ErrHostBusy = errors.New("another backup with this credential is running")
	// ErrHostExists says that there is a put-only host of that name.
	ErrHostExists = errors.New("there is a put-only host of this name")
	// ErrNoHost says that there is none.
	ErrNoHost = errors.New("no such put-only host")
)

// IsPutOnly reports whether r was opened by a credential that only adds snapshots. What must read fails with
// crypto.ErrPutOnly then.
func (r *Repository) IsPutOnly() bool { return r.host != nil }

// OpenHost opens the repository at b for a put-only host. All that can be done with it is to add snapshots (Begin),
// and to see whose systems are (Claims). Errors: ErrNoRepository, ErrHostRemoved, ErrHostRotated,
// crypto.ErrWrongKey, crypto.ErrDamaged.
func OpenHost(ctx context.Context, b Backend, credential *crypto.Credential, opts Options) (*Repository, error) {
	r, err := openHostAt(ctx, b, credential, opts)
	first, lockErr := lockerOf(b).Lock(Lock{})
	if errors.Is(err, ErrNoRepository) && lockErr == nil { // somebody may have put or deleted something over it
		if other, otherErr := openHostAt(ctx, first, credential, opts); otherErr == nil && other.config.Lock != nil {
			r, err = other, nil
		}
	}
	if err == nil && r.config.Lock != nil {
		err = r.lockObjects(ctx, b)
	}
	if err == nil {
		err = r.stillHost(ctx)
	}
	if err != nil {
		return nil, err
	}
	if r.config.DataClass != "" {
		r.backend = inClass(r.backend, r.config.DataClass)
	}
	return r, nil
}

func openHostAt(ctx context.Context, b Backend, credential *crypto.Credential, opts Options) (*Repository, error) {
	info := credential.Info()
	cfg, clear, err := readConfig(ctx, b)
	if err != nil {
		return nil, err
	}
	if cfg.Repository != info.Repository {
		return nil, fmt.Errorf("%w: the credential is of another repository", crypto.ErrWrongKey)
	}
	if err := sameConfig(crypto.Payload{Repository: info.Repository, Config: info.Config}, cfg, clear); err != nil {
		return nil, err
	}
	r, err := openKeys(b, cfg, credential.Keys(), opts)
	if err != nil {
		return nil, err
	}
	r.host = &info
	r.cache = newCache(opts.CacheDir, cfg.Repository.String()+"-"+info.Writer.String())
	return r, nil
}

// stillHost returns an error if the credential is good for nothing any more. A put-only host must not open a key slot;
// that the first one of a later epoch is there tells it that the keys were rotated, however often.
func (r *Repository) stillHost(ctx context.Context) error {
	removed, err := r.isListed(ctx, hostName(r.host.Writer)+removedSuffix)
	if err != nil {
		return err
	}
	if removed {
		return fmt.Errorf("%s: %w", r.host.Name, ErrHostRemoved)
	}
	rotated, err := laterEpoch(ctx, r.backend, r.keys)
	if err == nil && rotated {
		err = fmt.Errorf("%s: %w: %w: %w", r.host.Name, ErrHostRotated, crypto.ErrWrongKey, crypto.ErrRotated)
	}
	return err
}

// isListed reports whether an object is there, also if it was sealed anew, by a list: to look at it takes the permission to read it.
func (r *Repository) isListed(ctx context.Context, name string) (found bool, err error) {
	err = r.backend.List(ctx, name, func(i Info) error {
		found = found || hostFirst(i.Name) == name
		return nil
	})
	return found, err
}

// own returns the prefix of names under which r looks for objects of a kind: a put-only host, for its own.
func (r *Repository) own(prefix string) string {
	if r.host == nil {
		return prefix
	}
	return prefix + r.host.Writer.String() + "/"
}

func hostName(w crypto.WriterID) string { return hostPrefix + w.String() }

// hostFirst returns the name that an object was sealed under first, of what is on record of a put-only host.
func hostFirst(name string) string {
	if i := len(name) - len(resealedName("", 0)); i > 0 && strings.HasPrefix(name[i:], resealedMark) {
		return name[:i]
	}
	return name
}

// AddHost adds a put-only host and returns its credential: whoever has that can add snapshots, as this host. It can be
// had once; who has lost it adds another host. ErrHostExists: there is one of this name.
//
// With renew there must be one, which gets another credential, of the newest key epoch: for the time after a rotation. What it
// may store stays as it is then.
func (r *Repository) AddHost(ctx context.Context, name string, systems []string, renew bool) (Host, []byte, error) {
	host, credential, err := r.addHost(ctx, name, systems, renew)
	if err != nil {
		return Host{}, nil, fmt.Errorf("add put-only host %q: %w", name, err)
	}
	return host, credential, nil
}

func (r *Repository) addHost(ctx context.Context, name string, systems []string, renew bool) (Host, []byte, error) {
	all, _, err := r.Hosts(ctx)
	if err != nil {
		return Host{}, nil, err
	}
	n := slices.IndexFunc(all, func(h Host) bool { return h.is(name) })
	switch {
	case renew && n < 0:
		return Host{}, nil, ErrNoHost
	case !renew && n >= 0:
		return Host{}, nil, ErrHostExists
	}
	creates, err := r.conditional(ctx)
	if err != nil {
		return Host{}, nil, fmt.Errorf("probe for conditional writes: %w", err)
	}
	_, clear, err := readConfig(ctx, r.backend)
	if err != nil {
		return Host{}, nil, err
	}
	h := Host{Version: 1, Name: name, Writer: crypto.NewWriterID(), Created: time.Now().UTC().Truncate(time.Second), Systems: systems}
	if renew {
		h = all[n]
	}
	credential, err := r.keys.NewCredential(crypto.HostInfo{Name: name, Writer: h.Writer, Repository: r.keys.Repository(), Config: clear, Creates: creates})
	if err != nil {
		return Host{}, nil, err
	}
	if renew {
		return h, credential, nil
	}
	text, err := json.Marshal(h)
	if err == nil {
		err = r.putSigned(ctx, crypto.TypeHost, hostName(h.Writer), text)
	}
	return h, credential, err
}

// is reports whether the host, which was not removed, has that name, or that writer id.
func (h *Host) is(name string) bool {
	return h.Removed.IsZero() && (h.Name == name || h.Writer.String() == name)
}

// RemoveHost takes a put-only host's credential back, by its name or its writer id: what it stores from then on, or has
// stored since a time by the store's clock unless that is zero, counts for nothing. What it stored before stays.
func (r *Repository) RemoveHost(ctx context.Context, name string, since time.Time) (Host, error) {
	h, err := r.removeHost(ctx, name, since)
	if err != nil {
		return Host{}, fmt.Errorf("remove put-only host %q: %w", name, err)
	}
	return h, nil
}

// RemovalOf tells what RemoveHost would do: which host it is, and which snapshots of it would count for nothing then, oldest first.
func (r *Repository) RemovalOf(ctx context.Context, name string, since time.Time) (Host, []Outcome, error) {
	h, err := r.presentHost(ctx, name)
	var all []Outcome
	if err == nil {
		all, err = r.Outcomes(ctx)
	}
	if err != nil {
		return Host{}, nil, fmt.Errorf("remove put-only host %q: %w", name, err)
	}
	return h, slices.DeleteFunc(all, func(o Outcome) bool { return o.Writer != h.Writer || since.IsZero() || !o.Modified.After(since) }), nil
}

// presentHost returns the host of that name, or writer id, that was not removed.
func (r *Repository) presentHost(ctx context.Context, name string) (Host, error) {
	all, _, err := r.Hosts(ctx)
	if err != nil {
		return Host{}, err
	}
	n := slices.IndexFunc(all, func(h Host) bool { return h.is(name) })
	if n < 0 {
		return Host{}, ErrNoHost
	}
	return all[n], nil
}

func (r *Repository) removeHost(ctx context.Context, name string, since time.Time) (Host, error) {
	h, err := r.presentHost(ctx, name)
	if err != nil {
		return Host{}, err
	}
	text, err := json.Marshal(removal{Version: 1, Since: since.UTC()})
	if err != nil {
		return Host{}, err
	}
	object := hostName(h.Writer) + removedSuffix
	if err := r.putSigned(ctx, crypto.TypeHost, object, text); err != nil {
		return Host{}, err
	}
	info, err := r.backend.Stat(ctx, object)
	h.Removed = removedAt(since, info.Modified)
	return h, err
}

// removedAt returns from when on a host is removed, whose removal was stored at that time.
func removedAt(since, stored time.Time) time.Time {
	if since.IsZero() || since.After(stored) {
		return stored
	}
	return since
}

// Hosts returns the put-only hosts, in order of their writer ids, and why objects that say so cannot be read, by name. What
// such an object says does not count.
func (r *Repository) Hosts(ctx context.Context) (hosts []Host, bad map[string]error, err error) {
	if r.host != nil {
		return nil, nil, crypto.ErrPutOnly
	}
	for attempt := 1; ; attempt++ { // what is gone when it is read was sealed anew: then it lists again
		hosts, bad, err = r.hostsOnce(ctx)
		gone := func(err error) bool { return errors.Is(err, ErrNotExist) }
		if err != nil || !slices.ContainsFunc(slices.Collect(maps.Values(bad)), gone) || attempt == loadAttempts {
			return hosts, bad, err
		}
	}
}

func (r *Repository) hostsOnce(ctx context.Context) ([]Host, map[string]error, error) {
	stored, err := r.hostObjects(ctx)
	if err != nil {
		return nil, nil, err
	}
	var hosts []Host
	var names []string
	bad := map[string]error{}
	for _, s := range stored {
		names = append(names, s.names()...)
		taken := false
		for _, info := range s.objects {
			text, err := r.hostText(ctx, info.Name)
			if isPassing(ctx, err) {
				return nil, nil, fmt.Errorf("object %s: %w", info.Name, err)
			}
			if err == nil && !taken {
				err = takeHost(&hosts, Info{Name: s.name, Modified: info.Modified}, text)
				taken = err == nil
			}
			if err != nil {
				r.cache.drop(info.Name)
				bad[info.Name] = err
			}
		}
	}
	r.cache.keep(hostPrefix, names)
	return hosts, bad, nil
}

// hostObjects lists what is on record of put-only hosts, in order of names: of each host comes first what says who it is.
func (r *Repository) hostObjects(ctx context.Context) ([]sealings, error) {
	all, err := r.listSealedAs(ctx, hostPrefix, hostFirst)
	if err != nil {
		return nil, fmt.Errorf("list put-only hosts: %w", err)
	}
	return all, nil
}

// isPassing tells whether an error says nothing of the object that was to be read.
func isPassing(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || !errors.Is(err, ErrNotExist) && !isDamage(err) && !isUnknown(err))
}

func (r *Repository) hostText(ctx context.Context, name string) ([]byte, error) {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return nil, err
	}
	plain, err := r.keys.Open(crypto.TypeHost, name, object)
	if first := hostFirst(name); err == nil && name != first {
		err = sealedInItsEpoch(first, name, object)
	}
	if err != nil {
		return nil, err
	}
	return r.signed(crypto.TypeHost, name, plain)
}

// takeHost adds what one object says. Its host comes before its removal. One of which the host is missing is of a host of no name.
func takeHost(hosts *[]Host, info Info, text []byte) error {
	name, removed := strings.CutSuffix(info.Name, removedSuffix)
	var w crypto.WriterID
	if err := w.UnmarshalText([]byte(strings.TrimPrefix(name, hostPrefix))); err != nil {
		return fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	if !removed {
		var h Host
		err := unmarshalVersioned(text, &h)
		if err == nil && h.Writer != w {
			err = fmt.Errorf("%w: put-only host of another name", crypto.ErrDamaged)
		}
		if err == nil {
			*hosts = append(*hosts, h)
		}
		return err
	}
	var record removal
	if err := unmarshalVersioned(text, &record); err != nil {
		return err
	}
	if n := len(*hosts); n == 0 || (*hosts)[n-1].Writer != w {
		*hosts = append(*hosts, Host{Writer: w})
	}
	(*hosts)[len(*hosts)-1].Removed = removedAt(record.Since, info.Modified)
	return nil
}

// removedHosts returns from when on what removed hosts stored counts for nothing. It takes note of which hosts there are.
func (r *Repository) removedHosts(ctx context.Context) (map[crypto.WriterID]time.Time, error) {
	if r.host != nil {
		return nil, nil
	}
	hosts, bad, err := r.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	for name, err := range bad {
		r.log.Warn("what is on record of a put-only host cannot be read", "object", name, "error", err)
	}
	removed, putOnly := map[crypto.WriterID]time.Time{}, map[crypto.WriterID]bool{}
	for _, h := range hosts {
		putOnly[h.Writer] = true
		if !h.Removed.IsZero() {
			removed[h.Writer] = h.Removed
		}
	}
	r.putOnly.Store(&putOnly)
	return removed, nil
}

// listDeltas lists the index objects of sessions, but for those that removed hosts have stored since.
func (r *Repository) listDeltas(ctx context.Context) ([]string, error) {
	removed, err := r.removedHosts(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	err = r.backend.List(ctx, r.own(deltaPrefix), func(i Info) error {
		w, _, _, err := parseSessionName(deltaPrefix, i.Name)
		if since, ok := removed[w]; err != nil || !ok || !i.Modified.After(since) {
			names = append(names, i.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list i: %w", err)
	}
	return names, nil
}

// ofPutOnly reports whether the index object of that name is a put-only host's, who may have put anything there: where it does
// not open it keeps nobody else from anything.
func (r *Repository) ofPutOnly(name string) bool {
	w, _, _, err := parseSessionName(deltaPrefix, name)
	known := r.putOnly.Load()
	return err == nil && known != nil && (*known)[w]
}
