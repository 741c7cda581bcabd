package s3

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// archives are the classes of storage that cannot be read at once. (GLACIER_IR can.)
var archives = []string{"GLACIER", "DEEP_ARCHIVE"}

// isArchive reports whether objects of a class must be thawed.
func isArchive(class string) bool { return slices.Contains(archives, class) }

// checkClass refuses what is no name of a class; which ones there are only the store knows.
func checkClass(class string) bool {
	return strings.Trim(class, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

var (
	_ chunkstore.Thawer  = (*Store)(nil)
	_ chunkstore.Classer = (*Store)(nil)
)

// InClass implements chunkstore.Classer.
func (s *Store) InClass(class string) chunkstore.Backend {
	if s.config.DataClass != "" {
		return s
	}
	in := &Store{config: s.config, core: s.core, creds: s.creds, wire: s.wire, locks: s.locks}
	in.config.DataClass = class
	return in
}

// Thaw implements chunkstore.Thawer.
func (s *Store) Thaw(ctx context.Context, name string, o chunkstore.ThawOptions) (bool, error) {
	var opts minio.StatObjectOptions
	if s.locks != nil {
		first, err := s.first(ctx, name)
		if err != nil {
			return false, s.translate(ctx, "thaw", name, err)
		}
		opts.VersionID = first.VersionID
	}
	info, err := s.core.StatObject(ctx, s.config.Bucket, s.config.key(name), opts)
	switch {
	case err != nil:
		return false, s.translate(ctx, "thaw", name, err)
	case info.Restore != nil:
		return !info.Restore.OngoingRestore, nil
	case !isArchive(info.Headers.Get("X-Amz-Storage-Class")):
		return true, nil
	}
	var request minio.RestoreRequest
	request.SetDays(cmp.Or(o.Days, 7))
	request.SetGlacierJobParameters(minio.GlacierJobParameters{Tier: minio.TierType(cmp.Or(o.Tier, string(minio.TierStandard)))})
	err = s.core.RestoreObject(ctx, s.config.Bucket, s.config.key(name), opts.VersionID, request)
	if minio.ToErrorResponse(err).Code == "RestoreAlreadyInProgress" {
		err = nil
	}
	return false, s.translate(ctx, "thaw", name, err)
}
