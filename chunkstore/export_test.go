package chunkstore

import (
	"context"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Condemn marks all packs under prefix as a collection does.
func Condemn(ctx context.Context, r *Repository, mark, prefix string) error {
	names, err := listNames(ctx, r.backend, prefix)
	if err != nil {
		return err
	}
	var list []byte
	for _, n := range names {
		ref, err := parsePackName(n)
		if err != nil {
			return err
		}
		list = ref.append(list)
	}
	object, err := r.keys.Seal(crypto.TypeMark, mark, list)
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, mark, object)
}
