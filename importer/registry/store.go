package registry

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Media types of Docker's own, which its engines push.
const (
	dockerManifestType = "application/vnd.docker.distribution.manifest.v2+json"
	dockerListType     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfigType   = "application/vnd.docker.container.image.v1+json"
)

// arrival is an image that was pushed, on its way into the repository.
type arrival struct {
	name      string
	tags      []string
	manifests []snapshot.Manifest // what was pushed, then all that it refers to
	blobs     []snapshot.Blob
	images    []manifestHead
	subject   string // what the first manifest is about
}

// store stores what was pushed as a snapshot, unless it is there by these names already, and says which digest it is about.
func (s *Server) store(ctx context.Context, name string, tags []string, m snapshot.Manifest) (subject string, err error) {
	cat, err := snapshot.ReadCatalog(ctx, s.repo)
	if err != nil {
		return "", err
	}
	if err := nameIsFree(cat, name); err != nil {
		return "", err
	}
	a := &arrival{name: name, tags: tags}
	if err := s.gather(ctx, a, m); err != nil {
		return "", err
	}
	if stored(cat, a) {
		s.arrived(a)
		return a.subject, nil
	}
	session, err := s.repo.Begin(ctx, chunkstore.BeginOptions{Host: s.host, Program: s.program})
	if err != nil {
		return "", err
	}
	snap := s.describe(cat, a)
	if err := s.fill(ctx, session, a, snap); err != nil {
		return "", errors.Join(err, session.Abort(ctx))
	}
	snap.Took = time.Since(snap.Time)
	if err := snapshot.Commit(ctx, session, snap); err != nil {
		return "", err
	}
	s.log.Info("an image was pushed", "image", name, "tags", tags, "snapshot", snap.ID)
	s.arrived(a)
	return a.subject, nil
}

// arrived gives the space of blobs back that are stored.
func (s *Server) arrived(a *arrival) {
	for _, b := range a.blobs {
		s.uploads.drop(blobKey{a.name, b.Digest})
	}
}

// nameIsFree refuses names below those of systems: whoever pulls a container must get what was backed up.
func nameIsFree(cat *snapshot.Catalog, name string) error {
	if of := snapshotsOf(cat, name); len(of) > 0 {
		return refuse(http.StatusForbidden, "DENIED", "the system %s is backed up, and images below its name are made of its snapshots; push by another name than %s", of[0].System, name)
	}
	for _, s := range cat.Snapshots {
		if s.System == pushedSystem+name && s.Pushed == nil {
			return refuse(http.StatusForbidden, "DENIED", "%s is a system that is backed up; push the image by another name", s.System)
		}
	}
	return nil
}

// stored reports whether the newest snapshots by the names of what was pushed are of the same.
func stored(cat *snapshot.Catalog, a *arrival) bool {
	list := pushedAs(cat, a.name)
	same := func(s snapshot.Summary) bool { return s.Pushed.Digest == a.manifests[0].Digest }
	for _, tag := range a.tags {
		i := slices.IndexFunc(list, func(s snapshot.Summary) bool { return slices.Contains(s.Tags, tag) })
		if i < 0 || !same(list[i]) {
			return false
		}
	}
	return slices.ContainsFunc(list, same)
}

// gather finds all that a manifest refers to. What lacks is a refusal.
func (s *Server) gather(ctx context.Context, a *arrival, m snapshot.Manifest) error {
	head, err := parseManifest(m)
	if err != nil {
		return err
	}
	if len(a.manifests) == 0 && head.Subject != nil {
		a.subject = head.Subject.Digest.String()
	}
	a.manifests = append(a.manifests, m)
	for _, d := range head.Manifests {
		if slices.ContainsFunc(a.manifests, func(m snapshot.Manifest) bool { return m.Digest == d.Digest.String() }) {
			continue
		}
		below, err := s.pushedManifest(ctx, a.name, d.Digest.String())
		if errors.Is(err, errNoImage) {
			return refuse(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "the manifest %s, which it refers to, was not pushed", d.Digest)
		}
		if err != nil {
			return err
		}
		if err := s.gather(ctx, a, below); err != nil {
			return err
		}
	}
	if head.Config == nil {
		return nil
	}
	a.images = append(a.images, head)
	for _, d := range append([]ocispec.Descriptor{*head.Config}, head.Layers...) {
		if err := s.gatherBlob(ctx, a, d); err != nil {
			return err
		}
	}
	return nil
}

