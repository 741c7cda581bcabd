package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// helperLabel marks what this program made for its own use.
const helperLabel = "io.github.hakobune-dr.helper"

// helperProgram is where the program lies in a helper's image.
const helperProgram = "hakobune"

// Helper runs this program in a container on the engine's host. What is written to the stream is
// the program's input, what is read from it is its output, and Read ends with io.EOF only if the
// program ended with code 0: else with an error that holds the last lines of its error output.
// CloseWrite, which the stream has, ends the input. The end of ctx ends the program. Close ends it
// too and removes the container, and the image if it was made for it and no other helper needs it.
func (e *Engine) Helper(ctx context.Context, spec snapshot.HelperSpec) (io.ReadWriteCloser, error) {
	h := &helper{e: e, done: make(chan struct{})}
	if err := h.create(ctx, spec); err != nil {
		return nil, errors.Join(fmt.Errorf("helper container: %w", err), h.remove())
	}
	if err := h.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("helper container: %w", err), h.remove())
	}
	return h, nil
}

// helper is a running helper container.
type helper struct {
	e    *Engine
	id   string
	made string // the image, if it was made for this one
	conn client.HijackedResponse
	out  *io.PipeReader
	said tail          // the end of its error output
	stop func() bool   // no longer wait for the end of ctx
	done chan struct{} // closed when the stream has ended
}

func (h *helper) Read(p []byte) (int, error)  { return h.out.Read(p) }
func (h *helper) Write(p []byte) (int, error) { return h.conn.Conn.Write(p) }

// CloseWrite ends the program's input.
func (h *helper) CloseWrite() error { return h.conn.CloseWrite() }

// Close ends the program and removes what was made for it.
func (h *helper) Close() error {
	h.stop()
	h.conn.Close()
	err := h.remove()
	h.out.Close()
	<-h.done
	return err
}

// create makes the image, unless it is there, and the container.
func (h *helper) create(ctx context.Context, spec snapshot.HelperSpec) error {
	program, err := openProgram(h.e.program)
	if err != nil {
		return err
	}
	defer program.Close()
	if err := fits(program, h.e.info.Architecture); err != nil {
		return err
	}
	image, err := newHelperImage(program)
	if err != nil {
		return err
	}
	for range 2 { // another helper may remove the image before the container holds it
		if h.made, err = h.e.addHelperImage(ctx, image); err != nil {
			return err
		}
		made, err := h.e.api.ContainerCreate(ctx, helperOptions(image.ref, spec))
		h.id = made.ID
		if err = fail(err, nil, "create"); !errors.Is(err, snapshot.ErrMissing) {
			return err
		}
	}
	return fmt.Errorf("image %s: %w", image.ref, snapshot.ErrMissing)
}

// openProgram opens the binary to run, this program's own by default.
func openProgram(path string) (*os.File, error) {
	if path == "" {
		own, err := os.Executable()
		if err != nil {
			return nil, err
		}
		path = own
	}
	return os.Open(path)
}

// fits proves that a program can run in an empty image on a host of that architecture, as uname
// names it.
func fits(program io.ReaderAt, arch string) error {
	file, err := elf.NewFile(program)
	if err != nil {
		return fmt.Errorf("helper program: %w", err)
	}
	machines := map[string]elf.Machine{
		"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64, "armv7l": elf.EM_ARM, "riscv64": elf.EM_RISCV,
		"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390,
	}
	if want, known := machines[arch]; known && want != file.Machine {
		return fmt.Errorf("helper program: is for %s, the engine's host is %s", file.Machine, arch)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("helper program: is not linked statically")
		}
	}
	return nil
}

// helperOptions describes the container. It can do nothing but read what the spec gives it: no
// network, no capabilities, no log on the host's disk, and it goes when its program ends, also
// where nobody is left to remove it.
func helperOptions(image string, spec snapshot.HelperSpec) client.ContainerCreateOptions {
	host := &container.HostConfig{
		AutoRemove: true, NetworkMode: "none", ReadonlyRootfs: true, UsernsMode: "host",
		LogConfig: container.LogConfig{Type: "none"}, CapDrop: []string{"ALL"}, CapAdd: spec.CapAdd,
		SecurityOpt: []string{"no-new-privileges", "label=disable"},
	}
	if spec.PidHost {
		host.PidMode = "host"
	}
	for _, b := range spec.Binds {
		bind := b.Source + ":" + b.Target
		if b.ReadOnly {
			bind += ":ro"
		}
		host.Binds = append(host.Binds, bind)
	}
	return client.ContainerCreateOptions{
		Config: &container.Config{
			Image: image, Entrypoint: []string{"/" + helperProgram}, Cmd: spec.Args, User: "0:0",
			Labels:    map[string]string{helperLabel: "run"},
			OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, AttachStderr: true,
		},
		HostConfig: host,
	}
}

