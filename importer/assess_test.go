package importer_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// roomy are surroundings in which nothing stands against a restore of the shop.
func roomy() importer.Surroundings {
	return importer.Surroundings{
		Ports: []snapshot.PortInUse{}, Temp: "/tmp",
		Space: []importer.Space{{Dir: "/var/lib/docker", Device: 1, Free: 1 << 40}, {Dir: "/tmp", Device: 1, Free: 1 << 40}, {Dir: "/srv/shop/conf", Device: 2, Free: 1 << 40}},
	}
}

func subnet(prefix, network, device string) snapshot.Subnet {
	return snapshot.Subnet{Prefix: netip.MustParsePrefix(prefix), Network: network, Device: device}
}

// withSubnet gives the shop's own network a subnet, and its database a fixed address in it.
func withSubnet(fixed bool) func(*snapshot.Snapshot) {
	return func(s *snapshot.Snapshot) {
		s.System.Networks[0].Inspect = []byte(`{"IPAM":{"Config":[{"Subnet":"172.30.0.0/16"}]}}`)
		if fixed {
			s.System.Containers[0].Inspect = []byte(`{"NetworkSettings":{"Networks":{"shop_default":{"IPAMConfig":{"IPv4Address":"172.30.0.9"}}}}}`)
		}
	}
}

