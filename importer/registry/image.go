package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Image is an image to serve: config and manifest byte for byte, and layers without compression, so that the digest of
// each is its DiffID.
type Image struct {
	Config, Manifest             []byte
	ConfigDigest, ManifestDigest digest.Digest
	Layers                       []snapshot.Layer
	// Open opens a layer by its DiffID and says how long it is. It may be called by several at once.
	Open func(ctx context.Context, diffID string) (io.ReadCloser, int64, error)
}

// Builder makes the image of a container of a snapshot, by the container's name. When the image is served no more, free
// gives back what it holds.
type Builder func(ctx context.Context, snap *snapshot.Snapshot, container string) (img *Image, free func() error, err error)

var (
	notInComponent = regexp.MustCompile(`[^a-z0-9._-]`)
	separators     = regexp.MustCompile(`[._-]{2,}`)
)

// Component makes s a component of an image name. A name that had to change ends in a hash of what
// it was, so that Web and web stay apart.
func Component(s string) string {
	const most = 120
	out := notInComponent.ReplaceAllString(strings.ToLower(s), "-")
	out = separators.ReplaceAllString(out, "-")
	out = strings.Trim(out[:min(most, len(out))], "._-")
	if out == s {
		return out
	}
	sum := sha256.Sum256([]byte(s))
	return strings.TrimLeft(out+"-"+hex.EncodeToString(sum[:3]), "-")
}

// Ref names the image of a container of a system in a snapshot, as a Server serves it: SYSTEM/CONTAINER:SNAPSHOT.
func Ref(system, container, id string) string {
	return Component(system) + "/" + Component(container) + ":" + shortID(id)
}

func shortID(id string) string { return id[:min(8, len(id))] }

// randomHex is a name that nobody guesses.
func randomHex() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