// start attaches to the container and lets it go.
func (h *helper) start(ctx context.Context) error {
	attached, err := h.e.api.ContainerAttach(ctx, h.id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return fail(err, nil, "attach")
	}
	h.conn = attached.HijackedResponse
	waiting := h.e.api.ContainerWait(ctx, h.id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := h.e.api.ContainerStart(ctx, h.id, client.ContainerStartOptions{}); err != nil {
		h.conn.Close()
		return fail(err, nil, "start")
	}
	h.stop = context.AfterFunc(ctx, h.conn.Close) // a hijacked connection knows no ctx
	pr, pw := io.Pipe()
	h.out = pr
	go func() {
		defer close(h.done)
		_, err := stdcopy.StdCopy(pw, &h.said, h.conn.Reader)
		pw.CloseWithError(h.ended(ctx, err, waiting))
	}()
	return nil
}

// ended says how the program ended, nil if well.
func (h *helper) ended(ctx context.Context, copied error, waiting client.ContainerWaitResult) error {
	select {
	case result := <-waiting.Result:
		if result.StatusCode != 0 {
			return fmt.Errorf("helper container: ended with code %d: %s", result.StatusCode, h.said.String())
		}
	case err := <-waiting.Error:
		copied = errors.Join(err, copied)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("helper container: %w", ctx.Err())
	}
	if copied != nil {
		return fmt.Errorf("helper container: %w", copied)
	}
	return nil
}

// remove removes the container and the image, as far as they were made.
func (h *helper) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // whatever ended the helper
	defer cancel()
	var errs []error
	if h.id != "" {
		errs = append(errs, h.e.removeHelper(ctx, h.id))
	}
	if h.made != "" {
		errs = append(errs, h.e.removeHelperImage(ctx, h.made))
	}
	return errors.Join(errs...)
}

// removeHelper removes a container that may be removing itself.
func (e *Engine) removeHelper(ctx context.Context, id string) error {
	err := e.RemoveContainer(ctx, id)
	for err != nil && errdefs.IsConflict(err) { // "removal already in progress"
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
			err = e.RemoveContainer(ctx, id)
		}
	}
	return err
}

// removeHelperImage removes a helper's image unless another helper uses it, which then leaves it.
func (e *Engine) removeHelperImage(ctx context.Context, ref string) error {
	if err := e.Untag(ctx, ref); err != nil && !errdefs.IsConflict(err) {
		return err
	}
	return nil
}

// helperImage is an image of one file. The same program makes the same image, byte for byte, so that
// giving it to an engine twice is giving it once.
type helperImage struct {
	program *os.File
	size    int64
	ref     string
	config  []byte
	layer   string // hex digest of its tar
}

func newHelperImage(program *os.File) (*helperImage, error) {
	info, err := program.Stat()
	if err != nil {
		return nil, err
	}
	img := &helperImage{program: program, size: info.Size()}
	sum := sha256.New()
	if err := img.writeLayer(sum); err != nil {
		return nil, err
	}
	img.layer = hex.EncodeToString(sum.Sum(nil))
	img.ref = "hakobune-helper:" + img.layer[:12]
	file, err := elf.NewFile(program)
	if err != nil {
		return nil, err
	}
	arches := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_RISCV: "riscv64", elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x"}
	img.config, err = json.Marshal(map[string]any{
		"architecture": arches[file.Machine], "os": "linux", "config": map[string]any{"Labels": map[string]string{helperLabel: "image"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + img.layer}},
	})
	return img, err
}

// writeLayer writes the image's only layer.
func (img *helperImage) writeLayer(w io.Writer) error {
	layer := tar.NewWriter(w)
	if err := layer.WriteHeader(&tar.Header{Name: helperProgram, Mode: 0o755, Size: img.size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	if _, err := io.Copy(layer, io.NewSectionReader(img.program, 0, img.size)); err != nil {
		return err
	}
	return layer.Close()
}

// writeTo writes an image archive that every engine reads.
func (img *helperImage) writeTo(w io.Writer) error {
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{img.ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for name, content := range map[string][]byte{"config.json": img.config, "manifest.json": manifest} {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := io.Copy(archive, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	padded := (img.size + 511) / 512 * 512
	if err := archive.WriteHeader(&tar.Header{Name: "layer.tar", Mode: 0o644, Size: 512 + padded + 1024}); err != nil {
		return err
	}
	if err := img.writeLayer(archive); err != nil {
		return err
	}
	return archive.Close()
}

// addHelperImage gives the engine the image unless it has it, and returns its reference if it was
// made now.
func (e *Engine) addHelperImage(ctx context.Context, img *helperImage) (string, error) {
	_, _, err := e.inspectImage(ctx, img.ref, nil)
	if !errors.Is(err, snapshot.ErrMissing) {
		return "", err
	}
	archive := assemble(func() {}, img.writeTo)
	err = e.Load(ctx, archive)
	archive.Close()
	if err != nil { // containerd refuses a second load of the same image at the same time
		if _, _, missing := e.inspectImage(ctx, img.ref, nil); missing == nil {
			err = nil
		}
	}
	return img.ref, err
}
