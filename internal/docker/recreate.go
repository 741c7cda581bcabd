package docker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/client/pkg/versions"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// creation is a request to create a container, and what is to be done after it.
type creation struct {
	body     object            // of POST /containers/create
	connects map[string]object // further networks to join, with the endpoint's settings (API before 1.44)
	warnings []string
}

// recreation rewrites the inspection of a container into a request to create it again, on an engine
// that speaks the version of the API. The inspection of one engine is nearly the request of another;
// what differs is written down here, rule by rule.
type recreation struct {
	c       snapshot.Container
	p       snapshot.Placement
	version string
	config  object
	host    object
	nets    object     // of the inspection: name to endpoint settings
	shown   []mountRow // the mounts that the inspection shows
	out     creation
}

// mountRow is a mount of the inspection with what a bind needs.
type mountRow struct {
	Type, Name, Source, Destination, Propagation string
	RW                                           bool
}

// recreate does the rewriting.
func recreate(c snapshot.Container, p snapshot.Placement, version string) (creation, error) {
	whole, err := parseObject(c.Inspect)
	if err != nil {
		return creation{}, fmt.Errorf("inspection of container %s: %w", c.Name, err)
	}
	r := &recreation{
		c: c, p: p, version: version, config: whole.child("Config"), host: whole.child("HostConfig"),
		nets: whole.child("NetworkSettings").child("Networks"),
	}
	for _, m := range whole.children("Mounts") {
		rw, _ := m["RW"].(bool)
		r.shown = append(r.shown, mountRow{m.text("Type"), m.text("Name"), m.text("Source"), m.text("Destination"), m.text("Propagation"), rw})
	}
	r.placeConfig()
	r.placeParts()
	r.placeReferences()
	r.placeMounts()
	r.placePorts()
	r.placeNetworks()
	return r.out, nil
}

// without reports whether a part is left to the engine's defaults.
func (r *recreation) without(part snapshot.Part) bool { return slices.Contains(r.p.Without, part) }

// place returns where a name went.
func place(places map[string]string, name string) string {
	if to, moved := places[name]; moved {
		return to
	}
	return name
}

// placeConfig rewrites what belongs to the container itself.
func (r *recreation) placeConfig() {
	r.config["Image"] = r.p.Image
	if r.generatedHostname() {
		r.config.drop("Hostname")
	}
	if len(r.config.texts("Entrypoint")) == 0 {
		r.config["Entrypoint"] = []string{""} // none; null would mean the image's
	}
	labels := r.config.child("Labels")
	for key, value := range r.p.Labels {
		labels[key] = value
	}
	if _, labelled := labels[composeImage]; labelled && r.p.ImageID != "" {
		labels[composeImage] = r.p.ImageID // else Compose would replace the container by a fresh one
	}
	// What only the docker command uses, and what no engine honours any more.
	r.host.drop("ContainerIDFile", "ConsoleSize", "KernelMemory", "KernelMemoryTCP")
	r.out.body = object(maps.Clone(r.config))
	r.out.body["HostConfig"] = r.host
}

// generatedHostname reports whether the engine made the host name of the container's id.
func (r *recreation) generatedHostname() bool {
	name := r.config.text("Hostname")
	return name != "" && strings.HasPrefix(r.c.ID, name) && len(name) == 12
}

// placeParts leaves parts of the configuration out.
func (r *recreation) placeParts() {
	fields := map[snapshot.Part][]string{
		snapshot.PartCPU:       {"CpusetCpus", "CpusetMems", "NanoCpus"},
		snapshot.PartMemory:    {"Memory", "MemoryReservation", "MemorySwap", "MemorySwappiness"},
		snapshot.PartRuntime:   {"Runtime"},
		snapshot.PartLogDriver: {"LogConfig"},
		snapshot.PartCgroup:    {"CgroupParent", "CgroupnsMode"},
		snapshot.PartRestart:   {"RestartPolicy"},
		snapshot.PartDevices: {
			"Devices", "DeviceCgroupRules", "DeviceRequests", "BlkioWeightDevice", "BlkioDeviceReadBps",
			"BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps",
		},
	}
	for _, part := range r.p.Without {
		r.host.drop(fields[part]...)
	}
}

