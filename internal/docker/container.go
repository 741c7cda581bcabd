package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client/pkg/versions"
	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// parallel bounds the questions to an engine under way at once.
const parallel = 8

// inspection is what this package reads of GET /containers/ID/json.
type inspection struct {
	ID    string `json:"Id"`
	Name  string
	Image string
	State struct {
		Status, Error string
		Pid, ExitCode int
		StartedAt     time.Time
		Health        *health
	}
	Config struct {
		Image       string
		Hostname    string
		Tty         bool
		Labels      map[string]string
		Healthcheck *struct {
			Retries                 int
			Interval, StartInterval time.Duration
		}
	}
	HostConfig      hostConfig
	Mounts          []mountPoint
	NetworkSettings struct {
		Networks map[string]struct {
			NetworkID string
			Links     []string
		}
	}
	GraphDriver             *struct{ Data map[string]string }
	ImageManifestDescriptor *struct {
		Digest string `json:"digest"`
	}
}

type hostConfig struct {
	Binds         []string
	Mounts        []struct{ Type, Source, Target string }
	Tmpfs         map[string]string
	NetworkMode   string
	PidMode       string
	IpcMode       string
	UsernsMode    string
	Links         []string
	VolumesFrom   []string
	PortBindings  map[string][]struct{ HostIP, HostPort string }
	RestartPolicy struct {
		Name              string
		MaximumRetryCount int
	}
}

type mountPoint struct {
	Type, Name, Source, Destination string
	RW                              bool
}

// Labels of Compose that this package reads.
const (
	composeProject = "com.docker.compose.project"
	composeService = "com.docker.compose.service"
	composeDepends = "com.docker.compose.depends_on"
	composeImage   = "com.docker.compose.image"
)

