package importer

import (
	"crypto/rand"
	"encoding/hex"
	"path"
	"strconv"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

// Labels that say to which system a thing belongs: their value changes with Options.As.
const (
	labelProject = "com.docker.compose.project"
	labelSystem  = "io.github.hakobune-dr.system"
)

// labelImage is the engine's id of the image by which Compose recognises a container.
const labelImage = "com.docker.compose.image"

// renamer derives the names on the target from those in the snapshot.
type renamer struct {
	system string // as the snapshot calls it
	as     string // Options.As
}

// name derives the name of a container, volume or network: "shop" and "shop_db" of the system shop
// become "test" and "test_db" as test, and anything else, say "proxy", becomes "test-proxy".
func (r renamer) name(old string) string {
	if r.as == "" {
		return old
	}
	if rest, ok := strings.CutPrefix(old, r.system); ok && (rest == "" || strings.IndexByte("-_.", rest[0]) >= 0) {
		return r.as + rest
	}
	return r.as + "-" + old
}

// volume derives the name of a volume. Of an anonymous one, 64 hex digits, 12 are kept.
func (r renamer) volume(v snapshot.Volume) string {
	if r.as != "" && v.Anonymous && len(v.Name) == 64 {
		return r.as + "-" + v.Name[:12]
	}
	return r.name(v.Name)
}

// labels returns those of labels that change with the name of the system, changed.
func (r renamer) labels(labels map[string]string) map[string]string {
	if r.as == "" {
		return nil
	}
	var out map[string]string
	for _, key := range []string{labelProject, labelSystem} {
		if _, ok := labels[key]; ok {
			if out == nil {
				out = make(map[string]string)
			}
			out[key] = r.as
		}
	}
	return out
}

// ChangesRef names the image of a container with its changes:
// hakobune/SYSTEM-CONTAINER:SNAPSHOT.
func ChangesRef(s snapshot.Summary, container string) string {
	name := container
	if rest, ok := strings.CutPrefix(container, s.System); ok && (rest == "" || strings.IndexByte("-_.", rest[0]) >= 0) {
		name = strings.TrimLeft(rest, "-_.")
	}
	if name == "" {
		return "hakobune/" + registry.Component(s.System) + ":" + shortID(s.ID)
	}
	return "hakobune/" + registry.Component(s.System+"-"+name) + ":" + shortID(s.ID)
}

// keptRef names an image that none of its own references can name on the target.
func keptRef(s snapshot.Summary, img snapshot.Image) string {
	_, hex, _ := strings.Cut(img.Config, ":")
	return "hakobune/" + registry.Component(s.System+"-image") + ":" + hex[:min(12, len(hex))]
}

func shortID(id string) string { return id[:min(8, len(id))] }

// newID names one run of a restore or a drill.
func newID() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// fullReference writes an image reference as registries and containerd do: "nginx" is
// "docker.io/library/nginx:latest".
func fullReference(ref string) string {
	repo, tag := splitTag(ref)
	first, _, slash := strings.Cut(repo, "/")
	switch {
	case !slash:
		repo = "docker.io/library/" + repo
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		repo = "docker.io/" + repo
	}
	return repo + ":" + tag
}

// sameReference tells references to the same image, however short they are written.
func sameReference(a string) func(b string) bool {
	return func(b string) bool { return fullReference(a) == fullReference(b) }
}

// splitTag splits a reference without digest; without a tag it is "latest".
func splitTag(ref string) (repo, tag string) {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, "latest"
}

// under reports whether p is dir or lies below it, and the rest.
func under(p, dir string) (rest string, ok bool) {
	p, dir = path.Clean(p), path.Clean(dir)
	if dir == "/" || p == dir {
		return strings.TrimPrefix(p, dir), true
	}
	rest, ok = strings.CutPrefix(p, dir+"/")
	return rest, ok
}

// remapPath applies Options.Binds to a host path.
func remapPath(p string, binds map[string]string) string {
	best, to := "", ""
	for old, now := range binds {
		if _, ok := under(p, old); ok && len(path.Clean(old)) > len(best) {
			best, to = path.Clean(old), now
		}
	}
	if best == "" {
		return p
	}
	rest, _ := under(p, best)
	return path.Join(to, rest)
}

// shown makes a name from a snapshot safe to show on a terminal.
func shown(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