// placeReferences rewrites the names of other containers.
func (r *recreation) placeReferences() {
	for _, key := range []string{"NetworkMode", "PidMode", "IpcMode", "Cgroup"} {
		if ref, shared := strings.CutPrefix(r.host.text(key), "container:"); shared {
			r.host[key] = "container:" + place(r.p.Containers, ref)
		}
	}
	if strings.HasPrefix(r.host.text("NetworkMode"), "container:") {
		// The engine filled these in from the image and the other container, and refuses them.
		r.out.body.drop("Hostname", "ExposedPorts", "MacAddress")
		r.host.drop("PortBindings")
	}
	var links []string
	for _, link := range r.host.texts("Links") { // "/db:/web/alias" to "db:alias"
		source, alias, _ := strings.Cut(link, ":")
		alias = alias[strings.LastIndex(alias, "/")+1:]
		links = append(links, place(r.p.Containers, strings.TrimPrefix(source, "/"))+":"+alias)
	}
	r.host["Links"] = links
}

// placeMounts rewrites sources, and turns what the engine made up or took from another container
// into binds that name it: anonymous volumes, which a new container would get anew and empty, and
// volumes-from, which 20.10 refuses for some sources and whose source may not be restored with it.
func (r *recreation) placeMounts() {
	configured := map[string]bool{}
	for _, m := range r.host.children("Mounts") {
		configured[m.text("Target")] = true
		r.placeMount(m)
	}
	for dest := range r.host.child("Tmpfs") {
		configured[dest] = true
	}
	var binds []string
	for _, bind := range r.host.texts("Binds") {
		source, rest, found := strings.Cut(bind, ":")
		if !found { // "-v /path" of old clients: an anonymous volume, which is among those shown
			continue
		}
		dest, _, _ := strings.Cut(rest, ":")
		configured[dest] = true
		binds = append(binds, r.source(source)+":"+rest)
	}
	for _, m := range r.shown {
		if !configured[m.Destination] && (m.Type == "volume" || m.Type == "bind") {
			binds = append(binds, r.bind(m))
		}
	}
	r.host["Binds"] = binds
	r.host.drop("VolumesFrom")
}

// source places the source of a bind: a host path or the name of a volume.
func (r *recreation) source(source string) string {
	if strings.HasPrefix(source, "/") {
		return place(r.p.Binds, source)
	}
	return place(r.p.Volumes, source)
}

// placeMount rewrites one of HostConfig.Mounts.
func (r *recreation) placeMount(m object) {
	switch m.text("Type") {
	case "bind":
		m["Source"] = place(r.p.Binds, m.text("Source"))
	case "volume":
		source := m.text("Source")
		for _, shown := range r.shown {
			if source == "" && shown.Destination == m.text("Target") {
				source = shown.Name // an anonymous volume
			}
		}
		m["Source"] = place(r.p.Volumes, source)
	}
	// Engines from 23 on refuse options of another type, which 20.10 let pass.
	for kind, key := range map[string]string{"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions"} {
		if m.text("Type") != kind {
			m.drop(key)
		}
	}
}

// bind writes a mount as an entry of HostConfig.Binds.
func (r *recreation) bind(m mountRow) string {
	bind := r.source(cmp.Or(m.Name, m.Source)) + ":" + m.Destination
	var options []string
	if !m.RW {
		options = append(options, "ro")
	}
	if m.Type == "bind" && m.Propagation != "" && m.Propagation != "rprivate" {
		options = append(options, m.Propagation)
	}
	if len(options) > 0 {
		bind += ":" + strings.Join(options, ",")
	}
	return bind
}

// placePorts moves published ports.
func (r *recreation) placePorts() {
	ports := r.host.child("PortBindings")
	for port := range ports {
		_, proto, _ := strings.Cut(port, "/")
		var kept []any
		for _, binding := range ports.children(port) {
			if r.placePort(binding, cmp.Or(proto, "tcp")) {
				kept = append(kept, binding)
			}
		}
		if ports[port] = kept; len(kept) == 0 {
			delete(ports, port)
		}
	}
}

