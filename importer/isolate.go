package importer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// isolator rewrites a snapshot so that it can be booted beside anything, and reaches nothing: every network becomes
// an internal one, no port is published, no device, socket or directory of the host is mounted, what shared a
// namespace of the host or of a container outside gets one of its own, no label tells others about the containers, and no policy starts them
// again. What is there to be read (volumes, binds that the snapshot holds) is restored under throwaway names.
type isolator struct {
	name   string            // of the drill: what Options.As will be
	dir    string            // for binds; empty: they are left out, for the engine's host cannot be reached
	labels map[string]string // of all that is made
	sys    *snapshot.System  // as it is in the snapshot
	out    snapshot.System
	binds  map[string]string // host paths, old to new
	notes  []snapshot.Problem
}

// isolate returns the rewritten snapshot, where its binds go, and what is other than in a real restore.
func isolate(snap *snapshot.Snapshot, name, dir string, labels map[string]string) (*snapshot.Snapshot, map[string]string, []snapshot.Problem, error) {
	i := &isolator{name: name, dir: dir, labels: labels, sys: &snap.System, out: snap.System, binds: map[string]string{}}
	out := &snapshot.Snapshot{Summary: snap.Summary}
	out.Summary.System = name // images are named after it
	i.images()
	i.volumes()
	i.bindMounts()
	networks := map[string]bool{}
	i.out.Containers = nil
	for _, c := range snap.System.Containers {
		c, err := i.container(c)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("inspection of container %s: %w", c.Name, err)
		}
		for _, n := range c.Networks {
			networks[n] = true
		}
		i.out.Containers = append(i.out.Containers, c)
	}
	if err := i.networks(networks); err != nil {
		return nil, nil, nil, err
	}
	out.System = i.out
	return out, i.binds, i.notes, nil
}

