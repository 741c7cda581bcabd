package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// containerd asks the containerd below an engine two questions: what the mounts of a container's
// file system are, and where image content lies. It speaks gRPC by hand, one call without
// streaming over HTTP/2 on a unix socket, because containerd's client would bring gRPC and
// protobuf into the program for these. The messages are those of containerd's api/services.
type containerd struct {
	socket    string
	namespace string // of the engine's containers
	http      *http.Client
}

// containerdSockets are where containerd listens if the engine does not say (API before 1.46).
var containerdSockets = []string{"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"}

// newContainerd connects to nothing yet.
func newContainerd(socket, namespace string) *containerd {
	tr := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return &containerd{socket: socket, namespace: cmp.Or(namespace, "moby"), http: &http.Client{Transport: tr}}
}

func (c *containerd) close() { c.http.CloseIdleConnections() }

// rootMount is how a file system is put together.
type rootMount struct {
	Type, Source string
	Options      []string
}

// mounts returns how the file system of a container is mounted, running or not.
func (c *containerd) mounts(ctx context.Context, snapshotter, key string) ([]rootMount, error) {
	answer, err := c.call(ctx, "containerd.services.snapshots.v1.Snapshots/Mounts",
		appendField(appendField(nil, 1, snapshotter), 2, key))
	if err != nil {
		return nil, err
	}
	var mounts []rootMount
	err = fields(answer, func(number int, value []byte) error {
		if number != 1 {
			return nil
		}
		var m rootMount
		err := fields(value, func(number int, value []byte) error {
			switch number {
			case 1:
				m.Type = string(value)
			case 2:
				m.Source = string(value)
			case 4:
				m.Options = append(m.Options, string(value))
			}
			return nil
		})
		mounts = append(mounts, m)
		return err
	})
	return mounts, err
}

// contentRoot returns the directory that holds image content: blobs/sha256/DIGEST.
func (c *containerd) contentRoot(ctx context.Context) (string, error) {
	answer, err := c.call(ctx, "containerd.services.introspection.v1.Introspection/Plugins",
		appendField(nil, 1, "type==io.containerd.content.v1"))
	if err != nil {
		return "", err
	}
	var root string
	err = fields(answer, func(number int, plugin []byte) error {
		return fields(plugin, func(number int, value []byte) error {
			if number != 5 {
				return nil
			}
			key, exported, err := mapEntry(value)
			if key == "root" {
				root = exported
			}
			return err
		})
	})
	if err == nil && root == "" {
		err = errors.New("no content plugin tells its root")
	}
	return root, err
}

// call makes one call with an encoded message and returns the encoded answer.
func (c *containerd) call(ctx context.Context, method string, message []byte) ([]byte, error) {
	framed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) // 0: not compressed
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://containerd/"+method, bytes.NewReader(append(framed, message...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("Containerd-Namespace", c.namespace)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("containerd %s: %w", method, err)
	}
	status := cmp.Or(resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Status"))
	if resp.StatusCode != http.StatusOK || status != "0" {
		said := cmp.Or(resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message"))
		if plain, err := url.PathUnescape(said); err == nil {
			said = plain
		}
		return nil, fmt.Errorf("containerd %s: status %s: %s", method, cmp.Or(status, resp.Status), said)
	}
	if len(answer) < 5 || answer[0] != 0 || int(binary.BigEndian.Uint32(answer[1:])) != len(answer)-5 {
		return nil, fmt.Errorf("containerd %s: malformed answer", method)
	}
	return answer[5:], nil
}

// appendField appends a string field of a protobuf message.
func appendField(b []byte, number int, value string) []byte {
	b = binary.AppendUvarint(b, uint64(number)<<3|2)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// errProtobuf says that a message does not parse.
var errProtobuf = errors.New("malformed protobuf message")

// fields calls fn for every field of a protobuf message that is a string, bytes or a message.
func fields(b []byte, fn func(number int, value []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errProtobuf
		}
		b = b[n:]
		size := 0
		switch tag & 7 {
		case 0: // a number
			_, size = binary.Uvarint(b)
			if size <= 0 {
				return errProtobuf
			}
		case 1:
			size = 8
		case 2: // bytes
			length, n := binary.Uvarint(b)
			if n <= 0 || length > uint64(len(b)-n) {
				return errProtobuf
			}
			if err := fn(int(tag>>3), b[n:n+int(length)]); err != nil {
				return err
			}
			size = n + int(length)
		case 5:
			size = 4
		default:
			return errProtobuf
		}
		if size > len(b) {
			return errProtobuf
		}
		b = b[size:]
	}
	return nil
}

// mapEntry reads an entry of a map of strings.
func mapEntry(b []byte) (key, value string, err error) {
	err = fields(b, func(number int, field []byte) error {
		switch number {
		case 1:
			key = string(field)
		case 2:
			value = string(field)
		}
		return nil
	})
	return key, value, err
}

// option returns the value of a mount option.
func (m rootMount) option(name string) string {
	for _, o := range m.Options {
		if key, value, _ := strings.Cut(o, "="); key == name {
			return value
		}
	}
	return ""
}