// placePort moves one published port, and reports whether it stays published.
func (r *recreation) placePort(binding object, proto string) bool {
	if r.without(snapshot.PartHostIPs) {
		binding["HostIp"] = ""
	}
	if binding.text("HostPort") == "0" {
		binding["HostPort"] = ""
	}
	to, moved := r.p.Ports[binding.text("HostPort")+"/"+proto]
	if !moved {
		return true
	}
	if at := strings.LastIndex(to, ":"); at >= 0 {
		binding["HostIp"], to = strings.Trim(to[:at], "[]"), to[at+1:]
	}
	binding["HostPort"] = to
	return to != snapshot.Unpublished
}

// placeNetworks says which networks to join, and how.
func (r *recreation) placeNetworks() {
	mac := r.out.body.text("MacAddress")
	r.out.body.drop("MacAddress")
	mode := r.mainNetwork()
	if mode == "" { // host, none or another container's
		return
	}
	endpoints := object{}
	for _, name := range slices.Sorted(maps.Keys(r.nets)) {
		settings := r.endpoint(r.nets.child(name))
		if name == mode && mac != "" && !r.without(snapshot.PartAddresses) {
			r.placeMAC(settings, mac)
		}
		if name == mode && slices.Contains(predefined, name) && len(settings) == 0 {
			continue // nothing but the default, which NetworkMode says
		}
		endpoints[place(r.p.Networks, name)] = settings
	}
	main := place(r.p.Networks, mode)
	if r.host.text("NetworkMode") != "default" {
		r.host["NetworkMode"] = main
	}
	if versions.LessThan(r.version, "1.44") {
		r.out.connects = map[string]object{}
		for name := range endpoints {
			if name != main {
				r.out.connects[name] = endpoints.child(name)
				delete(endpoints, name)
			}
		}
	}
	if len(endpoints) > 0 {
		r.out.body["NetworkingConfig"] = object{"EndpointsConfig": endpoints}
	}
}

// placeMAC asks for a MAC address where this version of the API has it.
func (r *recreation) placeMAC(settings object, mac string) {
	if versions.LessThan(r.version, "1.44") {
		r.out.body["MacAddress"] = mac
		return
	}
	settings["MacAddress"] = mac
}

// mainNetwork returns the name of the network that NetworkMode means, or empty if it means none. A
// mode may also be a network's id; and a container may have left that network for others.
func (r *recreation) mainNetwork() string {
	mode := r.host.text("NetworkMode")
	switch {
	case mode == "host", mode == "none", strings.HasPrefix(mode, "container:"):
		return ""
	case mode == "default", mode == "":
		mode = "bridge"
	}
	names := slices.Sorted(maps.Keys(r.nets))
	for _, name := range names {
		if id := r.nets.child(name).text("NetworkID"); name == mode || id != "" && id == mode {
			return name
		}
	}
	if len(names) == 0 {
		return mode
	}
	r.host["NetworkMode"] = names[0]
	return names[0]
}

// endpoint keeps what the user said of a network and drops what the engine made of it.
func (r *recreation) endpoint(shown object) object {
	kept := object{}
	for _, key := range []string{"IPAMConfig", "DriverOpts", "GwPriority"} {
		if value, found := shown[key]; found && !empty(value) {
			kept[key] = value
		}
	}
	if r.without(snapshot.PartAddresses) {
		kept.drop("IPAMConfig")
	}
	if _, found := kept["GwPriority"]; found && versions.LessThan(r.version, "1.48") {
		kept.drop("GwPriority")
		r.out.warnings = append(r.out.warnings, "the engine knows no priorities of gateways: it may choose another one")
	}
	var links []string
	for _, link := range shown.texts("Links") {
		source, alias, _ := strings.Cut(link, ":")
		links = append(links, place(r.p.Containers, source)+":"+alias)
	}
	if len(links) > 0 {
		kept["Links"] = links
	}
	// Engines before API 1.45 list the names that they add by themselves.
	own := []string{r.config.text("Hostname"), r.c.ID[:min(12, len(r.c.ID))]}
	aliases := slices.DeleteFunc(shown.texts("Aliases"), func(alias string) bool { return slices.Contains(own, alias) })
	if len(aliases) > 0 {
		kept["Aliases"] = aliases
	}
	return kept
}

// empty reports whether a JSON value says nothing: null, zero, or an object or list of nothing.
func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	}
	return fmt.Sprint(value) == "0"
}
