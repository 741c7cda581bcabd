package importer

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Level says what a finding means.
type Level string

// The levels of findings.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning" // the restore will do, but something is other than it was, or is not known
	LevelNoGo    Level = "no-go"   // the restore would fail, or not even begin
)

// Finding is one line of an assessment.
type Finding struct {
	Level Level  `json:"level"`
	Check string `json:"check"` // what was looked at: "space", "port", ...
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"` // what to do about it
}

// Assessment is what can be said of a restore before it is begun.
type Assessment struct {
	Go       bool          `json:"go"` // nothing is known that stands against it
	Missing  int64         `json:"missing_bytes"`
	Estimate time.Duration `json:"estimate,omitempty"` // how long it will take; 0: no restore was measured yet
	Findings []Finding     `json:"findings"`
}

// Assess holds a plan, which may clash, against the target and what stands around it. It is a pure function.
func Assess(snap *snapshot.Snapshot, plan *Plan, target Target, around Surroundings) *Assessment {
	a := &assessor{snap: snap, plan: plan, target: target, around: around, Assessment: &Assessment{Go: true}}
	a.clashes()
	a.engine()
	a.space()
	a.ports()
	a.subnets()
	a.secrets()
	a.whole()
	a.time()
	return a.Assessment
}

type assessor struct {
	*Assessment
	snap   *snapshot.Snapshot
	plan   *Plan
	target Target
	around Surroundings
}

func (a *assessor) tell(level Level, check, hint, format string, args ...any) {
	a.Findings = append(a.Findings, Finding{level, check, fmt.Sprintf(format, args...), hint})
	a.Go = a.Go && level != LevelNoGo
}

// calm tells that a check found nothing, if it did not.
func (a *assessor) calm(check, format string, args ...any) {
	if !slices.ContainsFunc(a.Findings, func(f Finding) bool { return f.Check == check }) {
		a.tell(LevelOK, check, "", format, args...)
	}
}

func (a *assessor) clashes() {
	for _, c := range a.plan.Clashes {
		a.tell(LevelNoGo, string(c.Kind), c.Hint, "%s %s", shown(c.Name), c.Why)
	}
}

// engine compares what the system ran on with what it is to run on. What a container needs and the engine lacks
// (drivers, runtimes, devices, its machine) is among the clashes, or, with Options.Fit, among the plan's notes.
func (a *assessor) engine() {
	was, is := a.snap.Engine, a.target.Facts
	if was.CgroupVersion != "" && is.CgroupVersion != "" && was.CgroupVersion != is.CgroupVersion {
		a.tell(LevelWarning, "engine", "", "the system ran under cgroups version %s, here it is %s: limits may act otherwise", was.CgroupVersion, is.CgroupVersion)
	}
	if is.UserNS {
		a.tell(LevelWarning, "engine", "", "maps users of containers to others: files belong to the users of the snapshot")
	}
	a.calm("engine", "Docker %s, %s/%s, %s", is.Version, is.OS, is.Arch, is.StorageDriver)
}

// need is what a restore writes to one place.
type need struct {
	dir   string
	bytes int64
}

// needs lists what a plan writes where. An engine with containerd's store keeps each layer twice: as it came, and
// unpacked. Changes lie among the temporary files on their way.
func (p *Plan) needs(facts snapshot.Facts, temp string) []need {
	var images, changes, volumes int64
	var all []need
	for _, s := range p.Steps {
		if s.Action != Create && s.Action != Replace {
			continue
		}
		switch s.Kind {
		case KindImage:
			images += s.Bytes
		case KindChanges:
			images += s.Bytes
			changes += s.Bytes
		case KindVolume:
			volumes += s.Bytes
		case KindBind:
			all = append(all, need{bindPlace(s), s.Bytes})
		}
	}
	if facts.Containerd {
		images *= 2
	}
	return append([]need{{facts.RootDir, images + volumes}, {temp, changes}}, all...)
}

func bindPlace(s Step) string {
	if s.As != "" {
		return s.As
	}
	return s.Name
}

// places lists the directories of needs.
func (p *Plan) places(root, temp string) []string {
	var dirs []string
	for _, n := range p.needs(snapshot.Facts{RootDir: root}, temp) {
		if !slices.Contains(dirs, n.dir) {
			dirs = append(dirs, n.dir)
		}
	}
	return dirs
}

// reserve is what is to stay free on each file system beside what is written: file systems need some.
const reserve = 64 << 20

// space adds up what is written to each file system.
func (a *assessor) space() {
	if a.around.Space == nil {
		a.tell(LevelWarning, "space", "run the plan on that host", "what is free on the engine's host cannot be seen from here; %s are to be written", formatBytes(a.missing()))
		return
	}
	byDevice, order := map[uint64]*need{}, []Space{}
	for _, s := range a.around.Space {
		if byDevice[s.Device] == nil {
			byDevice[s.Device] = &need{dir: s.Dir}
			order = append(order, s)
		}
	}
	for _, n := range a.plan.needs(a.target.Facts, a.around.Temp) {
		i := slices.IndexFunc(a.around.Space, func(s Space) bool { return s.Dir == n.dir })
		if i >= 0 {
			byDevice[a.around.Space[i].Device].bytes += n.bytes
		}
	}
	for _, s := range order {
		level, hint := LevelOK, ""
		wanted := byDevice[s.Device].bytes
		if wanted > 0 && s.Free < wanted+reserve {
			level, hint = LevelNoGo, "free some, or restore to another host"
		}
		a.tell(level, "space", hint, "%s needed, %s free in %s", formatBytes(wanted), formatBytes(s.Free), s.Dir)
	}
}

// missing adds up what the target lacks.
func (a *assessor) missing() (n int64) {
	for _, s := range a.plan.Steps {
		if s.Action == Create || s.Action == Replace {
			n += s.Bytes
		}
	}
	return n
}

