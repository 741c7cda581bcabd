package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore/s3"
)

// environment is where the program learns what stands in the process's environment: the only place
// that reads it.
type environment struct{ get func(string) string }

func osEnvironment() environment { return environment{os.Getenv} }

// own returns HAKOBUNE_<name>, or the first line of the file that HAKOBUNE_<name>_FILE names (as
// Docker secrets are given).
func (e environment) own(name string) (string, error) {
	if v := e.get("HAKOBUNE_" + name); v != "" {
		return v, nil
	}
	path := e.get("HAKOBUNE_" + name + "_FILE")
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("HAKOBUNE_%s_FILE: %w", name, err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// globalFlags are accepted before and behind the command's name.
func globalFlags() []cli.Flag {
	const category = "Every command:"
	return []cli.Flag{
		&cli.StringFlag{Category: category, Name: "repo", Aliases: []string{"r"}, Usage: "the repository: `DIR`, or s3:https://host/bucket/prefix [HAKOBUNE_REPOSITORY]"},
		&cli.StringFlag{Category: category, Name: "password-file", Aliases: []string{"p"}, Usage: "read the password from the first line of `FILE` [HAKOBUNE_PASSWORD_FILE, HAKOBUNE_PASSWORD]"},
		&cli.StringFlag{Category: category, Name: "password-command", Usage: "run `COMMAND` by a shell and take the password from its first line [HAKOBUNE_PASSWORD_COMMAND]"},
		&cli.StringFlag{Category: category, Name: "key-file", Usage: "open the repository with the key in `FILE` (a key file or age identities) instead of a password [HAKOBUNE_KEY_FILE]"},
		&cli.StringFlag{Category: category, Name: "host", Aliases: []string{"H"}, Usage: "the Docker engine, `unix:///path` or tcp://host:port [DOCKER_HOST, the Docker CLI's context]"},
		&cli.StringFlag{Category: category, Name: "cache-dir", Usage: "keep copies of the repository's index and metadata in `DIR` [HAKOBUNE_CACHE_DIR]"},
		&cli.BoolFlag{Category: category, Name: "no-cache", Usage: "keep no copies"},
		&cli.StringFlag{Category: category, Name: "ca-file", Usage: "trust the certificate authorities in `FILE` for the store [AWS_CA_BUNDLE]"},
		&cli.StringFlag{Category: category, Name: "s3-lookup", Usage: "address the bucket by `STYLE`: path or dns; found out by default"},
		&cli.StringFlag{Category: category, Name: "data-class", Usage: "put the contents of files into the storage `CLASS` of S3, such as GLACIER_IR; what every command reads stays hot; default: what init was given [HAKOBUNE_DATA_CLASS]"},
		&cli.StringFlag{Category: category, Name: "limit-upload", Usage: "send at most `RATE` to the store, such as 5MiB (a second)"},
		&cli.StringFlag{Category: category, Name: "limit-download", Usage: "read at most `RATE` from the store"},
		&cli.DurationFlag{Category: category, Name: "retry", Usage: "repeat what fails for a passing reason for up to `TIME`", Value: 15 * time.Minute},
		&cli.BoolFlag{Category: category, Name: "json", Usage: "print JSON lines with a message_type"},
		&cli.BoolFlag{Category: category, Name: "quiet", Aliases: []string{"q"}, Usage: "print results and errors only"},
		&cli.BoolFlag{Category: category, Name: "verbose", Aliases: []string{"v"}, Usage: "tell more about what is done"},
	}
}

// given returns the innermost context in which the flag was set, since a flag may stand before the
// command's name or behind it; c itself if it was not.
func given(c *cli.Context, name string) *cli.Context {
	for _, ctx := range c.Lineage() {
		if slices.Contains(ctx.LocalFlagNames(), name) {
			return ctx
		}
	}
	return c
}

// flag returns the value of a global string flag, or of its environment variable.
func (p *program) flag(c *cli.Context, name, env string) (string, error) {
	if v := given(c, name).String(name); v != "" || env == "" {
		return v, nil
	}
	return p.env.own(env)
}

func isSet(c *cli.Context, name string) bool { return given(c, name).Bool(name) }

// directory returns a directory of the program's own: of root under /var, of others where the XDG
// base directory specification says. Empty if there is no place.
func (p *program) directory(xdg, home, system string) string {
	if d := p.env.get(xdg); d != "" {
		return filepath.Join(d, "hakobune")
	}
	if os.Geteuid() == 0 {
		return filepath.Join("/var", system, "hakobune")
	}
	if h := p.env.get("HOME"); h != "" {
		return filepath.Join(h, home, "hakobune")
	}
	return ""
}

// configureS3 sets what the standard variables of AWS say beside the credentials.
func (e environment) configureS3(cfg *s3.Config) {
	cfg.Region = cmp.Or(e.get("AWS_REGION"), e.get("AWS_DEFAULT_REGION"))
	cfg.Profile = e.get("AWS_PROFILE")
	cfg.CAFile = e.get("AWS_CA_BUNDLE")
}

func (p *program) stateDir() string { return p.directory("XDG_STATE_HOME", ".local/state", "lib") }

func (p *program) cacheDir(c *cli.Context) (string, error) {
	if isSet(c, "no-cache") {
		return "", nil
	}
	dir, err := p.flag(c, "cache-dir", "CACHE_DIR")
	if dir != "" || err != nil {
		return dir, err
	}
	return p.directory("XDG_CACHE_HOME", ".cache", "cache"), nil
}