// parseManifest reads a manifest or an index.
func parseManifest(m snapshot.Manifest) (manifestHead, error) {
	var head manifestHead
	if err := json.Unmarshal(m.Raw, &head); err != nil {
		return head, refuse(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest cannot be read: %v", err)
	}
	if head.MediaType != "" && head.MediaType != m.MediaType {
		return head, refuse(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest calls itself %s and is sent as %s", head.MediaType, m.MediaType)
	}
	switch m.MediaType {
	case ocispec.MediaTypeImageManifest, dockerManifestType:
		if head.Config == nil {
			return head, refuse(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest has no config")
		}
		head.Manifests = nil
	case ocispec.MediaTypeImageIndex, dockerListType:
		head.Config, head.Layers = nil, nil
	default:
		return head, refuse(http.StatusBadRequest, "MANIFEST_INVALID", "%q is none of the kinds of manifests that are stored here", m.MediaType)
	}
	for _, d := range slices.Concat(head.Layers, head.Manifests) {
		if _, ok := parseDigest(d.Digest.String()); !ok {
			return head, refuse(http.StatusBadRequest, "MANIFEST_INVALID", "%q is no digest that can be verified", d.Digest)
		}
	}
	return head, nil
}

// elsewhere tells whether a layer may be left where its URLs say.
func elsewhere(d ocispec.Descriptor) bool {
	return strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, ".foreign.")
}

func (s *Server) gatherBlob(ctx context.Context, a *arrival, d ocispec.Descriptor) error {
	ref := d.Digest.String()
	if slices.ContainsFunc(a.blobs, func(b snapshot.Blob) bool { return b.Digest == ref }) {
		return nil
	}
	b, ok := s.uploads.blob(a.name, ref)
	if !ok {
		var err error
		b, err = s.pushedBlob(ctx, a.name, ref)
		switch {
		case errors.Is(err, errNoImage) && elsewhere(d):
			return nil
		case errors.Is(err, errNoImage):
			return refuse(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "the blob %s, which it refers to, was not pushed", ref)
		case err != nil:
			return err
		}
	}
	if b.Size != d.Size {
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "the blob %s has %d bytes, the manifest says %d", ref, b.Size, d.Size)
	}
	a.blobs = append(a.blobs, b)
	return nil
}

// describe describes the snapshot.
func (s *Server) describe(cat *snapshot.Catalog, a *arrival) *snapshot.Snapshot {
	now := time.Now()
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{
			System: pushedSystem + a.name, Host: s.host, Program: s.program, Time: now, Tags: a.tags, Complete: true, Containers: []string{},
			Pushed: &snapshot.Pushed{Name: a.name, Digest: a.manifests[0].Digest},
		},
		System: snapshot.System{
			Name: pushedSystem + a.name, Source: snapshot.ByPush, Quiesce: snapshot.Quiesce{Mode: snapshot.None, At: now},
			Manifests: a.manifests, Blobs: a.blobs,
		},
	}
	if owner := cat.Owner(snap.Summary.System); owner != nil {
		snap.Term = owner.Number // or it would look as if stored by a site that had lost it
	}
	return snap
}

// fill saves everything in a session: blobs as they came, and the layers of images as they are without compression, as those
// of backups are, so that each is stored once and a restore finds them.
func (s *Server) fill(ctx context.Context, session *chunkstore.Session, a *arrival, snap *snapshot.Snapshot) error {
	for _, b := range a.blobs {
		snap.Stats.Bytes += b.Size
		if _, known, err := archive.HasLayer(ctx, session, b.Stored()); known || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		snap.Stats.Read += b.Size
		if _, err := s.saveBlob(ctx, session, a.name, b, b.Stored(), asItIs); err != nil {
			return err
		}
	}
	for _, head := range a.images {
		if err := s.fillImage(ctx, session, a, head, snap); err != nil {
			return err
		}
	}
	nameImages(snap, a)
	return nil
}

// saveBlob saves a blob, or what unpack makes of it, under the name of a layer.
func (s *Server) saveBlob(ctx context.Context, session *chunkstore.Session, name string, b snapshot.Blob, layer string, unpack func(io.Reader) (io.ReadCloser, error)) (int64, error) {
	r, err := s.openBlob(ctx, name, b)
	if err != nil {
		return 0, err
	}
	from := &source{Reader: r}
	n, err := saveUnpacked(ctx, session, from, layer, unpack)
	if from.err != nil {
		err = from.err // it says nothing of the blob
	}
	return n, errors.Join(err, r.Close())
}

func saveUnpacked(ctx context.Context, session *chunkstore.Session, r io.Reader, layer string, unpack func(io.Reader) (io.ReadCloser, error)) (int64, error) {
	plain, err := unpack(r)
	if err != nil {
		return 0, err
	}
	n, err := archive.SaveLayer(ctx, session, layer, plain)
	return n, errors.Join(err, plain.Close())
}

// openBlob opens a blob that has come, or is stored.
func (s *Server) openBlob(ctx context.Context, name string, b snapshot.Blob) (io.ReadCloser, error) {
	if s.uploads != nil {
		if r := s.uploads.reader(name, b.Digest); r != nil {
			return r, nil
		}
	}
	r, _, err := archive.OpenLayer(ctx, s.repo, chunkstore.Domain{}, b.Stored())
	return r, err
}

func asItIs(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }

// errNotImage says that a manifest is of something that no engine runs.
var errNotImage = errors.New("no image that an engine could load")

