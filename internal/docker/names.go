package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Names lists what the engine has.
func (e *Engine) Names(ctx context.Context) (snapshot.Names, error) {
	var names snapshot.Names
	var containers []struct {
		ID, State string
		Names     []string
		Labels    map[string]string
		Ports     []struct {
			IP, Type   string
			PublicPort int
		}
	}
	if err := e.list(ctx, "/containers/json", url.Values{"all": {"1"}}, &containers); err != nil {
		return names, err
	}
	for _, c := range containers {
		name := ownName(c.Names)
		names.Containers = append(names.Containers, snapshot.Existing{Name: name, ID: c.ID, State: c.State, Labels: c.Labels})
		for _, p := range c.Ports {
			if p.PublicPort != 0 {
				names.Ports = append(names.Ports, snapshot.PortInUse{HostIP: p.IP, HostPort: p.PublicPort, Proto: p.Type, Container: name})
			}
		}
	}
	var volumes struct {
		Volumes []struct {
			Name   string
			Labels map[string]string
		}
	}
	if err := e.list(ctx, "/volumes", nil, &volumes); err != nil {
		return names, err
	}
	for _, v := range volumes.Volumes {
		names.Volumes = append(names.Volumes, snapshot.Existing{Name: v.Name, ID: v.Name, Labels: v.Labels})
	}
	var networks []struct {
		Name, ID string
		Labels   map[string]string
	}
	if err := e.list(ctx, "/networks", nil, &networks); err != nil {
		return names, err
	}
	for _, n := range networks {
		names.Networks = append(names.Networks, snapshot.Existing{Name: n.Name, ID: n.ID, Labels: n.Labels})
	}
	return names, nil
}

// list asks for a list and decodes it.
func (e *Engine) list(ctx context.Context, path string, query url.Values, into any) error {
	raw, err := e.get(ctx, path, query)
	if err != nil {
		return fail(err, nil, "list %s", strings.Trim(strings.TrimSuffix(path, "/json"), "/"))
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("list %s: %w", path, err)
	}
	return nil
}

// ownName picks a container's own name among those it is listed by: "/web/db" is what a container
// that links to it calls it.
func ownName(names []string) string {
	for _, name := range names {
		if own := strings.TrimPrefix(name, "/"); !strings.Contains(own, "/") {
			return own
		}
	}
	return ""
}

// Misfits says which parts of c this engine would refuse or be unable to start, as far as it tells:
// more processors than it has, an unknown runtime or log driver, devices that may not be there.
func (e *Engine) Misfits(c snapshot.Container) []snapshot.Misfit {
	var wants struct {
		HostConfig struct {
			CpusetCpus     string
			NanoCpus       int64
			Runtime        string
			CgroupParent   string
			LogConfig      struct{ Type string }
			Devices        []struct{ PathOnHost string }
			DeviceRequests []struct{ Driver string }
		}
	}
	if err := json.Unmarshal(c.Inspect, &wants); err != nil {
		return nil // CreateContainer says so
	}
	var misfits []snapshot.Misfit
	add := func(part snapshot.Part, format string, args ...any) {
		misfits = append(misfits, snapshot.Misfit{Part: part, Why: fmt.Sprintf(format, args...)})
	}
	hc, has := wants.HostConfig, e.facts
	if cpus := float64(hc.NanoCpus) / 1e9; cpus > float64(has.NCPU) {
		add(snapshot.PartCPU, "it may use %g processors, there are %d", cpus, has.NCPU)
	} else if highest := highestCPU(hc.CpusetCpus); highest >= has.NCPU {
		add(snapshot.PartCPU, "it is bound to processor %d, there are %d", highest, has.NCPU)
	}
	if hc.Runtime != "" && !slices.Contains(has.Runtimes, hc.Runtime) {
		add(snapshot.PartRuntime, "runtime %s is not known there", hc.Runtime)
	}
	if log := hc.LogConfig.Type; log != "" && log != "none" && !slices.Contains(has.LogDrivers, log) {
		add(snapshot.PartLogDriver, "log driver %s is not known there", log)
	}
	if slice := strings.HasSuffix(hc.CgroupParent, ".slice"); hc.CgroupParent != "" && slice != (e.info.CgroupDriver == "systemd") {
		add(snapshot.PartCgroup, "parent cgroup %s does not suit the %s driver", hc.CgroupParent, e.info.CgroupDriver)
	}
	for _, d := range hc.Devices {
		add(snapshot.PartDevices, "device %s must be there", d.PathOnHost)
	}
	for _, d := range hc.DeviceRequests {
		add(snapshot.PartDevices, "devices of driver %q must be there", d.Driver)
	}
	return misfits
}

// highestCPU returns the highest processor of a list like "0-2,5", -1 of an empty or odd one.
func highestCPU(list string) int {
	highest := -1
	for part := range strings.SplitSeq(list, ",") {
		_, last, found := strings.Cut(part, "-")
		if !found {
			last = part
		}
		if cpu, err := strconv.Atoi(strings.TrimSpace(last)); err == nil {
			highest = max(highest, cpu)
		}
	}
	return highest
}