func (i *isolator) note(where, format string, args ...any) {
	i.notes = append(i.notes, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// images takes the images' own references away: in a drill none of them is to be moved.
func (i *isolator) images() {
	i.out.Images = slices.Clone(i.sys.Images)
	for k := range i.out.Images {
		i.out.Images[k].Tags = nil
	}
}

// volumes makes all volumes plain directories of the engine; also those that the engine would make by itself.
func (i *isolator) volumes() {
	i.out.Volumes = nil
	for _, v := range i.sys.Volumes {
		if !plainVolume(v) {
			i.note("volume "+v.Name, "is a plain one: its driver or its options could reach what the system uses")
		}
		v.Driver, v.Options, v.Labels = "local", nil, i.labels
		i.out.Volumes = append(i.out.Volumes, v)
	}
	for _, c := range i.sys.Containers {
		for _, m := range c.Mounts {
			if m.Type == "volume" && !slices.ContainsFunc(i.out.Volumes, func(v snapshot.Volume) bool { return v.Name == m.Name }) {
				i.out.Volumes = append(i.out.Volumes, snapshot.Volume{Name: m.Name, Driver: "local", Labels: i.labels, Anonymous: m.Anonymous})
			}
		}
	}
}

// bindMounts gives each bind that the snapshot holds a place of its own.
func (i *isolator) bindMounts() {
	i.out.Binds = nil
	for _, b := range i.sys.Binds {
		switch {
		case b.Content == nil:
			i.note("bind "+b.Source, "is not mounted%s", because(b.Special))
		case i.dir == "":
			i.note("bind "+b.Source, "is not mounted: the engine's host cannot be reached from here")
		default:
			i.binds[b.Source] = filepath.Join(i.dir, strconv.Itoa(len(i.binds)), filepath.Base(b.Source))
			i.out.Binds = append(i.out.Binds, b)
		}
	}
}

// ownNetwork is the network, in the words of the snapshot, of containers that had a predefined one.
const ownNetwork = "isolated"

func (i *isolator) networks(used map[string]bool) error {
	i.out.Networks = nil
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if slices.Contains(predefined, name) {
			continue
		}
		inspect, err := json.Marshal(map[string]any{"Driver": "bridge", "Internal": true, "Labels": i.labels})
		if err != nil {
			return err
		}
		i.out.Networks = append(i.out.Networks, snapshot.Network{Name: name, Driver: "bridge", Inspect: inspect})
	}
	return nil
}

// fields is a JSON object.
type fields = map[string]any

// inner returns the object in a field, which it becomes part of f if there was none.
func inner(f fields, key string) fields {
	if found, ok := f[key].(fields); ok {
		return found
	}
	made := fields{}
	f[key] = made
	return made
}

func text(f fields, key string) string {
	s, _ := f[key].(string)
	return s
}

func (i *isolator) container(c snapshot.Container) (snapshot.Container, error) {
	var whole fields
	decoder := json.NewDecoder(bytes.NewReader(c.Inspect))
	decoder.UseNumber() // numbers keep their digits
	if err := decoder.Decode(&whole); err != nil {
		return c, err
	}
	config, host := inner(whole, "Config"), inner(whole, "HostConfig")
	c.Labels, config["Labels"] = i.labels, i.labels
	delete(config, "MacAddress")
	c.Ports, c.Restart = nil, ""
	i.dropHost(c.Name, host)
	i.namespaces(c.Name, host)
	i.strangersNetwork(c.Name, config, host)
	i.join(&c, whole, host)
	i.mount(&c, whole, host)
	raw, err := json.Marshal(whole)
	c.Inspect = raw
	return c, err
}

// dropHost leaves out what reaches the host or others.
func (i *isolator) dropHost(name string, host fields) {
	told := map[string]string{
		"Devices": "devices of the host", "DeviceRequests": "devices of the host", "DeviceCgroupRules": "rules for devices",
		"Privileged": "all privileges", "CgroupParent": "a parent cgroup",
	}
	for _, key := range slices.Sorted(maps.Keys(told)) {
		switch v := host[key].(type) {
		case bool:
			if !v {
				continue
			}
		case string:
			if v == "" {
				continue
			}
		case []any:
			if len(v) == 0 {
				continue
			}
		default:
			continue
		}
		i.note("container "+name, "has not got %s, which it has at home", told[key])
	}
	for _, key := range []string{
		"Devices", "DeviceRequests", "DeviceCgroupRules", "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps",
		"BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "Privileged", "CgroupParent", "CgroupnsMode", "Cgroup", "UsernsMode", "LogConfig", "VolumeDriver",
		"PortBindings", "PublishAllPorts", "RestartPolicy", "AutoRemove",
	} {
		delete(host, key)
	}
	caps, _ := host["CapAdd"].([]any)
	kept := slices.DeleteFunc(slices.Clone(caps), func(c any) bool {
		name, _ := c.(string)
		return slices.Contains(hostCapabilities, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
	})
	if len(kept) < len(caps) {
		i.note("container "+name, "has not got capabilities by which it could change the host")
		host["CapAdd"] = kept
	}
}

// hostCapabilities act on the host, whatever namespaces a container has.
var hostCapabilities = []string{
	"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "SYS_PTRACE", "MAC_ADMIN", "MAC_OVERRIDE", "SYSLOG", "BPF", "PERFMON", "WAKE_ALARM",
	"DAC_READ_SEARCH", "MKNOD", "LINUX_IMMUTABLE",
}

// namespaces gives a container its own where it had the host's, or those of a container that is not of the system.
func (i *isolator) namespaces(name string, host fields) {
	for _, key := range []string{"PidMode", "IpcMode", "UTSMode"} {
		mode := text(host, key)
		ref, shared := strings.CutPrefix(mode, "container:")
		switch own := i.member(ref); {
		case shared && own != nil:
			host[key] = "container:" + own.Name
			continue
		case shared:
			i.note("container "+name, "has a namespace of its own instead of that of container %s, which is not of the system (%s)", ref, key)
		case mode == "host":
			i.note("container "+name, "has a namespace of its own instead of the host's (%s)", key)
		case mode == "" || mode == "private" || mode == "shareable" || mode == "none":
			continue
		default: // one by its path, as some engines have it
			i.note("container "+name, "has a namespace of its own instead of %s (%s)", mode, key)
		}
		delete(host, key)
	}
}

// strangersNetwork takes a container out of the network namespace of one that is not of the system: it is somewhere
// else, or lives and reaches others.
func (i *isolator) strangersNetwork(name string, config, host fields) {
	ref, shared := strings.CutPrefix(text(host, "NetworkMode"), "container:")
	if !shared {
		return
	}
	if own := i.member(ref); own != nil {
		host["NetworkMode"] = "container:" + own.Name
		return
	}
	i.note("container "+name, "is in a network of its own instead of that of container %s, which is not of the system", ref)
	delete(host, "NetworkMode")
	delete(config, "Hostname") // the engine has these from the other
	delete(config, "Domainname")
}

// member returns the container of the system that is meant by a name, an id, or as much of an id as engines show;
// nil if it is another's.
func (i *isolator) member(ref string) *snapshot.Container {
	ref = strings.TrimPrefix(ref, "/")
	for _, meant := range []func(*snapshot.Container) bool{
		func(c *snapshot.Container) bool { return ref != "" && (c.ID == ref || c.Name == ref) },
		func(c *snapshot.Container) bool { return len(ref) >= 12 && strings.HasPrefix(c.ID, ref) },
	} {
		for k := range i.sys.Containers {
			if c := &i.sys.Containers[k]; meant(c) {
				return c
			}
		}
	}
	return nil
}

// join puts a container into internal networks only. It is found there by its name at home, too.
func (i *isolator) join(c *snapshot.Container, whole, host fields) {
	mode := text(host, "NetworkMode")
	if mode == "none" || strings.HasPrefix(mode, "container:") {
		return
	}
	links := oldLinks(host)
	delete(host, "Links")
	shown := inner(inner(whole, "NetworkSettings"), "Networks")
	joined := fields{}
	for name, settings := range shown {
		endpoint, _ := settings.(fields)
		aliases, _ := endpoint["Aliases"].([]any)
		kept := fields{"Aliases": append(slices.Clone(aliases), c.Name), "NetworkID": endpoint["NetworkID"]}
		if endpoint["Links"] != nil {
			kept["Links"] = endpoint["Links"]
		}
		if slices.Contains(predefined, name) {
			name = ownNetwork
			kept["Links"] = links
		}
		joined[name] = kept
	}
	if len(joined) == 0 {
		joined[ownNetwork] = fields{"Aliases": []any{c.Name}}
	}
	switch mode {
	case "", "default", "bridge", "host":
		host["NetworkMode"] = ownNetwork
		if mode == "host" {
			i.note("container "+c.Name, "is in a network of its own instead of the host's")
		}
	}
	if _, ok := joined[text(host, "NetworkMode")]; !ok && slices.Contains([]string{"", "default", "bridge", "host"}, mode) {
		host["NetworkMode"] = slices.Sorted(maps.Keys(joined))[0]
	}
	inner(whole, "NetworkSettings")["Networks"] = joined
	c.Networks = slices.Sorted(maps.Keys(joined))
}

// oldLinks reads the links of the bridge network, "/db:/web/alias", as those of other networks are written.
func oldLinks(host fields) []any {
	var links []any
	list, _ := host["Links"].([]any)
	for _, l := range list {
		link, _ := l.(string)
		source, alias, _ := strings.Cut(link, ":")
		links = append(links, strings.TrimPrefix(source, "/")+":"+alias[strings.LastIndex(alias, "/")+1:])
	}
	return links
}

// mount leaves the mounts out that lead to the host.
func (i *isolator) mount(c *snapshot.Container, whole, host fields) {
	leads := func(source string) bool {
		_, restored := i.binds[source]
		return strings.HasPrefix(source, "/") && !restored
	}
	keep := func(list []any, drop func(fields) bool) []any {
		return slices.DeleteFunc(slices.Clone(list), func(m any) bool {
			f, ok := m.(fields)
			return ok && drop(f)
		})
	}
	mounts, _ := host["Mounts"].([]any)
	for _, m := range mounts {
		if f, ok := m.(fields); ok {
			delete(inner(f, "VolumeOptions"), "DriverConfig")
		}
	}
	strange := func(f fields) bool {
		kind := text(f, "Type")
		return kind == "bind" && leads(text(f, "Source")) || kind == "cluster" || kind == "npipe"
	}
	host["Mounts"] = keep(mounts, strange)
	shown, _ := whole["Mounts"].([]any)
	whole["Mounts"] = keep(shown, strange)
	binds, _ := host["Binds"].([]any)
	host["Binds"] = slices.DeleteFunc(slices.Clone(binds), func(b any) bool {
		bind, _ := b.(string)
		source, _, _ := strings.Cut(bind, ":")
		return leads(source)
	})
	c.Mounts = slices.DeleteFunc(slices.Clone(c.Mounts), func(m snapshot.Mount) bool { return m.Type == "bind" && leads(m.Source) })
}
