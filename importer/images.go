package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

// pullFrom is how many bytes of layers make a pull worth its while. Below, a load is done before a
// pull has asked its first questions.
const pullFrom = 32 << 20

// incoming is an image on its way into the engine, and the names it is to have there.
type incoming struct {
	oci  *ociImage
	base string // of changes: config of the image below them
	omit int    // first layers that the engine has
	kind Kind
	name string
	refs []string
}

// sendImages brings the images of the plan into the engine, holds what arrived against what was
// sent, and only then gives it its names. While the images go, layers are made of the containers'
// changes; these follow on top of what has arrived.
func (r *restorer) sendImages(ctx context.Context) error {
	lacking, err := r.lackingImages(ctx)
	if err != nil {
		return err
	}
	r.layers.there = r.layersThere()
	if len(lacking) > 0 {
		if r.layers.near, err = r.nearLayers(ctx); err != nil {
			return err
		}
	}
	var changes []incoming
	var built errgroup.Group
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	built.Go(func() (err error) {
		if changes, err = r.buildChanges(ctx); err != nil {
			cancel(err)
		}
		return err
	})
	if err = r.send(ctx, lacking); err != nil {
		cancel(err)
	}
	if errors.Join(err, built.Wait()) != nil {
		return context.Cause(ctx) // the failure that came first
	}
	for i := range changes {
		if in := &changes[i]; r.images[in.base] != "" {
			in.omit = len(in.oci.image.Layers) - 1
		}
	}
	return r.send(ctx, changes)
}

// send sends images and reports them.
func (r *restorer) send(ctx context.Context, all []incoming) error {
	if len(all) == 0 {
		return nil
	}
	start, counted := time.Now(), make(map[string]bool)
	way, err := r.transfer(ctx, all)
	if err != nil {
		return err
	}
	for _, in := range all {
		r.res.object(Object{
			Kind: in.kind, Name: in.name, ID: r.images[in.oci.image.Config], Action: Create, Way: way,
			Bytes: unsent(in.oci.image.Layers, in.omit, counted), Took: time.Since(start),
		})
	}
	return nil
}

// lackingImages lists the images of the plan that are to be sent. Those that the engine has are
// named.
func (r *restorer) lackingImages(ctx context.Context) ([]incoming, error) {
	var lacking []incoming
	for _, j := range r.plan.images {
		in := incoming{oci: j.oci, omit: j.known, kind: KindImage, name: imageName(j.oci.image), refs: j.tags}
		had, err := r.had(ctx, in, j.have)
		if err != nil {
			return nil, err
		}
		if !had {
			if len(in.refs) == 0 { // it was listed, by the names it has, but not whole
				in.refs = []string{keptRef(r.snap.Summary, j.oci.image)}
			}
			lacking = append(lacking, in)
		}
	}
	return lacking, nil
}

// had reports whether the engine has an image whole, and names it if so. What an engine lists it
// need not have whole.
func (r *restorer) had(ctx context.Context, in incoming, have string) (bool, error) {
	if have == "" {
		return false, nil
	}
	id, err := r.engine.CheckImage(ctx, have, in.oci.image)
	if err != nil {
		r.res.note("image "+in.name, "is there but not whole, so it is sent: "+err.Error())
		return false, ctx.Err()
	}
	r.res.object(Object{Kind: in.kind, Name: in.name, ID: id, Action: Reuse})
	return true, r.nameImage(ctx, in, id)
}

