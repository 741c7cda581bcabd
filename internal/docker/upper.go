package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Upper finds the directory that holds c's changes (the upper directory of its overlay), readable
// by this process. The error says why there is none: the engine is elsewhere, the driver is not
// an overlay, its redirect_dir or metacopy option is on, or this process lacks CAP_SYS_ADMIN,
// without which opaque directories look like plain ones.
func (e *Engine) Upper(ctx context.Context, c snapshot.Container) (string, error) {
	dir, err := e.upper(ctx, c)
	if err != nil {
		return "", fmt.Errorf("changes of container %s: %w", c.Name, err)
	}
	return dir, nil
}

func (e *Engine) upper(ctx context.Context, c snapshot.Container) (string, error) {
	if !e.facts.Local {
		return "", errors.New("the engine's files are not to be seen from here")
	}
	if err := errors.Join(seesTrusted(), e.plainDriver(), e.plainUsers(c)); err != nil {
		return "", err
	}
	options, err := e.overlay(ctx, c)
	if err != nil {
		return "", err
	}
	if err := plainOverlay(options, "/sys/module/overlay/parameters"); err != nil {
		return "", err
	}
	dir := options.option("upperdir")
	if !filepath.IsAbs(dir) { // shortened by a driver with many layers
		dir = filepath.Join(e.info.DockerRootDir, e.info.Driver, dir)
	}
	if info, err := os.Stat(dir); err != nil {
		return "", err
	} else if !info.IsDir() {
		return "", fmt.Errorf("%s is no directory", dir)
	}
	return dir, nil
}

// RemoteUpper is Upper for a helper container on the engine's host: the path there, unproven.
// Engines with containerd's image store do not tell it.
func (e *Engine) RemoteUpper(_ context.Context, c snapshot.Container) (string, error) {
	dir, found := graphUpper(c)
	if !found {
		return "", fmt.Errorf("changes of container %s: the engine does not tell where they lie", c.Name)
	}
	if err := errors.Join(e.plainDriver(), e.plainUsers(c)); err != nil {
		return "", fmt.Errorf("changes of container %s: %w", c.Name, err)
	}
	return dir, nil
}

// overlay finds how a container's file system is mounted: from its inspection (graph drivers), from
// containerd, or from the mounts that its init process sees.
func (e *Engine) overlay(ctx context.Context, c snapshot.Container) (rootMount, error) {
	if dir, found := graphUpper(c); found {
		return rootMount{Type: "overlay", Options: []string{"upperdir=" + dir}}, nil
	}
	var errs []error
	if e.facts.Containerd {
		m, err := e.snapshotMount(ctx, c.ID)
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	if c.Pid > 0 {
		m, err := processMount(c.Pid)
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return rootMount{}, errors.Join(append(errs, fmt.Errorf("driver %s does not tell an upper directory", e.info.Driver))...)
}

// graphUpper reads the upper directory out of a container's inspection.
func graphUpper(c snapshot.Container) (string, bool) {
	var in inspection
	if err := json.Unmarshal(c.Inspect, &in); err != nil || in.GraphDriver == nil {
		return "", false
	}
	dir := in.GraphDriver.Data["UpperDir"]
	return dir, dir != ""
}

// snapshotMount asks containerd, which also knows the mounts of containers that do not run.
func (e *Engine) snapshotMount(ctx context.Context, id string) (rootMount, error) {
	c, err := e.dialContainerd()
	if err != nil {
		return rootMount{}, err
	}
	mounts, err := c.mounts(ctx, e.info.Driver, id)
	if err != nil {
		return rootMount{}, err
	}
	if len(mounts) != 1 || mounts[0].Type != "overlay" || mounts[0].option("upperdir") == "" {
		return rootMount{}, fmt.Errorf("snapshotter %s: the file system is no writable overlay", e.info.Driver)
	}
	return mounts[0], nil
}

// processMount reads the mounts of a container's init process.
func processMount(pid int) (rootMount, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return rootMount{}, err
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, mountinfo.SingleEntryFilter("/"))
	if err != nil {
		return rootMount{}, fmt.Errorf("mounts of process %d: %w", pid, err)
	}
	for _, m := range mounts {
		found := rootMount{Type: m.FSType, Options: strings.Split(m.VFSOptions, ",")}
		if m.FSType == "overlay" && found.option("upperdir") != "" {
			return found, nil
		}
	}
	return rootMount{}, fmt.Errorf("mounts of process %d: its root is no writable overlay", pid)
}

// dialContainerd returns the connection to the engine's containerd.
func (e *Engine) dialContainerd() (*containerd, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containerd != nil {
		return e.containerd, nil
	}
	sockets, namespace := containerdSockets, ""
	if told := e.info.Containerd; told != nil && told.Address != "" {
		sockets, namespace = []string{strings.TrimPrefix(told.Address, "unix://")}, told.Namespaces.Containers
	}
	for _, socket := range sockets {
		if _, err := os.Stat(socket); err == nil {
			e.containerd = newContainerd(socket, namespace)
			return e.containerd, nil
		}
	}
	return nil, fmt.Errorf("containerd does not listen at %s", strings.Join(sockets, " or "))
}

// plainDriver says why the upper directories of the engine's driver cannot be read as they are.
func (e *Engine) plainDriver() error {
	switch {
	case e.info.Driver == "fuse-overlayfs", e.info.status("userxattr") == "true":
		return errors.New("the overlay keeps its marks in user xattrs (a rootless engine)")
	case e.info.status("Native Overlay Diff") == "false", e.info.status("Using metacopy") == "true":
		return errors.New("the overlay uses redirect_dir or metacopy")
	}
	return nil
}

// plainUsers says why the owners of files in a container are not the ones on disk.
func (e *Engine) plainUsers(c snapshot.Container) error {
	var in inspection
	if err := json.Unmarshal(c.Inspect, &in); err != nil {
		return err
	}
	if e.facts.UserNS && in.HostConfig.UsernsMode != "host" {
		return errors.New("the engine maps the users of containers to others")
	}
	return nil
}

// plainOverlay says why the upper directory of a mount cannot be read as it is: the options that the
// mount has, or would get from the module's parameters in dir.
func plainOverlay(m rootMount, dir string) error {
	if slices.Contains(m.Options, "userxattr") {
		return errors.New("the overlay keeps its marks in user xattrs (a rootless engine)")
	}
	for _, name := range []string{"redirect_dir", "metacopy"} {
		value := m.option(name)
		if param, err := os.ReadFile(filepath.Join(dir, name)); err == nil && value == "" && strings.TrimSpace(string(param)) == "Y" {
			value = "on"
		}
		if value == "on" {
			return fmt.Errorf("the overlay uses %s", name)
		}
	}
	return nil
}

// seesTrusted proves that this process can read trusted xattrs, in which overlays mark opaque
// directories. Without CAP_SYS_ADMIN in the first user namespace the kernel says that there are
// none (fs/xattr.c, xattr_permission).
func seesTrusted() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	var caps uint64
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "CapEff:"); found {
			caps, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	if err != nil {
		return fmt.Errorf("/proc/self/status: %w", err)
	}
	whole := slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"})
	if caps>>unix.CAP_SYS_ADMIN&1 == 0 || !whole {
		return errors.New("this process lacks CAP_SYS_ADMIN, without which opaque directories look like plain ones")
	}
	return nil
}
