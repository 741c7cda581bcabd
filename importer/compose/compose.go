// Package compose writes the system of a snapshot as a Compose file, for Docker Compose or for a stack of a swarm.
package compose

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

// Options are options of File. The zero value writes a file for Docker Compose.
type Options struct {
	Stack       bool                // for a stack of a swarm
	Registry    string              // HOST:PORT of a registry.Server, from which the images are pulled; empty: those that a restore makes
	Constraints map[string][]string // of a stack: where a container may run, by its name or service: "node.hostname==standby1"
}

// File writes a system as a Compose file: its services run the images that a restore makes, use its volumes and
// networks by their names, and are configured as their containers were. For a stack of a swarm what that knows
// nothing of is left out, and networks become overlays. It also tells what the file cannot say. The file holds the
// containers' environments, secrets included.
func File(snap *snapshot.Snapshot, o Options) (text []byte, notes []snapshot.Problem, err error) {
	if snap.Pushed != nil {
		return nil, nil, fmt.Errorf("compose file of %s: %w", snap.System.Name, importer.ErrPushed)
	}
	w := &composer{
		snap: snap, o: o, names: map[string]string{},
		project: &types.Project{Services: types.Services{}, Networks: types.Networks{}, Volumes: types.Volumes{}},
	}
	if err := w.checkConstraints(); err != nil {
		return nil, nil, err
	}
	if !o.Stack {
		w.project.Name = composeName(snap.System.Name)
	}
	w.nameServices()
	w.volumes()
	for i := range snap.System.Containers {
		if err := w.service(&snap.System.Containers[i]); err != nil {
			return nil, nil, fmt.Errorf("compose file of %s: container %s: %w", snap.System.Name, snap.System.Containers[i].Name, err)
		}
	}
	w.networks()
	raw, err := w.project.MarshalYAML()
	if err != nil {
		return nil, nil, fmt.Errorf("compose file of %s: %w", snap.System.Name, err)
	}
	if o.Stack {
		raw = stackPorts.ReplaceAll(stackCPUs.ReplaceAll(raw, []byte(`$1"$2"`)), []byte(`$1$2`))
	}
	// Nothing in it is a variable, so every dollar stands for itself.
	return []byte(strings.ReplaceAll(string(raw), "$", "$$")), w.notes, nil
}

// stackCPUs finds limits of processors, which docker stack takes as strings only, and stackPorts published ports, which
// it takes as numbers only. What they look for is anchored in a service's own lines: text of a value is never
// indented so little.
var (
	stackPorts = regexp.MustCompile(`(?m)^(      - mode: host\n        target: [0-9]+\n        published: )"([0-9]+)"$`)
	stackCPUs  = regexp.MustCompile(`(?m)^(    deploy:\n      replicas: 1\n      resources:\n        limits:\n          cpus: )([0-9.e+-]+)$`)
)

type composer struct {
	snap    *snapshot.Snapshot
	o       Options
	project *types.Project
	names   map[string]string // of services, by the container's name
	fixed   map[string]bool   // networks in which a container has a fixed address
	notes   []snapshot.Problem
}

