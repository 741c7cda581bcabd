package importer

import (
	"context"
	"fmt"
	"iter"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Refs returns a function that yields every chunk that a restore of a snapshot would need, by way of
// its body: for chunkstore.CheckOptions.
func Refs(repo *chunkstore.Repository) func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return func(ctx context.Context, o chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		return func(yield func(chunkstore.Ref, error) bool) {
			if _, err := snapshot.ParseSummary(o); err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			sys, err := snapshot.ReadSystem(ctx, repo, o.Body)
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			for what, refs := range systemRefs(ctx, repo, sys) {
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
func systemRefs(ctx context.Context, repo *chunkstore.Repository, sys *snapshot.System) iter.Seq2[string, iter.Seq2[chunkstore.Ref, error]] {
	return func(yield func(string, iter.Seq2[chunkstore.Ref, error]) bool) {
		tree := func(what, name string, a *snapshot.Archive) bool {
			return a == nil || yield(what+" "+name, archive.Refs(ctx, repo, a.Records))
		}
		for _, i := range sys.Images {
			for _, l := range i.Layers {
				if !yield("layer "+l.DiffID, archive.LayerRefs(ctx, repo, l.DiffID)) {
					return
				}
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
