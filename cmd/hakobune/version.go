package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// release is set by the linker (see Makefile); else the version of the module is told.
var release string

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version, and the repository format it writes",
		Action: func(c *cli.Context) error {
			v := versionInfo{"version", version(), chunkstore.FormatVersion, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return p.result(c, v, func() {
				fmt.Fprintf(p.out, "hakobune %s, repository format %d, %s on %s\n", v.Version, v.Format, v.Go, v.Platform)
			})
		},
	}
}

type versionInfo struct {
	Type     string `json:"message_type"`
	Version  string `json:"version"`
	Format   int    `json:"repository_format"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// The Docker CLI's plugin protocol: docker/cli, cli-plugins/metadata.
const (
	pluginName            = "docker-hakobune"
	pluginMetadataCommand = "docker-cli-plugin-metadata"
)

// writePluginMetadata answers the Docker CLI's question what this plugin is.
func writePluginMetadata(w io.Writer) error {
	_, err := fmt.Fprintf(w, `{"SchemaVersion":"0.1.0","Vendor":"The Hakobune authors","Version":%q,"ShortDescription":"Disaster recovery for systems that run in containers"}`+"\n", version())
	return err
}
