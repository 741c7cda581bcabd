package main

import (
	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/internal/docker"
)

// engine connects to the Docker engine that the flags or the environment name. The caller closes it.
func (p *program) engine(c *cli.Context) (*docker.Engine, error) {
	return docker.Connect(c.Context, docker.Options{
		Host:   given(c, "host").String("host"),
		Env:    p.env.get,
		Logger: p.logger(c),
	})
}