func TestAssess(t *testing.T) {
	for name, tt := range map[string]struct {
		snap   func(*snapshot.Snapshot)
		target func(*importer.Target)
		around func(*importer.Surroundings)
		opts   importer.Options
		want   []string // all findings but those that are ok
		can    bool
		took   time.Duration
	}{
		"nothing against it": {can: true},
		"measured before":    {around: func(s *importer.Surroundings) { s.Rate = 10 << 20 }, can: true, took: 31 * time.Second},
		"no space": {around: func(s *importer.Surroundings) { s.Space[0].Free = 300 << 20 }, want: []string{
			"no-go space 308.0 MiB needed, 300.0 MiB free in /var/lib/docker",
		}},
		"no space for both places of one disk": {around: func(s *importer.Surroundings) { s.Space[0].Free = 310 << 20 }, want: []string{
			"no-go space 308.0 MiB needed, 310.0 MiB free in /var/lib/docker",
		}},
		"no space for layers that are kept twice": {target: func(t *importer.Target) { t.Facts.Containerd = true }, around: func(s *importer.Surroundings) { s.Space[0].Free = 375 << 20 }, want: []string{
			"no-go space 316.0 MiB needed, 375.0 MiB free in /var/lib/docker",
		}},
		"no space for binds": {around: func(s *importer.Surroundings) { s.Space[2].Free = 50 }, want: []string{
			"no-go space 100 B needed, 50 B free in /srv/shop/conf",
		}},
		"binds that are left need none": {around: func(s *importer.Surroundings) { s.Space[2].Free = 50 }, opts: importer.Options{Only: []string{"volumes"}}, can: true},
		"a remote host": {around: func(s *importer.Surroundings) { s.Space, s.Ports = nil, nil }, can: true, want: []string{
			"warning space what is free on the engine's host cannot be seen from here; 308.0 MiB are to be written",
			"warning port whether other processes of the host listen on ports of the system cannot be seen from here",
		}},
		"a port is taken": {around: func(s *importer.Surroundings) {
			s.Ports = []snapshot.PortInUse{{HostIP: "127.0.0.1", HostPort: 8080, Proto: "tcp"}}
		}, want: []string{
			"no-go port 8080/tcp of container shop-web-1 is in use by another process of the host",
		}},
		"other addresses, protocols and ports are not": {around: func(s *importer.Surroundings) {
			s.Ports = []snapshot.PortInUse{{HostIP: "10.0.0.1", HostPort: 8443, Proto: "tcp"}, {HostIP: "::", HostPort: 8080, Proto: "udp"}, {HostIP: "::", HostPort: 80, Proto: "tcp"}}
		}, can: true},
		"a port is moved away": {
			around: func(s *importer.Surroundings) {
				s.Ports = []snapshot.PortInUse{{HostIP: "::", HostPort: 8080, Proto: "tcp"}}
			},
			opts: importer.Options{Ports: map[string]string{"8080": "18080"}}, can: true,
		},
		"another container has it: told once": {
			target: func(t *importer.Target) {
				t.Names.Ports = []snapshot.PortInUse{{HostIP: "0.0.0.0", HostPort: 8080, Proto: "tcp", Container: "other"}}
			},
			around: func(s *importer.Surroundings) {
				s.Ports = []snapshot.PortInUse{{HostIP: "0.0.0.0", HostPort: 8080, Proto: "tcp"}}
			},
			want: []string{"no-go port 8080/tcp of container shop-web-1 is in use by container other"},
		},
		"another network has the subnet": {snap: withSubnet(false), around: func(s *importer.Surroundings) { s.Subnets = []snapshot.Subnet{subnet("172.30.4.0/24", "lan", "")} }, can: true, want: []string{
			"warning network shop_default: subnet 172.30.0.0/16 overlaps 172.30.4.0/24 by network lan: it will have another one",
		}},
		"and a fixed address is wanted in it": {snap: withSubnet(true), around: func(s *importer.Surroundings) { s.Subnets = []snapshot.Subnet{subnet("172.30.4.0/24", "lan", "")} }, want: []string{
			"no-go network shop_default: subnet 172.30.0.0/16 overlaps 172.30.4.0/24 by network lan, and container shop-db-1 has a fixed address in it",
		}},
		"the host routes it": {snap: withSubnet(true), around: func(s *importer.Surroundings) { s.Subnets = []snapshot.Subnet{subnet("172.16.0.0/12", "", "vpn0")} }, can: true, want: []string{
			"warning network shop_default: subnet 172.30.0.0/16 overlaps 172.16.0.0/12 by a route of the host by vpn0: what lies there may not be reached any more",
		}},
		"other subnets do not matter": {snap: withSubnet(true), around: func(s *importer.Surroundings) { s.Subnets = []snapshot.Subnet{subnet("172.17.0.0/16", "bridge", "")} }, can: true},
		"secrets are missing": {snap: func(s *snapshot.Snapshot) {
			c := &s.System.Containers[0]
			c.Labels["com.docker.swarm.service.name"] = "db"
			c.Mounts = append(c.Mounts, snapshot.Mount{Type: "bind", Source: "/etc/key", Destination: "/run/secrets/key"})
		}, can: true, want: []string{
			"warning secret container shop-db-1 is of swarm service db: its secrets and configs, if it has any, are not in the snapshot",
			"warning secret /run/secrets/key of container shop-db-1 is not restored: /etc/key must be there",
		}},
		"incomplete": {snap: func(s *snapshot.Snapshot) { s.Complete = false }, can: true, want: []string{"warning snapshot is incomplete: 1 things could not be captured"}},
		"another machine": {target: func(t *importer.Target) { t.Facts.Arch = "aarch64" }, opts: importer.Options{Only: []string{"shop-job-1"}}, want: []string{
			"no-go container shop-job-1 is built for amd64, the host is arm64",
		}},
		"no volume driver": {snap: func(s *snapshot.Snapshot) { s.System.Volumes[0].Driver = "rexray" }, want: []string{"no-go volume shop_data needs the volume driver rexray"}},
		"no runtime": {target: func(t *importer.Target) {
			t.Misfits = map[string][]snapshot.Misfit{"shop-db-1": {{Part: snapshot.PartRuntime, Why: "runtime nvidia is not known there"}}}
		}, want: []string{"no-go container shop-db-1 does not fit the host: runtime nvidia is not known there"}},
		"other cgroups": {snap: func(s *snapshot.Snapshot) { s.Engine.CgroupVersion = "1" }, target: func(t *importer.Target) { t.Facts.CgroupVersion = "2" }, can: true, want: []string{
			"warning engine the system ran under cgroups version 1, here it is 2: limits may act otherwise",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			snap, target, around := shop(t), empty(), roomy()
			target.Facts.RootDir = "/var/lib/docker"
			if tt.snap != nil {
				tt.snap(snap)
			}
			if tt.target != nil {
				tt.target(&target)
			}
			if tt.around != nil {
				tt.around(&around)
			}
			plan, err := importer.NewPlan(snap, target, tt.opts)
			if clash := (*importer.ClashError)(nil); err != nil && !errors.As(err, &clash) {
				t.Fatal(err)
			}
			a := importer.Assess(snap, plan, target, around)
			var got []string
			for _, f := range a.Findings {
				if f.Level != importer.LevelOK {
					got = append(got, strings.Join([]string{string(f.Level), f.Check, f.Text}, " "))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			if a.Go != tt.can || a.Estimate != tt.took {
				t.Errorf("go %v in %v, want %v in %v", a.Go, a.Estimate, tt.can, tt.took)
			}
		})
	}
}

func TestRate(t *testing.T) {
	records := []chunkstore.Record{
		{Body: []byte(`{"bytes":1000,"rto":2000000000}`)},
		{Body: []byte(`{"bytes":4000,"rto":2000000000}`)},
		{Body: []byte(`{"bytes":4000,"rto":0}`)},
		{Body: []byte(`"a note"`)},
		{Err: errors.New("damaged"), Body: []byte(`{"bytes":9,"rto":1}`)},
	}
	if got := importer.Rate(records); got != 2000 {
		t.Errorf("rate %v", got)
	}
	if got := importer.Rate(records[2:]); got != 0 {
		t.Errorf("rate of nothing measured: %v", got)
	}
}
