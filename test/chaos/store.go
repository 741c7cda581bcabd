package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
)

const (
	accessKey = "hakobune"
	secretKey = "of-the-harbour"
	region    = "us-east-1"
	bucket    = "ark"
)

// store is a MinIO on the loopback interface.
type store struct {
	endpoint string
	stop     func()
}

func startStore(ctx context.Context, dir string) (*store, error) {
	endpoint, err := freeAddress()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "minio.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("minio", "server", "--quiet", "--address", endpoint, filepath.Join(dir, "minio"))
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &store{endpoint, func() { cmd.Process.Kill(); cmd.Wait(); log.Close() }}
	for range 300 {
		conn, err := net.Dial("tcp", endpoint)
		if err == nil {
			return s, conn.Close()
		}
		select {
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	s.stop()
	return nil, fmt.Errorf("nobody listens on %s: see %s", endpoint, log.Name())
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// openStore opens the bucket at an endpoint.
func openStore(ctx context.Context, endpoint string) (*s3.Store, error) {
	return s3.Open(ctx, s3.Config{Endpoint: endpoint, Insecure: true, Bucket: bucket, AccessKey: accessKey, SecretKey: secretKey, Region: region})
}

// init makes the repository, of small chunks: what matters here is how many share packs, not bytes.
func (w *world) init(ctx context.Context) error {
	b, err := openStore(ctx, w.store.endpoint)
	if err != nil {
		return err
	}
	retry := chunkstore.Retry(b, chunkstore.RetryOptions{MaxElapsed: 30 * time.Second})
	for range 100 { // MinIO listens before it serves
		if err = b.CreateBucket(ctx); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	key := crypto.NewKeyFile()
	if err := os.WriteFile(w.keyFile(), key, 0o600); err != nil {
		return err
	}
	cost := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	_, err = chunkstore.Init(ctx, retry, crypto.KeyFile(key), crypto.SlotInfo{Label: "chaos"}, cost, chunkstore.ChunkerParams{Min: 64 << 10, Bits: 15, Max: 1 << 20})
	return err
}

func (w *world) keyFile() string { return filepath.Join(w.dir, "key") }
