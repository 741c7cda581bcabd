package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// info is what GET /info says, as far as this package needs it.
type info struct {
	ID                                  string
	Driver                              string
	DriverStatus                        [][2]string
	DockerRootDir, Name, ServerVersion  string
	OSType, Architecture, KernelVersion string
	CgroupVersion, CgroupDriver         string
	NCPU                                int
	MemTotal                            int64
	Runtimes                            map[string]json.RawMessage
	Plugins                             struct{ Volume, Network, Log []string }
	SecurityOptions                     []string
	Containerd                          *containerdInfo
}

// containerdInfo says where the engine's containerd listens (API 1.46 and later).
type containerdInfo struct {
	Address    string
	Namespaces struct{ Containers string }
}

// pingTimeout is how long an engine may take to answer at all.
const pingTimeout = 30 * time.Second

// learn fills in what Facts tells.
func (e *Engine) learn(ctx context.Context, ep endpoint) error {
	pingCtx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := e.api.Ping(pingCtx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("docker engine %s: %w", ep.host, ctx.Err())
		}
		return fmt.Errorf("%w at %s (%s): is it running, and may this user use it?", ErrDown, ep.host, said(err))
	}
	raw, err := e.get(ctx, "/info", nil)
	if err != nil {
		return fail(err, nil, "docker engine %s", ep.host)
	}
	if err := json.Unmarshal(raw, &e.info); err != nil {
		return fmt.Errorf("docker engine %s: %w", ep.host, err)
	}
	e.facts = e.info.facts()
	e.facts.APIVersion = e.api.ClientVersion()
	e.facts.Local = isLocal(ep.host, e.info)
	return nil
}

func (i info) facts() snapshot.Facts {
	return snapshot.Facts{
		Engine: snapshot.Engine{
			Version:       i.ServerVersion,
			StorageDriver: i.Driver,
			OS:            i.OSType,
			Arch:          i.Architecture,
			Kernel:        i.KernelVersion,
			CgroupVersion: i.CgroupVersion,
		},
		Host:          i.Name,
		RootDir:       i.DockerRootDir,
		Containerd:    i.status("driver-type") == "io.containerd.snapshotter.v1",
		UserNS:        slices.Contains(i.SecurityOptions, "name=userns") || slices.Contains(i.SecurityOptions, "name=rootless"),
		NCPU:          i.NCPU,
		Memory:        i.MemTotal,
		VolumeDrivers: i.Plugins.Volume,
		NetDrivers:    i.Plugins.Network,
		LogDrivers:    i.Plugins.Log,
		Runtimes:      slices.Sorted(maps.Keys(i.Runtimes)),
	}
}

// status returns a value of the storage driver's own description.
func (i info) status(key string) string {
	for _, kv := range i.DriverStatus {
		if kv[0] == key {
			return kv[1]
		}
	}
	return ""
}

// isLocal proves that the engine behind a socket is on this host, and that its data directory is
// the same directory to it and to this process: the process that listens on the socket has a file
// below the directory open (its databases), and the directory seen through that process's root is
// ours. A socket that ssh or a proxy forwards to another host fails this, as does an engine in a
// container.
//
// Where systemd made the socket, any process may be the one that holds the files open. Where the
// listener is in another pid namespace (this process runs in a container), the directory must hold
// the engine's own identity.
func isLocal(host string, i info) bool {
	socket, found := strings.CutPrefix(host, "unix://")
	if !found || i.DockerRootDir == "" {
		return false
	}
	pid, err := listener(socket)
	switch {
	case err != nil:
		return false
	case pid > 1:
		return holds(pid, i.DockerRootDir)
	case pid == 1:
		return slices.ContainsFunc(processes(), func(pid int) bool { return holds(pid, i.DockerRootDir) })
	}
	id, err := os.ReadFile(filepath.Join(i.DockerRootDir, "engine-id"))
	return err == nil && i.ID != "" && strings.TrimSpace(string(id)) == i.ID
}

// processes returns the ids of all processes to be seen.
func processes() []int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(dir.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// listener returns the process that listens on a socket, in this process's pid namespace; 0 if it
// is not in it.
func listener(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var optErr error
	err = raw.Control(func(fd uintptr) {
		peer, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || optErr != nil {
		return 0, fmt.Errorf("peer of %s: %w", socket, errors.Join(err, optErr))
	}
	return int(peer.Pid), nil
}

// holds reports whether a process has a file of its directory dir open and means by dir what this
// process means.
func holds(pid int, dir string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	ours, err := os.Stat(dir)
	if err != nil {
		return false
	}
	theirs, err := os.Stat(filepath.Join(proc, "root", dir))
	if err != nil || !os.SameFile(ours, theirs) {
		return false
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return false
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false
	}
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		file, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		return err == nil && strings.HasPrefix(file, dir+"/")
	})
}
