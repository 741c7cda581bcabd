package chunkstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Claim is a number of a series, which exactly one host got: the object o/<series>/<number>. Numbers count from
// 1; what they mean is the matter of package snapshot, where the series is a system and the number a term.
type Claim struct {
	Version int             `json:"version"`
	Series  string          `json:"series"`
	Number  int             `json:"number"`
	Body    json.RawMessage `json:"body"`

	// Of the object, not in it:
	Name     string    `json:"-"`
	Modified time.Time `json:"-"` // by the store's clock
	Err      error     `json:"-"` // the object could not be read, or is missing; only Name, Number and Modified are set
}

// ErrClaimed says that another host got the number first.
var ErrClaimed = errors.New("claimed by another host")

// maxClaim is the highest number of a series.
const maxClaim = 99_999_999

// contestTime is how late the lists of stores may be that create unconditionally, when a number is claimed.
const contestTime = 10 * time.Second

// Claim gives this host the number of the series, with body as JSON. Of all that claim it at once exactly one gets
// nil, the others ErrClaimed. After another error it may be ours, if the store's answer was lost: Claims tells.
func (r *Repository) Claim(ctx context.Context, series string, number int, body any) error {
	if err := r.claim(ctx, series, number, body); err != nil {
		return fmt.Errorf("claim number %d of %q: %w", number, series, err)
	}
	return nil
}

func (r *Repository) claim(ctx context.Context, series string, number int, body any) error {
	if r.host != nil {
		return crypto.ErrPutOnly
	}
	if number < 1 || number > maxClaim {
		return errors.New("no such number")
	}
	inner, err := json.Marshal(body)
	if err != nil {
		return err
	}
	text, err := json.Marshal(Claim{Version: 1, Series: series, Number: number, Body: inner})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s%08d", r.claimDir(series), number)
	object, err := r.sealSigned(crypto.TypeClaim, name, text)
	if err != nil {
		return err
	}
	conditional, err := r.conditional(ctx)
	if err != nil {
		return fmt.Errorf("probe for conditional writes: %w", err)
	}
	if !conditional {
		return r.contest(ctx, name, object, name+"-", object)
	}
	err = r.backend.(Creator).PutIfAbsent(ctx, name, object)
	if errors.Is(err, ErrExist) {
		return r.isOurs(ctx, name, object) // a request whose answer was lost is repeated
	}
	return err
}

// claimDir returns o/<series>/: a name that tells nothing to those without the key.
func (r *Repository) claimDir(series string) string {
	id := r.keys.SharedID("claim:" + series)
	return claimPrefix + hex.EncodeToString(id[:16]) + "/"
}

// isOurs returns nil if the object of that name is this one.
func (r *Repository) isOurs(ctx context.Context, name string, object []byte) error {
	stored, err := r.backend.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, object) {
		return ErrClaimed
	}
	return nil
}

// contest claims a name on a store that creates unconditionally. Each host puts a candidate, whose name is prefix and something
// random, waits until everybody's lists show it, and the earliest by the store's clock, in seconds, or else by name, wins: it alone
// puts the object, soon after. A candidate of a host that stopped half-way counts for a minute.
func (r *Repository) contest(ctx context.Context, name string, object []byte, prefix string, candidate []byte) error {
	if err := r.unclaimed(ctx, name); err != nil {
		return err
	}
	var random [8]byte
	rand.Read(random[:])
	own, began := prefix+hex.EncodeToString(random[:]), time.Now().Round(0)
	if err := r.backend.Put(ctx, own, candidate); err != nil {
		return err
	}
	if err := r.letListsCatchUp(ctx); err != nil {
		return err
	}
	if err := r.won(ctx, name, prefix, own); err != nil {
		return err
	}
	left := r.contestTime + contestStale/2 - time.Now().Round(0).Sub(began) // by the wall clock: the other one stands still with the machine
	ctx, cancel := context.WithTimeoutCause(ctx, left, errSlow)
	defer cancel()
	if err := r.backend.Put(ctx, name, object); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return r.isOurs(ctx, name, object)
}

// letListsCatchUp waits until everybody's lists show what was put before.
func (r *Repository) letListsCatchUp(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(r.contestTime):
		return nil
	}
}

var errSlow = errors.New("the store took too long to answer: run the command again")

// contestStale is the age at which a candidate does not count any more.
const contestStale = time.Minute

