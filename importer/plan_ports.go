package importer

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// ports maps the published ports of c that the options change.
func (p *planner) ports(c *snapshot.Container) map[string]string {
	m := make(map[string]string)
	for _, port := range c.Ports {
		key := port.HostPort + "/" + protocol(port)
		if now, ok := p.remapPort(port); ok {
			m[key] = now
		}
	}
	return m
}

func protocol(p snapshot.Port) string {
	if _, proto, ok := strings.Cut(p.Container, "/"); ok {
		return proto
	}
	return "tcp"
}

func (p *planner) remapPort(port snapshot.Port) (string, bool) {
	if port.HostPort == "" {
		return "", false
	}
	now, ok := p.opts.Ports[port.HostPort+"/"+protocol(port)]
	if !ok {
		now, ok = p.opts.Ports[port.HostPort]
	}
	return now, ok
}

// hostPort is a port of the host that a container will publish.
type hostPort struct {
	ip, proto string
	port      int
	container string
}

func (h hostPort) meets(o hostPort) bool {
	return h.port == o.port && h.proto == o.proto && (anyAddress(h.ip) || anyAddress(o.ip) || h.ip == o.ip)
}

func (h hostPort) String() string { return strconv.Itoa(h.port) + "/" + h.proto }

func anyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

// planPorts holds the ports that the started containers will publish against those in use, and
// against each other.
func (p *planner) planPorts() {
	var all []hostPort
	for _, u := range p.target.Names.Ports {
		if !p.replaces(u.Container) {
			all = append(all, hostPort{ip: u.HostIP, proto: u.Proto, port: u.HostPort, container: u.Container})
		}
	}
	for i, j := range p.containers {
		if !j.start || j.action == Skip {
			continue
		}
		mine := p.published(j)
		for _, h := range mine {
			if h.proto == "tcp" {
				p.containers[i].ports = append(p.containers[i].ports, h.port)
			}
		}
		for _, h := range mine {
			if i := slices.IndexFunc(all, h.meets); i >= 0 {
				p.clash(KindPort, h.String(), hintPort, "of container %s is in use by container %s", h.container, all[i].container)
			}
		}
		all = append(all, mine...)
		p.hostPorts = append(p.hostPorts, mine...)
	}
}

// published lists the host ports of a container as the plan places it.
func (p *planner) published(j containerJob) []hostPort {
	var hs []hostPort
	for _, port := range j.container.Ports {
		ip, number := port.HostIP, port.HostPort
		if now, ok := p.remapPort(port); ok {
			host, n := splitHostPort(now)
			ip, number = cmp.Or(host, ip), n
		}
		// Not a number: the engine's choice, a range to choose from, or not published.
		n, err := strconv.Atoi(number)
		if err != nil || n == 0 {
			continue
		}
		h := hostPort{ip: ip, proto: protocol(port), port: n, container: j.place.Name}
		// Engines list a port once for IPv4 and once for IPv6.
		if !slices.ContainsFunc(hs, h.meets) {
			hs = append(hs, h)
		}
	}
	return hs
}

// replaces reports whether the plan moves the container of that name aside, or clashes with it
// already.
func (p *planner) replaces(name string) bool {
	return slices.ContainsFunc(p.containers, func(j containerJob) bool { return j.action != Skip && j.old.Name == name })
}

// anyPort reports whether a container of the system publishes the port, "8080" or "8080/tcp".
func (p *planner) anyPort(want string) bool {
	for _, c := range p.sys.Containers {
		for _, port := range c.Ports {
			if want == port.HostPort || want == port.HostPort+"/"+protocol(port) {
				return true
			}
		}
	}
	return false
}
