package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Subnets lists the subnets that the engine's networks have, but for those of swarm's overlays, which share no
// addresses with the host.
func (e *Engine) Subnets(ctx context.Context) ([]snapshot.Subnet, error) {
	var networks []struct {
		Name, Driver string
		IPAM         struct{ Config []struct{ Subnet string } }
	}
	if err := e.list(ctx, "/networks", nil, &networks); err != nil {
		return nil, err
	}
	var subnets []snapshot.Subnet
	for _, n := range networks {
		for _, c := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil && n.Driver != "overlay" {
				subnets = append(subnets, snapshot.Subnet{Prefix: p.Masked(), Network: n.Name})
			}
		}
	}
	return subnets, nil
}

// HostNet tells which subnets the host of the engine routes (IPv4, without the default route), and on which
// ports somebody listens there: in the network namespace of the engine itself. Both are nil where the host is not
// this one.
func (e *Engine) HostNet() (routes []snapshot.Subnet, ports []snapshot.PortInUse, err error) {
	socket, unix := strings.CutPrefix(e.host, "unix://")
	if !unix || !e.facts.Local {
		return nil, nil, nil
	}
	pid, err := listener(socket)
	if err != nil || pid == 0 {
		return nil, nil, err
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "net")
	if routes, err = readProc(dir, "route", parseRoutes); err != nil {
		return nil, nil, err
	}
	ports = []snapshot.PortInUse{}
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		listening, err := readProc(dir, proto, func(r io.Reader) ([]snapshot.PortInUse, error) {
			return parseSockets(r, strings.TrimSuffix(proto, "6"))
		})
		if err != nil {
			return nil, nil, err
		}
		ports = append(ports, listening...)
	}
	return routes, ports, nil
}

// readProc parses one table of the kernel; one that is not there, for want of IPv6 say, is empty.
func readProc[T any](dir, name string, parse func(io.Reader) ([]T, error)) ([]T, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		return []T{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := parse(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return list, nil
}

// parseRoutes reads /proc/net/route: interface, destination, gateway, flags, ..., mask in the eighth column,
// numbers as the machine stores them.
func parseRoutes(r io.Reader) ([]snapshot.Subnet, error) {
	routes := []snapshot.Subnet{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[0] == "Iface" {
			continue
		}
		dest, err := procAddr(f[1])
		if err != nil {
			return nil, err
		}
		mask, err := procAddr(f[7])
		if err != nil {
			return nil, err
		}
		bits := 0
		for _, b := range mask.AsSlice() {
			for ; b != 0; b <<= 1 {
				bits++
			}
		}
		if bits > 0 {
			routes = append(routes, snapshot.Subnet{Prefix: netip.PrefixFrom(dest, bits).Masked(), Device: f[0]})
		}
	}
	return routes, lines.Err()
}

// Socket states of /proc/net/tcp and udp in which a port is taken.
const (
	stateListen = "0A"
	stateBound  = "07" // of udp
)

// parseSockets reads /proc/net/tcp and its kin: number, local address, remote address, state, ....
func parseSockets(r io.Reader, proto string) ([]snapshot.PortInUse, error) {
	var ports []snapshot.PortInUse
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[0] == "sl" || proto == "tcp" && f[3] != stateListen || proto == "udp" && f[3] != stateBound {
			continue
		}
		address, port, _ := strings.Cut(f[1], ":")
		ip, err := procAddr(address)
		if err != nil {
			return nil, err
		}
		number, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return nil, err
		}
		ports = append(ports, snapshot.PortInUse{HostIP: ip.Unmap().String(), HostPort: int(number), Proto: proto})
	}
	return ports, lines.Err()
}

// procAddr reads an address as the kernel prints it: words of four bytes, each as a number of this machine.
func procAddr(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, fmt.Errorf("address %q", s)
	}
	for word := range slices.Chunk(b, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr, nil
}
