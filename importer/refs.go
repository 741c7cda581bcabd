package importer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"iter"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Refs returns a function that yields every chunk that a restore of a snapshot would need, by way of
// its body: for chunkstore.CheckOptions.
func Refs(repo *chunkstore.Repository) func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return refsOf(repo, func(string) bool { return true })
}

// RefsOnce is for chunkstore.CollectOptions: trees and layers that one of its functions has yielded for
// one snapshot it does not read again for another.
func RefsOnce(repo *chunkstore.Repository) func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		seen := map[[sha256.Size]byte]bool{}
		return refsOf(repo, func(key string) bool {
			sum := sha256.Sum256([]byte(key))
			known := seen[sum]
			seen[sum] = true
			return !known
		})
	}
}

// refsOf yields the chunks of the trees and layers that are wanted, by a key for their content.
func refsOf(repo *chunkstore.Repository, wanted func(key string) bool) func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return func(ctx context.Context, o chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		return func(yield func(chunkstore.Ref, error) bool) {
			if _, err := snapshot.ParseSummary(o); err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			sys, err := snapshot.ReadSystem(ctx, repo, o)
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			for what, refs := range systemRefs(ctx, repo, sys, wanted) {
				for ref, err := range refs {
					if err != nil {
						err = fmt.Errorf("%s: %w", what, err)
					}
					if !yield(ref, err) || err != nil {
						return
					}
				}
			}
		}
	}
}

// systemRefs yields, for everything of a system that holds data, what it is and its chunks.
func systemRefs(ctx context.Context, repo *chunkstore.Repository, sys *snapshot.System, wanted func(key string) bool) iter.Seq2[string, iter.Seq2[chunkstore.Ref, error]] {
	return func(yield func(string, iter.Seq2[chunkstore.Ref, error]) bool) {
		tree := func(what, name string, a *snapshot.Archive) bool {
			return a == nil || !wanted(fmt.Sprint("tree ", a.Records)) || yield(what+" "+name, archive.Refs(ctx, repo, a.Records))
		}
		layer := func(what, name string) bool {
			return !wanted(fmt.Sprint("layer ", name, sys.Domain)) || yield(what+" "+name, archive.LayerRefs(ctx, repo, sys.Domain, name))
		}
		for _, i := range sys.Images {
			for _, l := range i.Layers {
				if !layer("layer", l.DiffID) {
					return
				}
			}
		}
		for _, b := range sys.Blobs {
			if !layer("blob", b.Stored()) {
				return
			}
		}
		for _, c := range sys.Containers {
			if !tree("container", c.Name, c.Changes) {
				return
			}
		}
		for _, v := range sys.Volumes {
			if !tree("volume", v.Name, v.Content) {
				return
			}
		}
		for _, b := range sys.Binds {
			if !tree("bind", b.Source, b.Content) {
				return
			}
		}
	}
}
