package importer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Surroundings is what stands around an engine, as far as an Assessment depends on it: what a Target lacks, for
// a restore finds it out by itself.
type Surroundings struct {
	Subnets []snapshot.Subnet    // of the engine's networks, and what its host routes
	Ports   []snapshot.PortInUse // on which somebody listens; nil: not to be seen from here
	Space   []Space              // nil: not to be seen from here
	Temp    string               // where temporary files go
	Rate    float64              // bytes a second that a restore reached before; 0: there was none
}

// Space is what is free in a directory, and which file system that is of.
type Space struct {
	Dir    string
	Device uint64
	Free   int64
}

// Surrounded is an engine that can be asked for what stands around it.
type Surrounded interface {
	// Subnets lists the subnets of the engine's networks.
	Subnets(ctx context.Context) ([]snapshot.Subnet, error)
	// HostNet lists what the engine's host routes and on which ports it listens; nil where that cannot be seen.
	HostNet() (routes []snapshot.Subnet, ports []snapshot.PortInUse, err error)
}

// LookAround finds out what stands around an engine, for a plan of its target; temp is where temporary files
// will go. It changes nothing.
func LookAround(ctx context.Context, e Surrounded, target Target, plan *Plan, temp string) (Surroundings, error) {
	subnets, err := e.Subnets(ctx)
	if err != nil {
		return Surroundings{}, fmt.Errorf("survey of the host: %w", err)
	}
	routes, ports, err := e.HostNet()
	if err != nil {
		return Surroundings{}, fmt.Errorf("survey of the host: %w", err)
	}
	s := Surroundings{Subnets: append(subnets, routes...), Ports: ports, Temp: temp}
	if !target.Facts.Local {
		return s, nil
	}
	for _, dir := range plan.places(target.Facts.RootDir, s.Temp) {
		space, err := freeSpace(dir)
		if err != nil {
			return Surroundings{}, fmt.Errorf("survey of the host: %w", err)
		}
		s.Space = append(s.Space, space)
	}
	return s, nil
}

// freeSpace tells what is free where dir is or will be made.
func freeSpace(dir string) (Space, error) {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var of unix.Statfs_t
		var node unix.Stat_t
		err := unix.Stat(at, &node)
		if err == nil {
			err = unix.Statfs(at, &of)
		}
		if errors.Is(err, fs.ErrNotExist) && at != "/" {
			continue
		}
		if err != nil {
			return Space{}, &os.PathError{Op: "statfs", Path: at, Err: err}
		}
		return Space{Dir: dir, Device: node.Dev, Free: int64(of.Bavail) * of.Bsize}, nil
	}
}
