package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Surroundings describes what cs use: a System with Containers (cs with ImageKey filled in),
// Images, Volumes, Binds and Networks, and in Problems what could not be described. Of a bind only
// the source is told.
func (e *Engine) Surroundings(ctx context.Context, cs []snapshot.Container) (*snapshot.System, error) {
	s := &snapshot.System{Containers: slices.Clone(cs)}
	steps := []func(context.Context, *snapshot.System) error{e.addImages, e.addVolumes, e.addNetworks}
	for _, step := range steps {
		if err := step(ctx, s); err != nil {
			return nil, err
		}
	}
	sources := map[string]bool{}
	for _, c := range cs {
		for _, m := range c.Mounts {
			if m.Type == "bind" {
				sources[m.Source] = true
			}
		}
	}
	for _, source := range slices.Sorted(maps.Keys(sources)) {
		s.Binds = append(s.Binds, snapshot.Bind{Source: source})
	}
	return s, nil
}

// askEach asks for every key in parallel. It returns the answers and the failures, both in the order
// of the keys; an answer with a failure is nil. An error means that there is no point in the rest.
func askEach[K, T any](ctx context.Context, keys []K, ask func(context.Context, K) (T, error)) ([]*T, []error, error) {
	answers := make([]*T, len(keys))
	failures := make([]error, len(keys))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, key := range keys {
		group.Go(func() error {
			answer, err := ask(ctx, key)
			if err == nil {
				answers[i] = &answer
				return nil
			}
			failures[i] = err
			if errors.Is(err, ErrDown) {
				return err
			}
			return ctx.Err()
		})
	}
	return answers, failures, group.Wait()
}

// addProblems notes what could not be described. What maps a key to the object it stands for.
func addProblems[K any](s *snapshot.System, keys []K, failures []error, what func(K) string) {
	for i, err := range failures {
		if err != nil {
			s.Problems = append(s.Problems, snapshot.Problem{Where: what(keys[i]), What: err.Error()})
		}
	}
}

// addVolumes describes the volumes that the containers mount.
func (e *Engine) addVolumes(ctx context.Context, s *snapshot.System) error {
	anonymous := map[string]bool{} // of every volume, whether no container names it
	for _, c := range s.Containers {
		for _, m := range c.Mounts {
			if m.Type == "volume" {
				before, seen := anonymous[m.Name]
				anonymous[m.Name] = m.Anonymous && (before || !seen)
			}
		}
	}
	names := slices.Sorted(maps.Keys(anonymous))
	found, failures, err := askEach(ctx, names, e.volume)
	addProblems(s, names, failures, func(name string) string { return "volume " + name })
	for _, v := range found {
		if v != nil {
			v.Anonymous = v.Anonymous || anonymous[v.Name]
			s.Volumes = append(s.Volumes, *v)
		}
	}
	return err
}

// volume describes one volume. Engines from 24 on label anonymous ones.
func (e *Engine) volume(ctx context.Context, name string) (snapshot.Volume, error) {
	raw, err := e.get(ctx, "/volumes/"+url.PathEscape(name), nil)
	if err != nil {
		return snapshot.Volume{}, fail(err, nil, "inspect volume %s", name)
	}
	if raw, err = unlabelled(raw); err != nil {
		return snapshot.Volume{}, fmt.Errorf("inspect volume %s: %w", name, err)
	}
	var v struct {
		Name, Driver, Mountpoint string
		Options, Labels          map[string]string
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return snapshot.Volume{}, fmt.Errorf("inspect volume %s: %w", name, err)
	}
	_, anonymous := v.Labels["com.docker.volume.anonymous"]
	return snapshot.Volume{
		Name: v.Name, Driver: v.Driver, Options: v.Options, Labels: v.Labels, Mountpoint: v.Mountpoint,
		Anonymous: anonymous, Inspect: bytes.TrimSpace(raw),
	}, nil
}

// predefined are the networks that every engine has.
var predefined = []string{"bridge", "host", "none"}

// addNetworks describes the networks that the containers are attached to.
func (e *Engine) addNetworks(ctx context.Context, s *snapshot.System) error {
	used := map[string]bool{}
	for _, c := range s.Containers {
		for _, name := range c.Networks {
			used[name] = true
		}
	}
	ids, err := e.networkIDs(ctx)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(used))
	found, failures, err := askEach(ctx, names, func(ctx context.Context, name string) (snapshot.Network, error) {
		return e.network(ctx, cmp.Or(ids[name], name))
	})
	addProblems(s, names, failures, func(name string) string { return "network " + name })
	for _, n := range found {
		if n != nil {
			s.Networks = append(s.Networks, *n)
		}
	}
	return err
}

// networkIDs returns the ids of all networks by name. Where 20.10 has several of a name, one of them.
func (e *Engine) networkIDs(ctx context.Context) (map[string]string, error) {
	raw, err := e.get(ctx, "/networks", nil)
	if err != nil {
		return nil, fail(err, nil, "list networks")
	}
	var list []struct{ ID, Name string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	ids := map[string]string{}
	for _, n := range list {
		ids[n.Name] = n.ID
	}
	return ids, nil
}

// network describes one network, by id or name.
func (e *Engine) network(ctx context.Context, ref string) (snapshot.Network, error) {
	raw, err := e.get(ctx, "/networks/"+url.PathEscape(ref), nil)
	if err != nil {
		return snapshot.Network{}, fail(err, nil, "inspect network %s", ref)
	}
	if raw, err = unlabelled(raw); err != nil {
		return snapshot.Network{}, fmt.Errorf("inspect network %s: %w", ref, err)
	}
	var n struct{ Name, Driver string }
	if err := json.Unmarshal(raw, &n); err != nil {
		return snapshot.Network{}, fmt.Errorf("inspect network %s: %w", ref, err)
	}
	return snapshot.Network{Name: n.Name, Driver: n.Driver, Predefined: slices.Contains(predefined, n.Name), Inspect: bytes.TrimSpace(raw)}, nil
}

// unlabelled takes the label of the restore that made a thing out of its inspection: it is not the user's.
func unlabelled(raw []byte) ([]byte, error) {
	if !bytes.Contains(raw, []byte(snapshot.LabelRestore)) {
		return raw, nil
	}
	o, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	o.child("Labels").drop(snapshot.LabelRestore)
	return json.Marshal(o)
}
