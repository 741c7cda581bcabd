package importer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// networkLabels reads the labels of a network from its inspection.
func networkLabels(n snapshot.Network) map[string]string {
	var inspect struct{ Labels map[string]string }
	if err := json.Unmarshal(n.Inspect, &inspect); err != nil {
		return nil // creating it will say so
	}
	return inspect.Labels
}

// steps writes the jobs down as lines.
func (p *planner) steps() {
	counted := make(map[string]bool)
	for _, j := range p.images {
		p.Steps = append(p.Steps, j.step(counted))
	}
	for _, j := range p.changes {
		p.Steps = append(p.Steps, j.step(counted))
	}
	for _, j := range p.volumes {
		p.Steps = append(p.Steps, j.step())
	}
	for _, j := range p.binds {
		p.Steps = append(p.Steps, j.step())
	}
	for _, j := range p.networks {
		p.Steps = append(p.Steps, j.step())
	}
	for _, j := range p.containers {
		p.Steps = append(p.Steps, j.step(p))
	}
}

// unsent adds up the layers that are neither known nor counted already.
func unsent(layers []snapshot.Layer, known int, counted map[string]bool) (n int64) {
	for _, l := range layers[known:] {
		if !counted[l.DiffID] {
			counted[l.DiffID] = true
			n += l.Size
		}
	}
	return n
}

func (j imageJob) step(counted map[string]bool) Step {
	s := Step{Action: j.action, Kind: KindImage, Name: imageName(j.oci.image)}
	if len(j.tags) > 0 && j.tags[0] != s.Name {
		s.As = j.tags[0]
	}
	var details []string
	if j.action == Create {
		layers := j.oci.image.Layers
		s.Bytes = unsent(layers, j.known, counted)
		details = append(details, fmt.Sprintf("%d layers, %d there", len(layers), j.known))
	}
	for _, tag := range j.tags {
		if id, ok := j.moved[tag]; ok {
			details = append(details, fmt.Sprintf("%s is taken from image %s", tag, shortDigest(id)))
		}
	}
	s.Detail = strings.Join(details, "; ")
	return s
}

func entries(a *snapshot.Archive) string {
	if a.Entries == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", a.Entries)
}

func shortDigest(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		hex = id
	}
	return hex[:min(12, len(hex))]
}

func (j changesJob) step(counted map[string]bool) Step {
	return Step{
		Action: Create, Kind: KindChanges, Name: j.container.Name, As: j.ref,
		Bytes:  unsent(j.base.image.Layers, j.known, counted) + j.container.Changes.Bytes,
		Detail: entries(j.container.Changes) + " on top of " + imageName(j.base.image),
	}
}

func (j volumeJob) step() Step {
	s := Step{Action: j.action, Kind: KindVolume, Name: j.volume.Name}
	if j.name != s.Name {
		s.As = j.name
	}
	if c := j.volume.Content; c != nil && (j.action == Create || j.action == Replace) {
		s.Bytes, s.Detail = c.Bytes, entries(c)
	}
	return s
}

func (j bindJob) step() Step {
	s := Step{Action: j.action, Kind: KindBind, Name: j.bind.Source}
	if j.path != s.Name {
		s.As = j.path
	}
	switch {
	case j.action == Skip:
		s.Detail = "is part of another one"
	case j.action == Reuse && j.bind.Special != "":
		s.Detail = j.bind.Special
	case j.action == Create, j.action == Replace:
		s.Bytes, s.Detail = j.bind.Content.Bytes, entries(j.bind.Content)
	}
	return s
}

func (j networkJob) step() Step {
	s := Step{Action: j.action, Kind: KindNetwork, Name: j.network.Name, Detail: j.network.Driver}
	if j.name != s.Name {
		s.As = j.name
	}
	return s
}

func (j containerJob) step(p *planner) Step {
	s := Step{Action: j.action, Kind: KindContainer, Name: j.container.Name}
	if j.place.Name != s.Name {
		s.As = j.place.Name
	}
	if j.action == Skip {
		s.Detail = "exists already (" + j.old.State + ")"
		return s
	}
	var details []string
	if j.changes == "" && j.container.Changes != nil {
		details = append(details, "without its changes")
	}
	switch {
	case j.start:
		details = append(details, "start"+p.after(j))
	case ran(j.container):
		details = append(details, "not started")
	default:
		details = append(details, "not started: it was "+j.container.State)
	}
	for _, h := range p.published(j) {
		details = append(details, "port "+h.String())
	}
	s.Detail = strings.Join(details, "; ")
	return s
}

// after says what a container waits for.
func (p *planner) after(j containerJob) string {
	var waits []string
	for _, d := range j.container.DependsOn {
		other := p.findContainer(d.Container)
		if other == nil || !slices.ContainsFunc(p.containers, func(o containerJob) bool { return o.container == other && o.start }) {
			continue
		}
		switch d.Condition {
		case conditionHealthy:
			waits = append(waits, p.names.name(other.Name)+" is healthy")
		case conditionCompleted:
			waits = append(waits, p.names.name(other.Name)+" has completed")
		default:
			waits = append(waits, p.names.name(other.Name)+" is started")
		}
	}
	if len(waits) == 0 {
		return ""
	}
	return " after " + strings.Join(waits, ", ")
}

// Conditions of Compose under which a dependency counts as met.
const (
	conditionHealthy   = "service_healthy"
	conditionCompleted = "service_completed_successfully"
)

// String is the plan as text: a line for each step, clash and note.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "restore %s from snapshot %s of %s, taken %s on %s\n", p.System, shortID(p.Snapshot.ID),
		p.Snapshot.System, p.Snapshot.Time.Format("2006-01-02 15:04:05 MST"), shown(p.Snapshot.Host))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, s := range p.Steps {
		name, size := shown(s.Name), "-"
		if s.Kind == KindVolume {
			name = shortVolume(name)
		}
		if s.As != "" {
			name += " as " + shown(s.As)
		}
		if s.Bytes > 0 {
			size = formatBytes(s.Bytes)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", s.Action, s.Kind, name, size, cmp.Or(s.Detail, "-"))
	}
	t.Flush() // a Builder takes everything
	for _, c := range p.Clashes {
		fmt.Fprintf(&b, "clash: %s\n", c)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s: %s\n", shown(n.Where), shown(n.What))
	}
	return b.String()
}

// shortVolume shortens the name of an anonymous volume, 64 hex digits.
func shortVolume(name string) string {
	if len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
		return name[:12] + "..."
	}
	return name
}

func formatBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1024 && unit < 4 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
