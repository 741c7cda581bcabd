package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// tagKind is the kind of the records that give snapshots other tags than they were made with: a snapshot itself
// never changes.
const tagKind = "tag"

// tagRecord is the body of such a record. Of those of a snapshot that no other one replaces the last counts, by the
// store's clock; there are several only where hosts tagged at once.
type tagRecord struct {
	Snapshot string   `json:"snapshot"` // name of its outcome
	Tags     []string `json:"tags"`     // all that it has from now on
	Replaces []string `json:"replaces"` // names of the records that counted before
	Host     string   `json:"host"`
}

// TagChange says how to change the tags of a snapshot: first Set, then Remove, then Add.
type TagChange struct {
	Set         *[]string // in the place of all that there are; nil: these stay
	Add, Remove []string
}

// Apply returns what becomes of tags: each once, in order of their first appearance.
func (t TagChange) Apply(tags []string) []string {
	if t.Set != nil {
		tags = *t.Set
	}
	var out []string
	for _, tag := range slices.Concat(slices.DeleteFunc(slices.Clone(tags), func(s string) bool { return slices.Contains(t.Remove, s) }), t.Add) {
		if !slices.Contains(out, tag) {
			out = append(out, tag)
		}
	}
	return out
}

// ValidTag refuses what could not be told apart in a list: an empty tag, commas, blanks, control characters.
func ValidTag(tag string) error {
	if tag == "" || len(tag) > 256 || strings.ContainsFunc(tag, func(r rune) bool { return r == ',' || unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return fmt.Errorf("%q is no tag: it has 1 to 256 bytes, no commas and no blanks", tag)
	}
	return nil
}

// Tag changes the tags of a snapshot of the catalog, for everybody, and returns it as it is then. host is the name of
// this one. Where nothing changes nothing is stored. ErrMissing is wrapped where the catalog has none of that id.
func (c *Catalog) Tag(ctx context.Context, host string, s Summary, change TagChange) (Summary, error) {
	o, ok := c.outcomes[s.ID]
	if !ok {
		return s, fmt.Errorf("tag snapshot %s: %w", s.ID, ErrMissing)
	}
	for _, tag := range slices.Concat(change.Add, change.Remove) {
		if err := ValidTag(tag); err != nil {
			return s, fmt.Errorf("tag snapshot %s: %w", s.ID, err)
		}
	}
	tags := change.Apply(s.Tags)
	if slices.Equal(tags, s.Tags) {
		return s, nil
	}
	record := tagRecord{Snapshot: o.Name, Tags: tags, Replaces: c.tagged[o.Name], Host: host}
	if err := c.repo.AddRecord(ctx, tagKind, record); err != nil {
		return s, fmt.Errorf("tag snapshot %s: %w", s.ID, err)
	}
	s.Tags = tags
	return s, nil
}

// readTags gives the snapshots the tags that records say. A record that cannot be read may be such a one.
func (c *Catalog) readTags(ctx context.Context) error {
	records, err := c.repo.Records(ctx)
	if err != nil {
		return err
	}
	last, replaced := map[string]tagRecord{}, map[string]bool{}
	c.tagged = map[string][]string{}
	for _, record := range records {
		r, err := parseTags(record)
		switch {
		case errors.Is(err, chunkstore.ErrNotExist): // nobody deletes records, but where a list lags
			continue
		case err != nil:
			c.Untold = append(c.Untold, err)
			continue
		case record.Kind != tagKind:
			continue
		}
		for _, name := range r.Replaces {
			replaced[name] = true
		}
		c.tagged[r.Snapshot] = append(c.tagged[r.Snapshot], record.Name)
	}
	for _, record := range records { // oldest first
		if r, err := parseTags(record); err == nil && record.Kind == tagKind && !replaced[record.Name] {
			last[r.Snapshot] = r
		}
	}
	for i := range c.Snapshots {
		if r, ok := last[c.outcomes[c.Snapshots[i].ID].Name]; ok {
			c.Snapshots[i].Tags = r.Tags
		}
	}
	return nil
}

// parseTags reads a record, of which nothing is looked at if it is of another kind.
func parseTags(record chunkstore.Record) (r tagRecord, err error) {
	if record.Err != nil || record.Kind != tagKind {
		return r, record.Err
	}
	if err := frugal.Unmarshal(record.Body, &r); err != nil {
		return r, fmt.Errorf("record %s: %w: %w", record.Name, crypto.ErrDamaged, err)
	}
	return r, nil
}