// unclaimed returns ErrClaimed if the name is taken.
func (r *Repository) unclaimed(ctx context.Context, name string) error {
	_, err := r.backend.Stat(ctx, name)
	switch {
	case errors.Is(err, ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return ErrClaimed
}

// won returns nil if own is the first of the candidates for name.
func (r *Repository) won(ctx context.Context, name, prefix, own string) error {
	if err := r.unclaimed(ctx, name); err != nil {
		return err
	}
	var all []Info
	if err := r.backend.List(ctx, prefix, func(i Info) error {
		i.Modified = i.Modified.Truncate(time.Second) // as some stores tell it
		all = append(all, i)
		return nil
	}); err != nil {
		return err
	}
	mine := slices.IndexFunc(all, func(i Info) bool { return i.Name == own })
	if mine < 0 {
		return fmt.Errorf("object %s: %w: lists of this store are later than %s", own, ErrNotExist, r.contestTime)
	}
	stale := all[mine].Modified.Add(-contestStale)
	all = slices.DeleteFunc(all, func(i Info) bool { return i.Modified.Before(stale) })
	first := slices.MinFunc(all, func(a, b Info) int { return cmp.Or(a.Modified.Compare(b.Modified), cmp.Compare(a.Name, b.Name)) })
	if first.Name != own {
		return ErrClaimed
	}
	return nil
}

// Claims returns the claims of a series, or of all of them if that is empty, by name and number. One that cannot be
// read is returned too, with Err set, and so is a number that is missing below another.
func (r *Repository) Claims(ctx context.Context, series string) ([]Claim, error) {
	prefix := claimPrefix
	if series != "" {
		prefix = r.claimDir(series)
	}
	var infos []Info
	if err := r.backend.List(ctx, prefix, func(i Info) error {
		if _, _, candidate, err := parseClaimName(i.Name); err == nil && !candidate {
			infos = append(infos, i)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	claims, names := make([]Claim, len(infos)), make([]string, len(infos))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, info := range infos {
		names[i] = info.Name
		g.Go(func() error {
			claims[i] = r.readClaim(gctx, info)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r.cache.keep(prefix, names)
	return withGaps(claims), nil
}

// withGaps adds what is missing between the numbers of each series.
func withGaps(claims []Claim) []Claim {
	var all []Claim
	dir, next := "", 1
	for _, c := range claims {
		d := c.Name[:strings.LastIndexByte(c.Name, '/')+1]
		if d != dir {
			dir, next = d, 1
		}
		for ; next < c.Number && next < maxClaims; next++ {
			name := fmt.Sprintf("%s%08d", dir, next)
			all = append(all, Claim{Name: name, Number: next, Modified: c.Modified, Err: fmt.Errorf("claim %s: missing: there is a later one", name)})
		}
		all, next = append(all, c), c.Number+1
	}
	return all
}

// maxClaims bounds for how many missing numbers each is told by itself.
const maxClaims = 1000

// readClaim reads one claim and verifies it; failures go into Err.
func (r *Repository) readClaim(ctx context.Context, info Info) Claim {
	_, number, _, err := parseClaimName(info.Name)
	var c Claim
	if err == nil {
		c, err = r.openClaim(ctx, info.Name)
	}
	if err == nil && (c.Number != number || info.Name != fmt.Sprintf("%s%08d", r.claimDir(c.Series), number)) {
		err = fmt.Errorf("%w: claim of another name", crypto.ErrDamaged)
	}
	if err != nil {
		c = Claim{Number: number, Err: fmt.Errorf("claim %s: %w", info.Name, err)}
	}
	c.Name, c.Modified = info.Name, info.Modified
	return c
}

func (r *Repository) openClaim(ctx context.Context, name string) (c Claim, err error) {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return c, err
	}
	plain, err := r.keys.Open(crypto.TypeClaim, name, object)
	if err == nil {
		plain, err = r.signed(crypto.TypeClaim, name, plain)
	}
	if err == nil {
		err = unmarshalVersioned(plain, &c)
	}
	if err != nil {
		r.cache.drop(name)
	}
	return c, err
}

// parseClaimName takes the name of a claim apart, or of a candidate for one.
func parseClaimName(name string) (series string, number int, candidate bool, err error) {
	bad := fmt.Errorf("%q is not the name of a claim", name)
	series, tail, ok := strings.Cut(strings.TrimPrefix(name, claimPrefix), "/")
	if !ok || !strings.HasPrefix(name, claimPrefix) || parseHex(make([]byte, 16), series, "series") != nil {
		return "", 0, false, bad
	}
	digits, random, candidate := strings.Cut(tail, "-")
	if candidate && parseHex(make([]byte, 8), random, "candidate") != nil {
		return "", 0, false, bad
	}
	number, err = strconv.Atoi(digits)
	if err != nil || len(digits) != 8 || number < 1 {
		return "", 0, false, bad
	}
	return series, number, candidate, nil
}
