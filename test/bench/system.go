package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const (
	systemImage = "hakobune-bench/system"
	systemName  = "hkbench-system"
	sitePort    = "8090"
)

// system is the application on the home engine: web server, database and files in one container.
type system struct {
	source
	all    []*tool
	backed bool // by each tool, at least once
}

// start has the application run, with its first content.
func (b *bench) start(ctx context.Context) (*system, error) {
	if b.system != nil {
		return b.system, nil
	}
	if _, err := b.host.output(ctx, nil, "docker load -q -i "+b.image); err != nil {
		return nil, err
	}
	if err := b.launch(ctx, systemName, "-p "+sitePort+":80"); err != nil {
		return nil, err
	}
	s := &system{source: source{scenario: "nights", name: systemName}}
	var err error
	if s.dir, err = b.merged(ctx, systemName); err != nil {
		return nil, err
	}
	if err := b.courses1M(ctx, b.courses); err != nil {
		return nil, err
	}
	s.all = b.nightly(s.source)
	b.system = s
	return s, b.create(ctx, s.all)
}

// launch runs a container of the system's image until it is healthy.
func (b *bench) launch(ctx context.Context, name, flags string) error {
	_, err := b.host.output(ctx, nil, "docker run -d --name "+name+" "+flags+" "+systemImage+untilHealthy(name))
	return err
}

// untilHealthy is the end of a line that started a container.
func untilHealthy(name string) string {
	return `; for ((i = 0; i < 3000; i++)); do [ "$(docker inspect -f '{{.State.Health.Status}}' ` + name + `)" != healthy ] || exit 0; sleep 0.1; done; exit 1`
}

// merged is where the host sees a running container's files.
func (b *bench) merged(ctx context.Context, name string) (string, error) {
	out, err := b.host.output(ctx, nil, "docker inspect -f '{{.Id}} {{if .GraphDriver}}{{.GraphDriver.Data.MergedDir}}{{end}}' "+name+"; docker info -f '{{.DockerRootDir}}'")
	if err != nil {
		return "", err
	}
	words := strings.Fields(out)
	if len(words) == 3 && words[1] != "<no" {
		return words[1], nil
	}
	return words[len(words)-1] + "/rootfs/overlayfs/" + words[0], nil
}

// sizes tells the system's: of its image, and of what its container has changed.
func (b *bench) sizes(ctx context.Context) (image, own int64, err error) {
	out, err := b.host.output(ctx, nil, "docker image inspect -f '{{.Size}}' "+systemImage+"; docker inspect -s -f '{{.SizeRw}}' "+systemName)
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(out, &image, &own)
	return image, own, err
}

// courses1M adds courses with an attachment of a MiB each, half of which compresses.
func (b *bench) courses1M(ctx context.Context, n int) error {
	_, err := b.site(ctx, http.MethodPost, "/add?kb=1024&courses="+strconv.Itoa(n))
	return err
}

func (b *bench) checksum(ctx context.Context) (string, error) {
	return b.site(ctx, http.MethodGet, "/checksum")
}

func (b *bench) site(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+b.host.address+":"+sitePort+path, http.NoBody)
	if err != nil {
		return "", err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, r.Status, body)
	}
	return string(body), err
}
