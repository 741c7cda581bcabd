package importer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/stream"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// PushOptions say how to speak to a registry. The zero value speaks TLS, except to this host, with
// the credentials that docker login has left, and sends layers as they are.
type PushOptions struct {
	Insecure  bool              // plain HTTP is fine
	Compress  bool              // gzip layers: less to send, but a registry that has them cannot say so
	Transport http.RoundTripper // nil: the default
	Keychain  authn.Keychain    // nil: the user's Docker configuration
}

// ToRegistry pushes an image under a reference. What the registry has of uncompressed layers is not
// sent again.
func ToRegistry(ref string, o PushOptions) Sink { return registrySink{ref, o} }

type registrySink struct {
	ref string
	o   PushOptions
}

// pushJobs is how many layers are sent at once.
const pushJobs = 3

func (s registrySink) put(ctx context.Context, img exportedImage) (string, error) {
	ref, err := s.parse()
	if err != nil {
		return "", err
	}
	image, err := img.v1(ctx)
	if err != nil {
		return "", err
	}
	opts := s.options(ctx)
	if s.o.Compress {
		if image, err = s.pushCompressed(ctx, ref, img, opts); err != nil {
			return "", fmt.Errorf("push %s: %w", ref, err)
		}
	} else if err := remote.Write(ref, image, opts...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	want, err := image.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	got, err := remote.Head(ref, opts...)
	if err != nil {
		return "", fmt.Errorf("push %s: look at what was pushed: %w", ref, err)
	}
	if got.Digest != want {
		return "", fmt.Errorf("push %s: the registry has the digest %s, sent was %s", ref, got.Digest, want)
	}
	return ref.Context().Digest(want.String()).String(), nil
}

func (s registrySink) parse() (name.Reference, error) {
	var opts []name.Option
	if s.o.Insecure {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(s.ref, opts...)
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	return ref, nil
}

func (s registrySink) options(ctx context.Context) []remote.Option {
	opts := []remote.Option{remote.WithContext(ctx), remote.WithJobs(pushJobs), remote.WithUserAgent("hakobune")}
	keys := s.o.Keychain
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	opts = append(opts, remote.WithAuthFromKeychain(keys))
	if s.o.Transport != nil {
		opts = append(opts, remote.WithTransport(s.o.Transport))
	}
	return opts
}

// pushCompressed sends gzipped layers. Their digests are known only once they have been sent, so
// the manifest comes after them; it has the same config, and so the same id on graph drivers.
func (s registrySink) pushCompressed(ctx context.Context, ref name.Reference, img exportedImage, opts []remote.Option) (v1.Image, error) {
	manifest, err := img.manifestV1()
	if err != nil {
		return nil, err
	}
	open := img.metered()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pushJobs)
	layerOpts := append(slices.Clip(opts), remote.WithContext(gctx))
	for i, l := range img.oci.image.Layers {
		g.Go(func() error {
			r, _, err := open(gctx, l.DiffID)
			if err != nil {
				return err
			}
			layer := stream.NewLayer(r, stream.WithMediaType(types.OCILayer))
			if err := remote.WriteLayer(ref.Context(), layer, layerOpts...); err != nil {
				return err
			}
			d := &manifest.Layers[i]
			d.MediaType = types.OCILayer
			if d.Digest, err = layer.Digest(); err != nil {
				return err
			}
			d.Size, err = layer.Size()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := remote.WriteLayer(ref.Context(), static.NewLayer(img.oci.config, types.OCIConfigJSON), opts...); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	image, err := newImageV1(imageCore{config: img.oci.config, manifest: raw})
	if err != nil {
		return nil, err
	}
	return image, remote.Put(ref, image, opts...)
}