func (w *composer) note(where, format string, args ...any) {
	w.notes = append(w.notes, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// composeName makes a name that Compose takes for projects, networks and volumes.
func composeName(s string) string { return strings.ReplaceAll(registry.Component(s), ".", "-") }

// nameServices gives each container the name of its service; of several replicas each one its own.
func (w *composer) nameServices() {
	taken := map[string]bool{}
	for _, c := range w.snap.System.Containers {
		name := cmp.Or(c.Service, composeName(c.Name))
		if taken[name] {
			name = composeName(c.Name)
		}
		for n := 2; taken[name]; n++ {
			name = composeName(c.Name) + "-" + strconv.Itoa(n)
		}
		taken[name], w.names[c.Name] = true, name
	}
}

// inspection is what of a container's inspection a Compose file can say.
type inspection struct {
	Config struct {
		Hostname, Domainname, User, WorkingDir, StopSignal string
		Cmd, Entrypoint, Env                               []string
		Tty, OpenStdin                                     bool
		StopTimeout                                        *int
		Labels                                             map[string]string
		Healthcheck                                        *struct {
			Test                                          []string
			Interval, Timeout, StartPeriod, StartInterval time.Duration
			Retries                                       uint64
		}
	}
	HostConfig struct {
		NetworkMode, PidMode, IpcMode, UTSMode, UsernsMode, Runtime, CgroupParent, CpusetCPUs string
		Privileged, ReadonlyRootfs                                                            bool
		Init                                                                                  *bool
		CapAdd, CapDrop, SecurityOpt, DNS, DNSOptions, DNSSearch, ExtraHosts, GroupAdd        []string
		Devices                                                                               []struct{ PathOnHost, PathInContainer, CgroupPermissions string }
		Ulimits                                                                               []struct {
			Name       string
			Soft, Hard int
		}
		Sysctls, Tmpfs                                          map[string]string
		ShmSize, Memory, MemoryReservation, NanoCPUs, CPUShares int64
		OomScoreAdj                                             int64
		PidsLimit                                               *int64
		LogConfig                                               struct {
			Type   string
			Config map[string]string
		}
		RestartPolicy struct {
			Name              string
			MaximumRetryCount int
		}
		PortBindings map[string][]struct{ HostIP, HostPort string }
	}
	NetworkSettings struct {
		Networks map[string]struct {
			Aliases    []string
			IPAMConfig struct{ IPv4Address, IPv6Address string }
		}
	}
}

func (w *composer) service(c *snapshot.Container) error {
	var in inspection
	if err := json.Unmarshal(c.Inspect, &in); err != nil {
		return err
	}
	s := types.ServiceConfig{Name: w.names[c.Name]}
	s.Image = c.Image
	if c.Changes != nil {
		s.Image = importer.ChangesRef(w.snap.Summary, c.Name)
	}
	if w.o.Registry != "" {
		s.Image = w.o.Registry + "/" + registry.Ref(w.snap.System.Name, c.Name, w.snap.ID)
	}
	w.process(&s, c, &in)
	w.limits(&s, &in)
	w.mounts(&s, c, &in)
	w.ports(&s, &in)
	w.join(&s, c, &in)
	w.restart(&s, c, &in)
	if !w.o.Stack {
		w.host(&s, c, &in)
	}
	w.project.Services[s.Name] = s
	return nil
}

// process says what runs.
func (w *composer) process(s *types.ServiceConfig, c *snapshot.Container, in *inspection) {
	cfg := in.Config
	s.Command, s.Entrypoint = cfg.Cmd, cfg.Entrypoint
	s.Environment = types.NewMappingWithEquals(cfg.Env)
	if !(len(cfg.Hostname) == 12 && strings.HasPrefix(c.ID, cfg.Hostname)) && in.HostConfig.NetworkMode != "host" {
		s.Hostname = cfg.Hostname
	}
	s.DomainName, s.User, s.WorkingDir, s.StopSignal, s.Tty, s.StdinOpen = cfg.Domainname, cfg.User, cfg.WorkingDir, cfg.StopSignal, cfg.Tty, cfg.OpenStdin
	if cfg.StopTimeout != nil {
		s.StopGracePeriod = duration(time.Duration(*cfg.StopTimeout) * time.Second)
	}
	for key, value := range cfg.Labels {
		if !strings.HasPrefix(key, "com.docker.compose.") {
			if s.Labels == nil {
				s.Labels = types.Labels{}
			}
			s.Labels[key] = value
		}
	}
	if h := cfg.Healthcheck; h != nil && len(h.Test) > 0 {
		s.HealthCheck = &types.HealthCheckConfig{
			Test: h.Test, Interval: duration(h.Interval), Timeout: duration(h.Timeout), StartPeriod: duration(h.StartPeriod), StartInterval: duration(h.StartInterval),
		}
		if h.Retries > 0 {
			s.HealthCheck.Retries = &h.Retries
		}
	}
	s.Init, s.ReadOnly = in.HostConfig.Init, in.HostConfig.ReadonlyRootfs
}

// duration returns nil for none, which leaves it to the engine.
func duration(d time.Duration) *types.Duration {
	if d == 0 {
		return nil
	}
	value := types.Duration(d)
	return &value
}

// limits says what a service may use.
func (w *composer) limits(s *types.ServiceConfig, in *inspection) {
	h := in.HostConfig
	s.CapAdd, s.CapDrop, s.Sysctls = h.CapAdd, h.CapDrop, h.Sysctls
	for _, u := range h.Ulimits {
		if s.Ulimits == nil {
			s.Ulimits = map[string]*types.UlimitsConfig{}
		}
		s.Ulimits[u.Name] = &types.UlimitsConfig{Soft: u.Soft, Hard: u.Hard}
	}
	if h.LogConfig.Type != "" && (h.LogConfig.Type != "json-file" || len(h.LogConfig.Config) > 0) {
		s.Logging = &types.LoggingConfig{Driver: h.LogConfig.Type, Options: h.LogConfig.Config}
	}
	s.DNS, s.DNSOpts, s.DNSSearch = h.DNS, h.DNSOptions, h.DNSSearch
	s.ExtraHosts, _ = types.NewHostsList(h.ExtraHosts) // the engine took them
	if !w.o.Stack {
		s.CPUS, s.MemLimit, s.MemReservation = float32(h.NanoCPUs)/1e9, types.UnitBytes(h.Memory), types.UnitBytes(h.MemoryReservation)
		return
	}
	s.Deploy = &types.DeployConfig{}
	if h.Memory > 0 || h.NanoCPUs > 0 {
		s.Deploy.Resources.Limits = &types.Resource{NanoCPUs: types.NanoCPUs(float32(h.NanoCPUs) / 1e9), MemoryBytes: types.UnitBytes(h.Memory)}
	}
	if h.MemoryReservation > 0 {
		s.Deploy.Resources.Reservations = &types.Resource{MemoryBytes: types.UnitBytes(h.MemoryReservation)}
	}
}

// host says what a service has of the host, and what only one host's engine knows.
func (w *composer) host(s *types.ServiceConfig, c *snapshot.Container, in *inspection) {
	h := in.HostConfig
	s.ContainerName = c.Name
	s.Privileged, s.Runtime, s.CgroupParent, s.CPUSet, s.CPUShares = h.Privileged, h.Runtime, h.CgroupParent, h.CpusetCPUs, h.CPUShares
	s.Uts, s.UserNSMode, s.SecurityOpt, s.GroupAdd, s.OomScoreAdj = h.UTSMode, h.UsernsMode, h.SecurityOpt, h.GroupAdd, h.OomScoreAdj
	s.Pid, s.Ipc = w.namespace(h.PidMode), w.namespace(h.IpcMode)
	if s.Ipc == "private" || s.Ipc == "shareable" && h.ShmSize == 0 {
		s.Ipc = ""
	}
	if h.ShmSize > 0 && h.ShmSize != 64<<20 {
		s.ShmSize = types.UnitBytes(h.ShmSize)
	}
	if h.PidsLimit != nil && *h.PidsLimit > 0 {
		s.PidsLimit = *h.PidsLimit
	}
	if s.Runtime == "runc" {
		s.Runtime = "" // the default
	}
	for _, d := range h.Devices {
		s.Devices = append(s.Devices, types.DeviceMapping{Source: d.PathOnHost, Target: d.PathInContainer, Permissions: d.CgroupPermissions})
	}
	for _, d := range c.DependsOn {
		if name := w.names[d.Container]; name != "" {
			if s.DependsOn == nil {
				s.DependsOn = types.DependsOnConfig{}
			}
			s.DependsOn[name] = types.ServiceDependency{Condition: cmp.Or(d.Condition, "service_started"), Required: true}
		}
	}
}

// namespace writes a reference to another container's namespace as one to its service.
func (w *composer) namespace(mode string) string {
	ref, shared := strings.CutPrefix(mode, "container:")
	if !shared {
		return mode
	}
	for _, c := range w.snap.System.Containers {
		if c.ID == ref || c.Name == ref {
			return "service:" + w.names[c.Name]
		}
	}
	return mode
}

// volumeKey is the name by which services mount a volume: an anonymous one has 64 digits.
func volumeKey(name string) string {
	if len(name) == 64 {
		return "anonymous-" + name[:12]
	}
	return composeName(name)
}

func (w *composer) volumes() {
	for _, v := range w.snap.System.Volumes {
		w.volume(v)
	}
}

func (w *composer) volume(v snapshot.Volume) {
	config := types.VolumeConfig{Name: v.Name, DriverOpts: v.Options}
	if v.Driver != "local" {
		config.Driver = v.Driver
	}
	w.project.Volumes[volumeKey(v.Name)] = config
}

func (w *composer) mounts(s *types.ServiceConfig, c *snapshot.Container, in *inspection) {
	for _, m := range c.Mounts {
		mount := types.ServiceVolumeConfig{Type: m.Type, Source: m.Source, Target: m.Destination, ReadOnly: m.ReadOnly}
		switch m.Type {
		case "volume":
			mount.Source = volumeKey(m.Name)
			if _, ok := w.project.Volumes[mount.Source]; !ok {
				w.volume(snapshot.Volume{Name: m.Name, Driver: "local"})
			}
		case "tmpfs":
			mount.Source = ""
		case "bind":
		default:
			w.note("container "+c.Name, "mount %s of type %s is left out", m.Destination, m.Type)
			continue
		}
		s.Volumes = append(s.Volumes, mount)
	}
	for _, path := range slices.Sorted(maps.Keys(in.HostConfig.Tmpfs)) {
		if !slices.ContainsFunc(c.Mounts, func(m snapshot.Mount) bool { return m.Destination == path }) {
			s.Tmpfs = append(s.Tmpfs, strings.TrimSuffix(path+":"+in.HostConfig.Tmpfs[path], ":"))
		}
	}
}

func (w *composer) ports(s *types.ServiceConfig, in *inspection) {
	for _, port := range slices.Sorted(maps.Keys(in.HostConfig.PortBindings)) {
		number, proto, _ := strings.Cut(port, "/")
		target, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			continue // an engine has none such
		}
		for _, b := range in.HostConfig.PortBindings[port] {
			p := types.ServicePortConfig{Target: uint32(target), Published: b.HostPort, Protocol: cmp.Or(proto, "tcp"), HostIP: b.HostIP}
			if p.Published == "0" {
				p.Published = ""
			}
			if w.o.Stack {
				p.Mode, p.HostIP = "host", ""
				if _, err := strconv.ParseUint(p.Published, 10, 16); err != nil {
					p.Published = "" // a range, or the engine's choice
				}
			}
			s.Ports = append(s.Ports, p)
		}
	}
}

// join says which networks a service joins.
func (w *composer) join(s *types.ServiceConfig, c *snapshot.Container, in *inspection) {
	mode := in.HostConfig.NetworkMode
	shared := strings.HasPrefix(mode, "container:")
	if mode == "none" || mode == "host" || shared {
		if w.o.Stack && shared {
			w.note("container "+c.Name, "shares the network of another container, which services of a stack cannot")
			return
		}
		if w.o.Stack {
			s.Networks = map[string]*types.ServiceNetworkConfig{mode: nil}
			w.project.Networks[mode] = types.NetworkConfig{Name: mode, External: true}
			return
		}
		s.NetworkMode = w.namespace(mode)
		s.Hostname = ""
		s.Ports = nil
		return
	}
	s.Networks = map[string]*types.ServiceNetworkConfig{}
	for _, name := range slices.Sorted(maps.Keys(in.NetworkSettings.Networks)) {
		if name == "bridge" { // the engine's own, which no service of a file joins by name
			if len(in.NetworkSettings.Networks) == 1 && !w.o.Stack {
				s.NetworkMode, s.Networks = "bridge", nil
				return
			}
			continue
		}
		n := in.NetworkSettings.Networks[name]
		config := &types.ServiceNetworkConfig{Aliases: slices.DeleteFunc(slices.Clone(n.Aliases), func(a string) bool { return strings.HasPrefix(c.ID, a) || a == s.Name })}
		if !w.o.Stack {
			config.Ipv4Address, config.Ipv6Address = n.IPAMConfig.IPv4Address, n.IPAMConfig.IPv6Address
		}
		if config.Ipv4Address+config.Ipv6Address != "" {
			if w.fixed == nil {
				w.fixed = map[string]bool{}
			}
			w.fixed[name] = true
		}
		s.Networks[composeName(name)] = config
		w.project.Networks[composeName(name)] = types.NetworkConfig{Name: name}
	}
}

// networks completes the networks that services join.
func (w *composer) networks() {
	for _, n := range w.snap.System.Networks {
		config, used := w.project.Networks[composeName(n.Name)]
		if !used || bool(config.External) {
			continue
		}
		var inspect struct {
			Driver, Scope                    string
			EnableIPv6, Internal, Attachable bool
			Options                          map[string]string
			IPAM                             struct {
				Config []struct{ Subnet, Gateway, IPRange string }
			}
		}
		if json.Unmarshal(n.Inspect, &inspect) != nil {
			continue
		}
		config.Internal = inspect.Internal
		if inspect.Driver != "bridge" {
			config.Driver = inspect.Driver
		}
		if w.o.Stack {
			config.Name, config.Driver, config.Attachable = "", "overlay", true
			w.project.Networks[composeName(n.Name)] = config
			continue
		}
		config.DriverOpts, config.Attachable = inspect.Options, inspect.Attachable
		if inspect.EnableIPv6 {
			config.EnableIPv6 = &inspect.EnableIPv6
		}
		for _, pool := range inspect.IPAM.Config {
			if w.fixed[n.Name] { // else the engine picked them
				config.Ipam.Config = append(config.Ipam.Config, &types.IPAMPool{Subnet: pool.Subnet, Gateway: pool.Gateway, IPRange: pool.IPRange})
			}
		}
		w.project.Networks[composeName(n.Name)] = config
	}
}

// restart says when a service is started again.
func (w *composer) restart(s *types.ServiceConfig, c *snapshot.Container, in *inspection) {
	policy := in.HostConfig.RestartPolicy
	if !w.o.Stack {
		if s.Restart = policy.Name; policy.Name == "on-failure" && policy.MaximumRetryCount > 0 {
			s.Restart += ":" + strconv.Itoa(policy.MaximumRetryCount)
		}
		return
	}
	one := 1
	s.Deploy.Replicas = &one
	s.Deploy.EndpointMode = "dnsrr" // the name of a service is its container's address, as it was, and no kernel needs IPVS
	for _, name := range slices.Compact([]string{c.Name, c.Service}) {
		s.Deploy.Placement.Constraints = append(s.Deploy.Placement.Constraints, w.o.Constraints[name]...)
	}
	condition := map[string]string{"always": "any", "unless-stopped": "any", "on-failure": "on-failure"}[policy.Name]
	s.Deploy.RestartPolicy = &types.RestartPolicy{Condition: cmp.Or(condition, "none")}
	if volumes := volumesOf(c); len(volumes) > 0 && len(s.Deploy.Placement.Constraints) == 0 {
		w.note("container "+c.Name, "uses %s, which each node has of its own: restore that on one and constrain it to that", strings.Join(volumes, ", "))
	}
	h := in.HostConfig
	if h.Privileged || len(h.Devices) > 0 || h.PidMode == "host" {
		w.note("container "+c.Name, "has privileges, devices or namespaces of the host, which services of a stack cannot have")
	}
	if len(c.DependsOn) > 0 {
		w.note("container "+c.Name, "a stack starts all services at once, also those that depend on others")
	}
}

// volumesOf names the volumes and host paths that a container uses.
func volumesOf(c *snapshot.Container) []string {
	var names []string
	for _, m := range c.Mounts {
		switch m.Type {
		case "volume":
			names = append(names, m.Name)
		case "bind":
			names = append(names, m.Source)
		}
	}
	return names
}

// checkConstraints refuses constraints of what is not there.
func (w *composer) checkConstraints() error {
	for _, name := range slices.Sorted(maps.Keys(w.o.Constraints)) {
		known := func(c snapshot.Container) bool { return name != "" && (c.Name == name || c.Service == name) }
		if !slices.ContainsFunc(w.snap.System.Containers, known) {
			return fmt.Errorf("compose file of %s: constraint: container %s: %w; there is %s", w.snap.System.Name, name, snapshot.ErrMissing,
				strings.Join(w.snap.System.ContainerNames(), ", "))
		}
	}
	return nil
}
