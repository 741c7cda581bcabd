package chunkstore

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// Subset selects packs to read in a check: all, a random share, a random amount, or the n-th of t
// equal parts (so that t runs read everything). The zero value selects none.
type Subset struct {
	Percent float64 // of the stored bytes, 0 < Percent <= 100
	Bytes   int64
	N, T    int // 1 <= N <= T <= 256
}

// Everything is the Subset of all packs.
var Everything = Subset{N: 1, T: 1}

// ParseSubset reads "5%", "2/7" or "2G".
func ParseSubset(s string) (Subset, error) {
	bad := fmt.Errorf("subset %q: want a share (5%%), a part (2/7) or an amount (2G)", s)
	if p, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(p, 64)
		if err != nil || !(f > 0 && f <= 100) {
			return Subset{}, bad
		}
		return Subset{Percent: f}, nil
	}
	if n, t, ok := strings.Cut(s, "/"); ok {
		part, err1 := strconv.Atoi(n)
		parts, err2 := strconv.Atoi(t)
		if err1 != nil || err2 != nil || part < 1 || part > parts || parts > 256 {
			return Subset{}, bad
		}
		return Subset{N: part, T: parts}, nil
	}
	// As elsewhere in the program, G means GiB.
	b, err := humanize.ParseBytes(strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I") + "iB")
	if err != nil || b == 0 || b > 1<<62 {
		return Subset{}, bad
	}
	return Subset{Bytes: int64(b)}, nil
}

// selectPacks returns the names of the selected packs, sorted, and the sum of their sizes.
func (s Subset) selectPacks(stored map[string]int64) ([]string, int64) {
	var names []string
	var all, total int64
	for name, size := range stored {
		names = append(names, name)
		all += size
	}
	limit := all
	switch {
	case s.Percent > 0:
		limit = int64(float64(all) * s.Percent / 100)
	case s.Bytes > 0:
		limit = s.Bytes
	case s.T > 0:
		names = slices.DeleteFunc(names, func(n string) bool { return !s.inPart(n) })
	default:
		return nil, 0
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	selected := names[:0]
	for _, n := range names {
		if total >= limit {
			break
		}
		total += stored[n]
		selected = append(selected, n)
	}
	slices.Sort(selected)
	return selected, total
}

// inPart assigns packs to parts by the first byte of their id; names that are none belong to
// the first part, where they will be reported.
func (s Subset) inPart(name string) bool {
	ref, err := parsePackName(name)
	if err != nil {
		return s.N == 1
	}
	return int(ref.ID[0])%s.T == s.N-1
}