// ports looks for others than containers that listen where the system will.
func (a *assessor) ports() {
	if a.around.Ports == nil {
		a.tell(LevelWarning, "port", "", "whether other processes of the host listen on ports of the system cannot be seen from here")
		return
	}
	for _, h := range a.plan.hostPorts {
		i := slices.IndexFunc(a.around.Ports, func(p snapshot.PortInUse) bool {
			return h.meets(hostPort{ip: p.HostIP, proto: p.Proto, port: p.HostPort})
		})
		known := slices.ContainsFunc(a.target.Names.Ports, func(p snapshot.PortInUse) bool {
			return h.meets(hostPort{ip: p.HostIP, proto: p.Proto, port: p.HostPort})
		})
		if i >= 0 && !known { // a container's is a clash already, or is replaced
			a.tell(LevelNoGo, "port", hintPort, "%s of container %s is in use by another process of the host", h, h.container)
		}
	}
	a.calm("port", "the ports of the system are free")
}

// subnets looks for subnets of the system that are taken. The engine then gives others, which does where no
// container has a fixed address.
func (a *assessor) subnets() {
	for _, j := range a.plan.networks {
		if j.action != Create {
			continue
		}
		for _, p := range networkSubnets(j.network) {
			a.subnet(j, p)
		}
	}
	a.calm("network", "the subnets of the system are free")
}

func (a *assessor) subnet(j networkJob, p netip.Prefix) {
	i := slices.IndexFunc(a.around.Subnets, func(s snapshot.Subnet) bool { return s.Prefix.Overlaps(p) })
	if i < 0 {
		return
	}
	taken := a.around.Subnets[i]
	by := "network " + taken.Network
	if taken.Network == "" {
		by = "a route of the host by " + taken.Device
	}
	switch fixed := a.plan.fixedAddress(j.network.Name); {
	case fixed != "" && taken.Network != "":
		a.tell(LevelNoGo, "network", "--network OLD:NEW, or --as NAME", "%s: subnet %s overlaps %s by %s, and container %s has a fixed address in it", j.name, p, taken.Prefix, by, fixed)
	case taken.Network != "":
		a.tell(LevelWarning, "network", "", "%s: subnet %s overlaps %s by %s: it will have another one", j.name, p, taken.Prefix, by)
	default:
		a.tell(LevelWarning, "network", "--network OLD:NEW", "%s: subnet %s overlaps %s by %s: what lies there may not be reached any more", j.name, p, taken.Prefix, by)
	}
}

// networkSubnets reads the subnets of a network from its inspection.
func networkSubnets(n snapshot.Network) []netip.Prefix {
	var inspect struct {
		IPAM struct{ Config []struct{ Subnet string } }
	}
	if err := json.Unmarshal(n.Inspect, &inspect); err != nil {
		return nil // creating it will say so
	}
	var list []netip.Prefix
	for _, c := range inspect.IPAM.Config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil {
			list = append(list, p.Masked())
		}
	}
	return list
}

// fixedAddress names a container that will have an address of its own choice in a network of the snapshot.
func (p *Plan) fixedAddress(network string) string {
	for _, j := range p.containers {
		if j.action == Skip || slices.Contains(j.place.Without, snapshot.PartAddresses) {
			continue
		}
		var inspect struct {
			NetworkSettings struct {
				Networks map[string]struct {
					IPAMConfig struct{ IPv4Address, IPv6Address string }
				}
			}
		}
		if err := json.Unmarshal(j.container.Inspect, &inspect); err != nil {
			continue // creating it will say so
		}
		if c := inspect.NetworkSettings.Networks[network].IPAMConfig; c.IPv4Address != "" || c.IPv6Address != "" {
			return j.place.Name
		}
	}
	return ""
}

// secretDirs is where engines and Compose show containers their secrets.
const secretDirs = "/run/secrets"

// secrets tells which secrets the snapshot lacks.
func (a *assessor) secrets() {
	for _, j := range a.plan.containers {
		if j.action == Skip {
			continue
		}
		if service := j.container.Labels["com.docker.swarm.service.name"]; service != "" {
			a.tell(LevelWarning, "secret", "create them in the swarm, or mount them as files", "container %s is of swarm service %s: its secrets and configs, if it has any, are not in the snapshot", j.place.Name, service)
		}
		for _, m := range j.container.Mounts {
			_, ok := under(m.Destination, secretDirs)
			if ok && m.Type == "bind" && !slices.ContainsFunc(a.plan.binds, func(b bindJob) bool { return b.bind.Source == m.Source && b.bind.Content != nil }) {
				a.tell(LevelWarning, "secret", "put it there, or --bind OLD:NEW", "%s of container %s is not restored: %s must be there", m.Destination, j.place.Name, m.Source)
			}
		}
	}
}

// whole tells whether the snapshot has everything.
func (a *assessor) whole() {
	if !a.snap.Complete {
		a.tell(LevelWarning, "snapshot", "", "is incomplete: %d things could not be captured", max(len(a.snap.System.Problems), 1))
	}
	a.calm("snapshot", "is complete")
}

func (a *assessor) time() {
	a.Missing = a.missing()
	if a.around.Rate <= 0 {
		a.tell(LevelOK, "time", "a drill measures it", "%s are missing here; no restore of this repository was measured yet", formatBytes(a.Missing))
		return
	}
	a.Estimate = max(time.Second, time.Duration(float64(a.Missing)/a.around.Rate*float64(time.Second)).Round(time.Second))
	a.tell(LevelOK, "time", "", "%s are missing here: about %s, at the %s/s of the last restore", formatBytes(a.Missing), a.Estimate, formatBytes(int64(a.around.Rate)))
}
