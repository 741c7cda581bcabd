package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// stdio is what a command reads and writes. stdout carries results only.
type stdio struct {
	in  *os.File
	out *os.File
	err *os.File
}

// program is one run of the command.
type program struct {
	stdio
	env  environment
	exit int // of a command that did its work but has something to tell: exitIncomplete, exitDamage, exitMissed
}

// run runs the command line and returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	p := &program{stdio: std, env: osEnvironment()}
	args, plugin := pluginArgs(args)
	if plugin && len(args) > 1 && args[1] == pluginMetadataCommand {
		return p.finish(false, false, writePluginMetadata(p.out))
	}
	app := p.app()
	json := slices.ContainsFunc(args, func(a string) bool { return a == "--json" || a == "-json" })
	err := app.RunContext(ctx, args)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return p.finish(json, ctx.Err() != nil, err)
}

// app declares the program's commands and flags.
func (p *program) app() *cli.App {
	app := &cli.App{
		Name:  "hakobune",
		Usage: "disaster recovery for systems that run in Docker containers",
		Description: `A repository holds encrypted, deduplicated snapshots of whole systems: images, the
containers' own changes, volumes, configuration and networks. A typical first day:

   hakobune init   -r s3:https://s3.example.com/bucket/prefix
   hakobune backup -r s3:https://s3.example.com/bucket/prefix shop
   hakobune snapshots

and on another host, with nothing but the repository and its password:

   hakobune restore shop

The repository and its password are better given once, in the environment
(HAKOBUNE_REPOSITORY, HAKOBUNE_PASSWORD_FILE), than on every command line.`,
		Version:                   version(),
		HideVersion:               true,
		Flags:                     append(globalFlags(), profileFlags()...),
		Reader:                    p.in,
		Writer:                    p.out,
		ErrWriter:                 p.err,
		Suggest:                   true,
		UseShortOptionHandling:    true,
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              usageError,
		CommandNotFound:           nil,
		Action:                    p.noCommand,
		Commands: []*cli.Command{
			p.initCommand(), p.backupCommand(), p.snapshotsCommand(), p.lsCommand(), p.findCommand(), p.diffCommand(), p.dumpCommand(), p.mountCommand(),
			p.planCommand(), p.restoreCommand(), p.exportCommand(), p.composeCommand(), p.registryCommand(),
			p.standbyCommand(), p.failoverCommand(), p.failbackCommand(), p.handoverCommand(), p.drillCommand(), p.reportCommand(), p.statusCommand(),
			p.checkCommand(), p.forgetCommand(), p.tagCommand(), p.pruneCommand(), p.repairCommand(), p.copyCommand(), p.syncCommand(), p.thawCommand(),
			p.statsCommand(), p.keyCommand(), p.doctorCommand(), p.versionCommand(), p.completionCommand(), p.guardCommand(), p.helperCommand(),
		},
	}
	for _, c := range app.Commands {
		prepare(c)
	}
	return app
}

// prepare gives a command, and those below it, what all of them have.
func prepare(c *cli.Command) {
	c.OnUsageError = usageError
	c.UseShortOptionHandling = true
	for _, sub := range c.Subcommands {
		prepare(sub)
	}
	if len(c.Subcommands) > 0 {
		return
	}
	if !c.Hidden {
		c.Flags = append(c.Flags, append(globalFlags(), profileFlags()...)...)
	}
	action := c.Action
	c.Action = func(ctx *cli.Context) error {
		// The flag package stops at the first argument: a flag behind it would be taken for one.
		for _, a := range ctx.Args().Slice() {
			if len(a) > 1 && strings.HasPrefix(a, "-") {
				return usage("flag %s stands behind an argument", a).hint("put flags before the names: hakobune %s %s ...", ctx.Command.FullName(), a)
			}
		}
		return profiled(ctx, action)
	}
}

func usageError(_ *cli.Context, err error, _ bool) error { return usage("%v", err) }

// noCommand is the action without a command, or with one that does not exist.
func (p *program) noCommand(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		err := usage("there is no command %q", name)
		if near := cli.SuggestCommand(c.App.Commands, name); near != "" {
			return err.hint("%s", strings.TrimSpace(near))
		}
		return err.hint("hakobune --help lists the commands")
	}
	return cli.ShowAppHelp(c)
}

// pluginArgs recognises a call by the Docker CLI, "docker-hakobune hakobune ...", and returns the
// arguments as if the program had been called by its own name. Docker's global flags may come
// before the plugin's name.
func pluginArgs(args []string) ([]string, bool) {
	if filepath.Base(args[0]) != pluginName {
		return args, false
	}
	if i := slices.Index(args, "hakobune"); i > 0 {
		return append([]string{"hakobune"}, args[i+1:]...), true
	}
	return append([]string{"hakobune"}, args[1:]...), true
}

// one returns the only argument of a command.
func one(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s wants %s", c.Command.FullName(), what).hint("hakobune %s --help", c.Command.FullName())
	}
	return c.Args().First(), nil
}

// none refuses arguments.
func none(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("%s takes no argument, got %q", c.Command.FullName(), c.Args().First()).hint("hakobune %s --help", c.Command.FullName())
	}
	return nil
}

// finish prints the error, if there is one, and returns the exit code.
func (p *program) finish(json, interrupted bool, err error) int {
	if err == nil {
		return p.exit
	}
	code := exitCode(err, interrupted)
	hint := hintFor(err, interrupted)
	if json {
		writeJSON(p.out, exitError{Type: "exit_error", Code: code, Message: err.Error(), Hint: hint})
		return code
	}
	fmt.Fprintf(p.err, "hakobune: %v\n", err)
	if hint != "" {
		fmt.Fprintf(p.err, "hint: %s\n", hint)
	}
	return code
}

type exitError struct {
	Type    string `json:"message_type"`
	Code    int    `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}