// buildChanges makes layers of the containers' changes and lists the images that are to be sent.
func (r *restorer) buildChanges(ctx context.Context) ([]incoming, error) {
	lacking := make([][]incoming, len(r.plan.changes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, j := range r.plan.changes {
		g.Go(func() (err error) {
			r.event("images", "changes of "+j.container.Name)
			lacking[i], err = r.buildChange(ctx, j)
			return err
		})
	}
	err := g.Wait()
	return slices.Concat(lacking...), err
}

func (r *restorer) buildChange(ctx context.Context, j changesJob) ([]incoming, error) {
	if staged, err := r.stagedChange(ctx, j); staged || err != nil {
		return nil, err
	}
	near, err := r.nearChanges(ctx, j.container)
	if err != nil {
		return nil, err
	}
	defer near.close()
	l, file, lost, err := changesLayer(ctx, r.repo, j.container, near, r.opts.TempDir)
	if err != nil {
		return nil, err
	}
	r.fetched.Add(j.container.Changes.Bytes)
	r.mu.Lock()
	r.lost[j.ref] = lost
	r.changed = append(r.changed, stagedChanges{
		Container: j.container.Name, Tree: j.container.Changes.Records, Base: j.base.image.Config, Bytes: j.container.Changes.Bytes,
		Layer: l, Snapshot: r.snap.Summary.ID, Time: r.snap.Summary.Time, Ref: j.ref, Lost: lost,
	})
	r.mu.Unlock()
	if err := r.layers.keep(l.DiffID, file); err != nil {
		return nil, err
	}
	oci, err := withLayer(j.base, l, r.snap.Summary)
	if err != nil {
		return nil, err
	}
	if r.naming != nil {
		if err := r.naming(j.ref, oci); err != nil {
			return nil, err
		}
	}
	in := incoming{oci: oci, base: j.base.image.Config, omit: j.known, kind: KindChanges, name: j.ref, refs: []string{j.ref}}
	have := ""
	if i := slices.IndexFunc(r.target.Images, oci.is); i >= 0 {
		have = r.target.Images[i].ID
	}
	had, err := r.had(ctx, in, have)
	if had || err != nil {
		return nil, err
	}
	return []incoming{in}, nil
}

// transfer sends images by the faster way that works, and returns which that was.
func (r *restorer) transfer(ctx context.Context, all []incoming) (string, error) {
	if r.pullPays(all) {
		answered, err := r.pull(ctx, all)
		if err == nil || ctx.Err() != nil {
			return WayPull, err
		}
		if answered { // else the engine cannot reach this process, and there is nothing to tell
			r.res.note("images", "pull failed, so they were loaded: "+err.Error())
		}
	}
	err := r.load(ctx, all)
	omits := func(in incoming) bool { return in.omit > 0 }
	if err != nil && ctx.Err() == nil && slices.ContainsFunc(all, omits) {
		// An engine can have a layer unpacked but not its bytes, or lose it meanwhile.
		r.res.note("images", "sent again with all layers: "+err.Error())
		for i := range all {
			all[i].omit = 0
		}
		err = r.load(ctx, all)
	}
	if err != nil && ctx.Err() == nil && r.layers.there.failed() {
		r.res.note("images", "sent again, with layers from the repository: "+err.Error())
		err = r.load(ctx, all)
	}
	return WayLoad, err
}

// pullPays reports whether to have the engine pull: layers come in parallel and are unpacked while
// others come. It must reach this process' loopback interface, and only a load can leave out
// layers of which the engine does not know the digest.
func (r *restorer) pullPays(all []incoming) bool {
	var size int64
	counted := make(map[string]bool)
	for _, in := range all {
		if in.omit > 0 {
			return false
		}
		size += unsent(in.oci.image.Layers, 0, counted)
	}
	return r.target.Facts.Local && size >= pullFrom
}

// pull serves images on the loopback interface and has the engine pull them. It also reports
// whether the engine came to ask.
func (r *restorer) pull(ctx context.Context, all []incoming) (answered bool, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return false, fmt.Errorf("serve images: %w", err)
	}
	images, open := make(map[string]*registry.Image), r.metered(all)
	for _, in := range all {
		images[shortDigest(in.oci.image.Config)] = in.oci.served(open)
	}
	reg := registry.NewLoopback(l, r.run, images)
	defer func() { err = errors.Join(err, reg.Close()) }()
	refs := make([]string, len(all))
	for i, in := range all {
		refs[i] = reg.Ref(shortDigest(in.oci.image.Config))
	}
	forget, err := r.forMoment(ctx, refs)
	if err != nil {
		return false, err
	}
	defer forget()
	for _, ref := range refs {
		if err := r.engine.Pull(ctx, ref); err != nil {
			return reg.Asked(), err
		}
	}
	return true, r.accept(ctx, all, refs)
}

// load sends images as one archive.
func (r *restorer) load(ctx context.Context, all []incoming) error {
	images, refs := make([]sending, len(all)), make([]string, len(all))
	for i, in := range all {
		refs[i] = "hakobune/incoming-" + r.run + ":" + shortDigest(in.oci.image.Config)
		images[i] = sending{oci: in.oci, refs: refs[i : i+1], omit: in.omit}
	}
	forget, err := r.forMoment(ctx, refs)
	if err != nil {
		return err
	}
	defer forget()
	if err := loadArchive(ctx, r.engine, images, r.metered(all)); err != nil {
		return err
	}
	return r.accept(ctx, all, refs)
}

// loadArchive streams an archive of images into an engine.
func loadArchive(ctx context.Context, e ImageStore, images []sending, open openLayer) error {
	return pipe(
		func(w io.Writer) error { return writeArchive(ctx, w, images, open) },
		func(r io.Reader) error { return e.Load(ctx, r) },
	)
}

// accept holds the images that arrived under refs against what was sent and names them.
func (r *restorer) accept(ctx context.Context, all []incoming, refs []string) error {
	ids := make([]string, len(all))
	for i, in := range all {
		var err error
		if ids[i], err = r.engine.CheckImage(ctx, refs[i], in.oci.image); err != nil {
			return err
		}
	}
	for i, in := range all {
		if err := r.nameImage(ctx, in, ids[i]); err != nil {
			return err
		}
	}
	return nil
}

// nameImage gives an image its references and notes its id down.
func (r *restorer) nameImage(ctx context.Context, in incoming, id string) error {
	ctx, cancel := steady(ctx)
	defer cancel()
	bare := false // without a reference: undoing its first would remove the image
	for _, have := range r.target.Images {
		bare = bare || have.ID == id && len(have.Tags) == 0
	}
	for _, ref := range in.refs {
		if holder := r.holder(ref); holder == id {
			continue
		} else if holder != "" {
			if err := r.setReferenceAside(ctx, ref, holder); err != nil {
				return err
			}
		}
		if err := r.engine.Tag(ctx, id, ref); err != nil {
			return err
		}
		if !bare {
			r.undo.add("image "+ref, func(ctx context.Context) error { return r.engine.Untag(ctx, ref) })
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[in.oci.image.Config] = id
	for _, ref := range in.refs {
		r.named[fullReference(ref)] = id
	}
	return nil
}

// holder returns the id of the image that a reference named before the restore, empty if it named
// none.
func (r *restorer) holder(ref string) string {
	for _, img := range r.target.Images {
		if slices.ContainsFunc(img.Tags, sameReference(ref)) {
			return img.ID
		}
	}
	return ""
}

// forMoment says that images have references only while they arrive, and returns what removes
// these.
func (r *restorer) forMoment(ctx context.Context, refs []string) (func(), error) {
	forget := make([]func(), len(refs))
	for i, ref := range refs {
		if err := r.journal.intend(made{Kind: kindRef, Name: ref}); err != nil {
			return nil, err
		}
		forget[i] = r.undo.add("image "+ref, func(ctx context.Context) error { return r.engine.Untag(ctx, ref) })
	}
	return func() {
		ctx, cancel := steady(ctx)
		defer cancel()
		for i, ref := range refs {
			if err := r.engine.Untag(ctx, ref); err != nil {
				r.res.note("image "+ref, "is left: "+err.Error())
				continue
			}
			forget[i]()
		}
	}, nil
}

// metered opens layers and tells the observer how much of all was read.
func (r *restorer) metered(all []incoming) openLayer {
	m := &meter{observer: r.opts.Observer, event: snapshot.Event{Phase: "images"}}
	counted := make(map[string]bool)
	for _, in := range all {
		m.event.Total += unsent(in.oci.image.Layers, in.omit, counted)
	}
	return m.layers(r.layers.open)
}
