package importer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// report notes down where the started containers are to be reached.
func (r *restorer) report(ctx context.Context) error {
	if r.res.Healthy == 0 {
		return nil
	}
	all, err := r.engine.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if o := r.res.container(c.Name); o != nil && o.ID == c.ID && running(c.State) {
			o.State, o.Health = c.State, c.Health
			o.Addresses, o.Ports = reached(c)
		}
	}
	return nil
}

// reached reads addresses and published ports from the inspection of a container.
func reached(c snapshot.Container) (addresses, ports []string) {
	var inspect struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress, GlobalIPv6Address string }
			Ports    map[string][]struct{ HostIP, HostPort string }
		}
	}
	if err := json.Unmarshal(c.Inspect, &inspect); err != nil {
		return nil, nil // nothing depends on it
	}
	settings := inspect.NetworkSettings
	for _, name := range slices.Sorted(maps.Keys(settings.Networks)) {
		n := settings.Networks[name]
		for _, a := range []string{n.IPAddress, n.GlobalIPv6Address} {
			if a != "" {
				addresses = append(addresses, a)
			}
		}
	}
	for _, port := range slices.Sorted(maps.Keys(settings.Ports)) {
		for _, b := range settings.Ports[port] {
			ports = append(ports, fmt.Sprintf("%s->%s", net.JoinHostPort(b.HostIP, b.HostPort), port))
		}
	}
	return addresses, ports
}
