package importer

import (
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// planImages decides which images are sent, with which layers, and what they are called.
func (p *planner) planImages() {
	for _, img := range p.sys.Images {
		p.planImage(p.oci[img.Config])
	}
	for _, c := range p.wanted() {
		p.planChanges(c)
	}
	for _, j := range p.containers {
		if j.action != Skip && p.image(j.container) == nil {
			p.clash(KindContainer, j.place.Name, "", "its image %s is not in the snapshot", j.container.Image)
		}
	}
}

func (p *planner) planImage(o *ociImage) {
	uses := func(c *snapshot.Container) bool { return c.ImageKey == o.image.Config && !p.skipped(c) }
	used := p.user(uses) != nil
	if !used && (!p.sel.everything() || p.user(func(c *snapshot.Container) bool { return c.ImageKey == o.image.Config }) != nil) {
		return
	}
	j := imageJob{oci: o, action: Create, known: knownLayers(o.image, p.chains), moved: make(map[string]string)}
	if i := slices.IndexFunc(p.target.Images, o.is); i >= 0 {
		j.action, j.have = Reuse, p.target.Images[i].ID
	}
	switch {
	case p.sel.part(PartImages):
		p.planTags(&j)
	case !p.runsAsItIs(o):
		return
	case j.have == "":
		p.clash(KindImage, imageName(o.image), "restore images too", "is not there")
		j.action = Refuse
	}
	p.images = append(p.images, j)
}

// skipped reports whether the plan leaves a container alone because one of its name is there.
func (p *planner) skipped(c *snapshot.Container) bool {
	return slices.ContainsFunc(p.containers, func(j containerJob) bool { return j.container == c && j.action == Skip })
}

// runsAsItIs reports whether a container of the plan is created from the image itself.
func (p *planner) runsAsItIs(o *ociImage) bool {
	return slices.ContainsFunc(p.containers, func(j containerJob) bool {
		return j.action != Skip && j.changes == "" && j.container.ImageKey == o.image.Config
	})
}

// is reports whether have, as an engine lists it, is this very image.
func (o *ociImage) is(have snapshot.Image) bool {
	return have.Config == o.configDigest.String() || have.ID == o.configDigest.String() ||
		have.ID == o.manifestDigest.String() || have.ID == o.image.ID
}

// ids are those by which an engine may know the image.
func (o *ociImage) ids() []string {
	return []string{o.configDigest.String(), o.manifestDigest.String()}
}

// planTags decides by which references the image will be known: its own, where they are free.
func (p *planner) planTags(j *imageJob) {
	img := j.oci.image
	for _, tag := range img.Tags {
		holder := slices.IndexFunc(p.target.Images, func(t snapshot.Image) bool { return slices.ContainsFunc(t.Tags, sameReference(tag)) })
		switch {
		case holder < 0:
			j.tags = append(j.tags, tag)
		case j.oci.is(p.target.Images[holder]):
			// It names this very image.
		case p.opts.Replace:
			j.tags = append(j.tags, tag)
			j.moved[tag] = p.target.Images[holder].ID
		default:
			p.note("image "+tag, "names another image there, and stays so")
		}
	}
	if len(j.tags) == 0 && j.have == "" {
		j.tags = []string{keptRef(p.snap.Summary, img)}
	}
}

func (p *planner) planChanges(c *snapshot.Container) {
	base := p.image(c)
	if c.Changes == nil && p.made(func(o *snapshot.Container) bool { return o == c }) {
		p.note("container "+p.names.name(c.Name), "its changes are not in the snapshot: it starts from its image")
	}
	if c.Changes == nil || base == nil || p.skipped(c) || !p.sel.part(PartChanges) {
		return
	}
	p.changes = append(p.changes, changesJob{
		container: c,
		base:      base,
		known:     knownLayers(base.image, p.chains),
		ref:       ChangesRef(p.snap.Summary, c.Name),
	})
}
