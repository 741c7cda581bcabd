package snapshot

import "slices"

// Growth is a snapshot as a step in the growth of a repository. Sizes in bytes.
type Growth struct {
	Summary   Summary
	Added     int64 // stored for this snapshot when it was made
	Sum       int64 // of Added, this snapshot's and those of all before it
	SystemSum int64 // the same of its system alone
}

// Grow returns the growth by the snapshots of list, in any order: oldest first. What snapshots cost
// that are no longer in the list is not in the sums, although chunks of theirs may still be stored.
func Grow(list []Summary) []Growth {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b Summary) int { return newestFirst(b, a) })
	steps := make([]Growth, 0, len(sorted))
	systems := map[string]int64{}
	var sum int64
	for _, s := range sorted {
		sum += s.Stats.Stored
		systems[s.System] += s.Stats.Stored
		steps = append(steps, Growth{Summary: s, Added: s.Stats.Stored, Sum: sum, SystemSum: systems[s.System]})
	}
	return steps
}

// NewestOfEach returns the newest snapshot of each system in the list, newest first.
func NewestOfEach(list []Summary) []Summary {
	seen := map[string]bool{}
	var newest []Summary
	for _, s := range slices.SortedFunc(slices.Values(list), newestFirst) {
		if !seen[s.System] {
			seen[s.System] = true
			newest = append(newest, s)
		}
	}
	return newest
}