// Containers describes every container of the engine, running or not, in order of names. One that
// vanishes meanwhile is left out, as are helpers. Changes and ImageKey are not filled in: see Surroundings.
func (e *Engine) Containers(ctx context.Context) ([]snapshot.Container, error) {
	raw, err := e.get(ctx, "/containers/json", url.Values{"all": {"1"}})
	if err != nil {
		return nil, fail(err, nil, "list containers")
	}
	var list []struct{ ID string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	inspected := make([]json.RawMessage, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range list {
		group.Go(func() (err error) {
			inspected[i], err = e.inspectRaw(ctx, list[i].ID)
			if errors.Is(err, snapshot.ErrMissing) {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return describeAll(slices.DeleteFunc(inspected, func(raw json.RawMessage) bool { return raw == nil }))
}

// inspectRaw asks for one container. From API 1.52 on the answer no longer tells a MAC address that
// the user asked for from one that the engine made up; the older API does, in Config.MacAddress,
// which is put back.
func (e *Engine) inspectRaw(ctx context.Context, id string) (json.RawMessage, error) {
	raw, err := e.get(ctx, "/containers/"+id+"/json", nil)
	if err != nil || versions.LessThan(e.facts.APIVersion, "1.52") {
		return bytes.TrimSpace(raw), fail(err, nil, "inspect container %.12s", id)
	}
	older, err := e.callVersion(ctx, "1.51", http.MethodGet, "/containers/"+id+"/json", nil, nil)
	if err != nil {
		return nil, fail(err, nil, "inspect container %.12s", id)
	}
	var asked struct{ Config struct{ MacAddress string } }
	if err := json.Unmarshal(older, &asked); err != nil {
		return nil, fmt.Errorf("inspect container %.12s: %w", id, err)
	}
	if asked.Config.MacAddress == "" {
		return bytes.TrimSpace(raw), nil
	}
	whole, err := parseObject(raw)
	if err != nil {
		return nil, fmt.Errorf("inspect container %.12s: %w", id, err)
	}
	whole.child("Config")["MacAddress"] = asked.Config.MacAddress
	return json.Marshal(whole)
}

// describeAll describes containers from their inspections.
func describeAll(inspected []json.RawMessage) ([]snapshot.Container, error) {
	all := make([]inspection, len(inspected))
	for i, raw := range inspected {
		if err := json.Unmarshal(raw, &all[i]); err != nil {
			return nil, fmt.Errorf("inspect container: %w", err)
		}
	}
	known := newDirectory(all)
	var containers []snapshot.Container
	for i, in := range all {
		if in.Config.Labels[helperLabel] != "" {
			continue
		}
		c := in.describe()
		c.Inspect, c.DependsOn = inspected[i], known.dependencies(in)
		containers = append(containers, c)
	}
	slices.SortFunc(containers, func(a, b snapshot.Container) int { return cmp.Compare(a.Name, b.Name) })
	return containers, nil
}

// name is the container's name without the slash that the engine puts before it.
func (in inspection) name() string { return strings.TrimPrefix(in.Name, "/") }

// health is what an engine knows of a container's health check.
type health struct {
	Status        string
	FailingStreak int
	Log           []struct {
		ExitCode int
		End      time.Time
	}
}

// What engines do where a container does not say: how many checks in a row have to fail, and the time between two.
const (
	defaultRetries  = 3
	defaultInterval = 30 * time.Second
)

// health is empty for a container without a health check. Engines call a container unhealthy from a pause until the
// first check after it (moby's health.go: CloseMonitorChannel), whatever the checks said; then those count.
func (in inspection) health() string {
	h := in.State.Health
	if h == nil || h.Status == "none" {
		return ""
	}
	retries := defaultRetries
	if check := in.Config.Healthcheck; check != nil && check.Retries > 0 {
		retries = check.Retries
	}
	if h.Status != "unhealthy" || h.FailingStreak >= retries {
		return h.Status
	}
	for _, check := range h.Log {
		if check.ExitCode == 0 {
			return "healthy"
		}
	}
	return "starting"
}

// nextCheck is when the health check runs next: an interval after the end of the last one, or after the start.
func (in inspection) nextCheck() time.Time {
	h, check := in.State.Health, in.Config.Healthcheck
	if h == nil || h.Status == "none" || check == nil || in.State.Status != "running" {
		return time.Time{}
	}
	interval := cmp.Or(check.Interval, defaultInterval)
	if h.Status == "starting" && check.StartInterval > 0 {
		interval = check.StartInterval
	}
	last := in.State.StartedAt
	if n := len(h.Log); n > 0 {
		last = h.Log[n-1].End
	}
	return last.Add(interval)
}

// describe says everything of a container but what it depends on.
func (in inspection) describe() snapshot.Container {
	return snapshot.Container{
		ID:       in.ID,
		Name:     in.name(),
		Service:  in.Config.Labels[composeService],
		Image:    in.Config.Image,
		ImageID:  in.Image,
		State:    in.State.Status,
		Health:   in.health(),
		Pid:      in.State.Pid,
		Labels:   in.Config.Labels,
		Mounts:   in.mounts(),
		Networks: slices.Sorted(maps.Keys(in.NetworkSettings.Networks)),
		Ports:    in.ports(),
		Restart:  cmp.Or(in.HostConfig.RestartPolicy.Name, "no"),
	}
}

func (in inspection) mounts() []snapshot.Mount {
	var mounts []snapshot.Mount
	for _, m := range in.Mounts {
		mount := snapshot.Mount{Type: m.Type, Name: m.Name, Destination: m.Destination, ReadOnly: !m.RW}
		switch m.Type {
		case "bind":
			mount.Source = m.Source
		case "volume":
			mount.Anonymous = !in.HostConfig.names(m.Name)
		}
		mounts = append(mounts, mount)
	}
	for dest := range in.HostConfig.Tmpfs { // the engine does not list these as mounts
		mounts = append(mounts, snapshot.Mount{Type: "tmpfs", Destination: dest})
	}
	slices.SortFunc(mounts, func(a, b snapshot.Mount) int { return cmp.Compare(a.Destination, b.Destination) })
	return mounts
}

// names reports whether the configuration asks for a volume by its name. One that it does not name
// is anonymous (asked for by -v /path, by --mount without a source, or by the image) or comes from
// another container.
func (hc hostConfig) names(volume string) bool {
	for _, bind := range hc.Binds {
		if source, _, found := strings.Cut(bind, ":"); found && source == volume {
			return true
		}
	}
	for _, m := range hc.Mounts {
		if m.Type == "volume" && m.Source == volume {
			return true
		}
	}
	return false
}

func (in inspection) ports() []snapshot.Port {
	var ports []snapshot.Port
	for port, bindings := range in.HostConfig.PortBindings {
		for _, b := range bindings {
			hostPort := b.HostPort
			if hostPort == "0" {
				hostPort = ""
			}
			ports = append(ports, snapshot.Port{Container: port, HostIP: b.HostIP, HostPort: hostPort})
		}
	}
	slices.SortFunc(ports, func(a, b snapshot.Port) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
	return ports
}
