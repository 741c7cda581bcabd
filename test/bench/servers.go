package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	user     = "hakobune"
	secret   = "of-the-harbour"
	s3Port   = "9000"
	registry = "127.0.0.1:5000"
)

// servers starts MinIO and the registry on the host, and returns what ends them.
func (b *bench) servers(ctx context.Context) (stop func(), err error) {
	var running []func()
	stop = func() {
		for _, end := range running {
			end()
		}
	}
	start := func(address string, env []string, line string) error {
		cmd := b.host.command(context.WithoutCancel(ctx), env, "exec "+line)
		log, err := os.Create(filepath.Join(b.work, line[:5]+".log"))
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			return err
		}
		running = append(running, func() { errors.Join(cmd.Cancel(), cmd.Wait(), log.Close()) })
		return listens(ctx, address)
	}
	err = start(net.JoinHostPort(b.host.address, s3Port), []string{"MINIO_ROOT_USER=" + user, "MINIO_ROOT_PASSWORD=" + secret},
		"minio server --quiet --address :"+s3Port+" "+b.path("minio"))
	if err != nil || !have("registry") {
		return stop, err
	}
	if err := os.Mkdir(b.path("registry"), 0o700); err != nil {
		return stop, err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: \":5000\"}\n", b.path("registry"))
	if err := os.WriteFile(b.path("registry.yml"), []byte(config), 0o600); err != nil {
		return stop, err
	}
	return stop, start(net.JoinHostPort(b.host.address, "5000"), []string{"OTEL_TRACES_EXPORTER=none"}, "registry serve "+b.path("registry.yml"))
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.work}, elem...)...)
}

func have(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

func listens(ctx context.Context, address string) error {
	for range 300 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("nobody listens on %s", address)
}

func (b *bench) s3() (*minio.Client, error) {
	return minio.New(net.JoinHostPort(b.host.address, s3Port), &minio.Options{Creds: credentials.NewStaticV4(user, secret, "")})
}

func (b *bench) makeBucket(ctx context.Context, bucket string) error {
	c, err := b.s3()
	if err != nil {
		return err
	}
	return c.MakeBucket(ctx, bucket, minio.MakeBucketOptions{})
}

// bucketSize is what the objects of a bucket have together.
func (b *bench) bucketSize(ctx context.Context, bucket string) (int64, error) {
	c, err := b.s3()
	if err != nil {
		return 0, err
	}
	var sum int64
	for o := range c.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			return 0, o.Err
		}
		sum += o.Size
	}
	return sum, nil
}

// dirSize is what the files below a directory have together; a directory that is not there has nothing.
func dirSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			sum += i.Size()
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return sum, err
}
