package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

func (p *program) registryCommand() *cli.Command {
	return &cli.Command{
		Name:  "registry",
		Usage: "serve images straight from the repository",
		Subcommands: []*cli.Command{{
			Name:  "serve",
			Usage: "a registry for docker pull, and with --writable for docker push, until it is interrupted",
			Description: `Any machine with Docker pulls a protected container as an image, its changes included, as the snapshot has it:

   hakobune registry serve
   docker pull 127.0.0.1:5000/shop/web:latest
   docker pull 127.0.0.1:5000/shop/web:1a2b3c4d     of the snapshot with that id
   podman pull --tls-verify=false 127.0.0.1:5000/shop/web:latest
   ctr images pull --plain-http 127.0.0.1:5000/shop/web:latest     containerd, as on nodes of Kubernetes

An image is named SYSTEM/CONTAINER (or SYSTEM/SERVICE) and tagged with the first 8 digits of a snapshot's id, or
with a tag of it. Without flags nothing can be pushed, and it listens on the loopback interface only. Whoever
reaches it reads what the snapshots hold, so any other address wants a certificate and passwords:

   htpasswd -Bc users alice
   hakobune registry serve --listen :5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users

With --writable, what is pushed as NAME:TAG becomes a snapshot of the system pushed/NAME with that tag, like any
other: snapshots lists it, check verifies it, forget and prune take it, copy and restore know it. It is pulled byte
for byte as it was pushed; a restore gives the engine its images. Nothing can be deleted through the registry.

   hakobune registry serve --writable
   docker push 127.0.0.1:5000/team/app:v1
   hakobune snapshots --system pushed/team/app`,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` and port to listen on", Value: "127.0.0.1:5000"},
				&cli.StringFlag{Name: "tls-cert", Usage: "`FILE` with the certificate, in PEM"},
				&cli.StringFlag{Name: "tls-key", Usage: "`FILE` with its key"},
				&cli.StringFlag{Name: "htpasswd", Usage: "`FILE` with users and bcrypt hashes of their passwords, one of which must be given"},
				&cli.BoolFlag{Name: "insecure", Usage: "listen on other addresses without TLS or without passwords"},
				&cli.BoolFlag{Name: "writable", Usage: "let images be pushed; on other addresses only with passwords"},
			},
			Action: p.registryServe,
		}},
	}
}

type listeningLine struct {
	Type    string `json:"message_type"`
	Address string `json:"address"`
}

func (p *program) registryServe(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	users, config, err := registryAccess(c)
	if err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", c.String("listen"))
	if err != nil {
		return withHint(err, "another process has the address; --listen takes another one")
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	images := registry.New(repo, importer.ContainerImages(repo, ""), registry.Options{
		TempDir: os.TempDir(), Log: p.logger(c), Writable: c.Bool("writable"), Host: hostName(), Program: "hakobune " + version(),
	})
	server := &http.Server{Handler: users.guard(images), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	err = p.result(c, listeningLine{"listening", l.Addr().String()}, func() {
		fmt.Fprintf(p.out, "serving on %s; docker pull %s/SYSTEM/CONTAINER:latest\n", l.Addr(), l.Addr())
	})
	return errors.Join(err, serveUntil(c.Context, server, l), images.Close())
}

// registryAccess reads who may pull and push, and the certificate.
func registryAccess(c *cli.Context) (users, *tls.Config, error) {
	cert, key, file := c.String("tls-cert"), c.String("tls-key"), c.String("htpasswd")
	if (cert == "") != (key == "") {
		return nil, nil, usage("--tls-cert and --tls-key go together")
	}
	if (cert == "" || file == "") && !c.Bool("insecure") && !loopback(c.String("listen")) {
		return nil, nil, usage("%s can be reached by others: everybody could read what the snapshots hold", c.String("listen")).
			hint("give --tls-cert, --tls-key and --htpasswd, or --insecure")
	}
	if c.Bool("writable") && file == "" && !loopback(c.String("listen")) {
		return nil, nil, usage("%s can be reached by others: everybody could push images", c.String("listen")).hint("give --htpasswd")
	}
	var known users
	if file != "" {
		var err error
		if known, err = readUsers(file); err != nil {
			return nil, nil, err
		}
	}
	if cert == "" {
		return known, nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %s: %w", cert, err)
	}
	return known, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// loopback reports whether an address to listen on is reached from this host only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// serveUntil serves until ctx ends; what is being served then has some seconds more.
func serveUntil(ctx context.Context, server *http.Server, l net.Listener) error {
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return server.Close()
	}
	return nil
}
