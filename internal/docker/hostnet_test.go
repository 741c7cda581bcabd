package docker_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// Tables as a kernel of a little-endian machine prints them.
const (
	routeTable = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100000A	0003	0	0	0	00000000	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
vpn0	0040A8C0	00000000	0001	0	0	0	00C0FFFF	0	0	0
`
	tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 23 1 0 100 0 0 10 0
   1: 0100007F:8000 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 24 1 0 100 0 0 10 0
`
	tcp6Table = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000
`
	udpTable = `   sl  local_address rem_address   st tx_queue rx_queue tr
  211: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 25
  212: 0100007F:9C40 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 26
`
)

func TestHostRoutes(t *testing.T) {
	got, err := docker.ParseRoutes(strings.NewReader(routeTable))
	if err != nil {
		t.Fatal(err)
	}
	want := []snapshot.Subnet{
		{Prefix: netip.MustParsePrefix("172.17.0.0/16"), Device: "docker0"},
		{Prefix: netip.MustParsePrefix("192.168.64.0/18"), Device: "vpn0"},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestHostSockets(t *testing.T) {
	port := func(ip string, port int, proto string) snapshot.PortInUse {
		return snapshot.PortInUse{HostIP: ip, HostPort: port, Proto: proto}
	}
	for name, tt := range map[string]struct {
		table, proto string
		want         []snapshot.PortInUse
	}{
		"tcp":  {tcpTable, "tcp", []snapshot.PortInUse{port("127.0.0.1", 8080, "tcp")}},
		"tcp6": {tcp6Table, "tcp", []snapshot.PortInUse{port("::", 22, "tcp"), port("127.0.0.1", 80, "tcp"), port("2001:db8::1", 443, "tcp")}},
		"udp":  {udpTable, "udp", []snapshot.PortInUse{port("0.0.0.0", 53, "udp")}},
		"none": {"", "tcp", nil},
	} {
		got, err := docker.ParseSockets(strings.NewReader(tt.table), tt.proto)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := docker.ParseSockets(strings.NewReader("0: 0100007G:1F90 0:0 0A"), "tcp"); err == nil {
		t.Error("an address that is none is taken")
	}
}
