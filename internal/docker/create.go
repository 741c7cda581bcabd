package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// CreateVolume creates v under a name, with labels added to its own. It is snapshot.ErrExists if
// there is a volume of that name.
func (e *Engine) CreateVolume(ctx context.Context, v snapshot.Volume, name string, labels map[string]string) error {
	_, err := e.get(ctx, "/volumes/"+url.PathEscape(name), nil)
	err = fail(err, nil, "create volume %s", name)
	if err == nil {
		return fmt.Errorf("create volume %s: %w", name, snapshot.ErrExists)
	}
	if !errors.Is(err, snapshot.ErrMissing) {
		return err
	}
	_, err = e.post(ctx, "/volumes/create", nil, object{
		"Name": name, "Driver": v.Driver, "DriverOpts": v.Options, "Labels": merged(v.Labels, labels),
	})
	return fail(err, snapshot.ErrExists, "create volume %s", name)
}

// merged returns both maps in a new one; the second wins.
func merged(a, b map[string]string) map[string]string {
	m := map[string]string{}
	maps.Copy(m, a)
	maps.Copy(m, b)
	return m
}

// VolumeMountpoint returns the directory of a volume on the engine's host.
func (e *Engine) VolumeMountpoint(ctx context.Context, name string) (string, error) {
	v, err := e.volume(ctx, name)
	return v.Mountpoint, err
}

// RemoveVolume removes a volume that no container uses. One that is not there is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	_, err := e.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
	return unlessMissing(fail(err, snapshot.ErrState, "remove volume %s", name))
}

// CreateNetwork creates n under a name, with labels added to its own. Where its subnets are taken
// it gets others, which a warning tells. It is snapshot.ErrExists if there is a network of that
// name.
func (e *Engine) CreateNetwork(ctx context.Context, n snapshot.Network, name string, labels map[string]string) (id string, warnings []string, err error) {
	taken, err := e.networkIDs(ctx) // 20.10 would make a second one of the same name
	if err != nil {
		return "", nil, err
	}
	if taken[name] != "" {
		return "", nil, fmt.Errorf("create network %s: %w", name, snapshot.ErrExists)
	}
	body, err := networkRequest(n, name, labels)
	if err != nil {
		return "", nil, err
	}
	// What the engine once picked looks as if it had been asked for, so subnets are asked for first.
	subnets := body.child("IPAM").children("Config")
	for _, attempt := range subnetAttempts(subnets) {
		body.child("IPAM")["Config"] = attempt
		id, warnings, err = e.createNetwork(ctx, body)
		if err == nil && len(attempt) < len(subnets) {
			warnings = append(warnings, fmt.Sprintf("network %s: has other subnets, for those of the snapshot are taken here: %s", name, subnetNames(subnets)))
		}
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "overlap") {
			break
		}
	}
	return id, warnings, fail(err, snapshot.ErrExists, "create network %s", name)
}

// networkRequest rewrites the inspection of a network into a request to create it.
func networkRequest(n snapshot.Network, name string, labels map[string]string) (object, error) {
	shown, err := parseObject(n.Inspect)
	if err != nil {
		return nil, fmt.Errorf("inspection of network %s: %w", n.Name, err)
	}
	body := object{"Name": name, "CheckDuplicate": true}
	for _, key := range []string{"Driver", "EnableIPv4", "EnableIPv6", "Internal", "Attachable", "ConfigOnly", "Options", "Labels"} {
		if value, found := shown[key]; found {
			body[key] = value
		}
	}
	if from := shown.child("ConfigFrom"); from.text("Network") != "" {
		body["ConfigFrom"] = from
	}
	if shown.text("Scope") == "swarm" {
		body["Scope"] = "swarm"
	}
	for key, value := range labels {
		body.child("Labels")[key] = value
	}
	body["IPAM"] = shown.child("IPAM")
	for _, subnet := range body.child("IPAM").children("Config") {
		if gateway, _, old := strings.Cut(subnet.text("Gateway"), "/"); old { // as engines before 1.13 wrote it
			subnet["Gateway"] = gateway
		}
	}
	return body, nil
}

// subnetAttempts lists what to ask for: all subnets, only those of IPv6, none.
func subnetAttempts(subnets []object) [][]object {
	attempts := [][]object{subnets}
	v6 := slices.DeleteFunc(slices.Clone(subnets), func(s object) bool { return !strings.Contains(s.text("Subnet"), ":") })
	if len(v6) > 0 && len(v6) < len(subnets) {
		attempts = append(attempts, v6)
	}
	if len(subnets) > 0 {
		attempts = append(attempts, nil)
	}
	return attempts
}

func subnetNames(subnets []object) string {
	var names []string
	for _, s := range subnets {
		names = append(names, s.text("Subnet"))
	}
	return strings.Join(names, ", ")
}

func (e *Engine) createNetwork(ctx context.Context, body object) (string, []string, error) {
	raw, err := e.post(ctx, "/networks/create", nil, body)
	if err != nil {
		return "", nil, err
	}
	var made struct{ ID, Warning string }
	if err := json.Unmarshal(raw, &made); err != nil {
		return "", nil, err
	}
	if made.Warning != "" {
		return made.ID, []string{made.Warning}, nil
	}
	return made.ID, nil, nil
}

// RemoveNetwork removes a network that no container uses. One that is not there is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	_, err := e.api.NetworkRemove(ctx, id, client.NetworkRemoveOptions{})
	return unlessMissing(fail(err, snapshot.ErrState, "remove network %s", id))
}

// CreateContainer creates c again, from everything its inspection said, where and how p says. It
// does not start it. Networks, volumes and the containers that it refers to must be there. The
// warnings are the engine's, and what of the configuration had to be left out. It is
// snapshot.ErrExists if the name is taken, and nothing is left behind after an error.
func (e *Engine) CreateContainer(ctx context.Context, c snapshot.Container, p snapshot.Placement) (id string, warnings []string, err error) {
	plan, err := recreate(c, p, e.facts.APIVersion)
	if err != nil {
		return "", nil, err
	}
	raw, err := e.post(ctx, "/containers/create", url.Values{"name": {p.Name}}, plan.body)
	if err != nil {
		return "", nil, fail(err, snapshot.ErrExists, "create container %s", p.Name)
	}
	var made struct {
		ID       string
		Warnings []string
	}
	if err := json.Unmarshal(raw, &made); err != nil {
		return "", nil, fmt.Errorf("create container %s: %w", p.Name, err)
	}
	for _, network := range slices.Sorted(maps.Keys(plan.connects)) {
		_, err := e.post(ctx, "/networks/"+url.PathEscape(network)+"/connect", nil,
			object{"Container": made.ID, "EndpointConfig": plan.connects[network]})
		if err != nil {
			err = fail(err, nil, "create container %s: connect network %s", p.Name, network)
			return "", nil, errors.Join(err, e.RemoveContainer(context.WithoutCancel(ctx), made.ID))
		}
	}
	return made.ID, append(made.Warnings, plan.warnings...), nil
}