// fillImage saves the layers of an image without compression, and describes the image as those of backups are. What is no
// image, or contradicts itself, can be pulled as it was pushed, and only that: it is noted.
func (s *Server) fillImage(ctx context.Context, session *chunkstore.Session, a *arrival, head manifestHead, snap *snapshot.Snapshot) error {
	img, err := s.unpackImage(ctx, session, a, head)
	other := (*archive.DigestError)(nil)
	if errors.Is(err, errNotImage) || errors.As(err, &other) {
		snap.System.Notes = append(snap.System.Notes, snapshot.Problem{Where: "manifest with the config " + head.Config.Digest.String(), What: "can be pulled, but not restored: " + err.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(snap.System.Images, func(have snapshot.Image) bool { return have.Config == img.Config }) {
		return nil
	}
	snap.System.Images = append(snap.System.Images, img)
	snap.Engine.OS, snap.Engine.Arch = snap.System.Images[0].OS, snap.System.Images[0].Arch
	return nil
}

func (s *Server) unpackImage(ctx context.Context, session *chunkstore.Session, a *arrival, head manifestHead) (img snapshot.Image, err error) {
	if head.Config.MediaType != ocispec.MediaTypeImageConfig && head.Config.MediaType != dockerConfigType || head.Config.Size > maxManifest {
		return img, fmt.Errorf("%w: its config is of the type %s", errNotImage, head.Config.MediaType)
	}
	raw, err := s.readBlob(ctx, a, *head.Config)
	if err != nil {
		return img, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return img, fmt.Errorf("%w: config: %w", errNotImage, err)
	}
	if len(config.RootFS.DiffIDs) != len(head.Layers) || config.OS == "unknown" || len(head.Layers) == 0 {
		return img, fmt.Errorf("%w: its config names %d layers, its manifest %d, for %q", errNotImage, len(config.RootFS.DiffIDs), len(head.Layers), config.OS)
	}
	img = snapshot.Image{
		Config: digest.FromBytes(raw).String(), ID: digest.FromBytes(raw).String(), OS: config.OS, Arch: config.Architecture, RawConfig: raw, Inspect: []byte("{}"),
	}
	for i, d := range head.Layers {
		l, err := s.unpackLayer(ctx, session, a, d, config.RootFS.DiffIDs[i])
		if err != nil {
			return img, err
		}
		img.Layers = append(img.Layers, l)
		img.Size += l.Size
	}
	return img, nil
}

// readBlob reads a small blob.
func (s *Server) readBlob(ctx context.Context, a *arrival, d ocispec.Descriptor) ([]byte, error) {
	r, err := s.openBlob(ctx, a.name, a.blob(d))
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, d.Size))
	return raw, errors.Join(err, r.Close())
}

// blob returns the blob of a descriptor; the zero Blob stands for what was left elsewhere.
func (a *arrival) blob(d ocispec.Descriptor) snapshot.Blob {
	i := slices.IndexFunc(a.blobs, func(b snapshot.Blob) bool { return b.Digest == d.Digest.String() })
	if i < 0 {
		return snapshot.Blob{}
	}
	return a.blobs[i]
}

// unpackLayer saves a layer without compression.
func (s *Server) unpackLayer(ctx context.Context, session *chunkstore.Session, a *arrival, d ocispec.Descriptor, diffID digest.Digest) (l snapshot.Layer, err error) {
	b := a.blob(d)
	if b.Digest == "" || diffID.Validate() != nil || diffID.Algorithm() != digest.Canonical {
		return l, fmt.Errorf("%w: layer %s is elsewhere, or named by %q", errNotImage, d.Digest, diffID)
	}
	l.DiffID = diffID.String()
	if l.DiffID == b.Stored() {
		l.Size = b.Size
		return l, nil
	}
	size, known, err := archive.HasLayer(ctx, session, l.DiffID)
	if known || err != nil {
		l.Size = size
		return l, err
	}
	l.Size, err = s.saveBlob(ctx, session, a.name, b, l.DiffID, decompressed)
	return l, err
}

// decompressed unpacks what is gzip or zstd by its first bytes.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	begin, _ := in.Peek(4) // an error comes again
	switch {
	case strings.HasPrefix(string(begin), "\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotImage, err)
		}
		return unpacker{z, z}, nil
	case string(begin) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotImage, err)
		}
		return unpacker{z, z.IOReadCloser()}, nil
	}
	return io.NopCloser(in), nil
}

// unpacker tells errors of what is unpacked.
type unpacker struct {
	io.Reader
	io.Closer
}

func (u unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errNotImage, err)
	}
	return n, err
}

// nameImages gives images the names that they are restored by: of several, each with its platform's.
func nameImages(snap *snapshot.Snapshot, a *arrival) {
	for i := range snap.System.Images {
		img := &snap.System.Images[i]
		for _, tag := range a.tags {
			if len(snap.System.Images) > 1 {
				tag += "-" + img.OS + "-" + img.Arch
			}
			img.Tags = append(img.Tags, a.name+":"+tag)
		}
	}
}
