package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

func TestMain(m *testing.M) {
	main := func() { os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr})) }
	testscript.Main(m, map[string]func(){"hakobune": main, pluginName: main})
}

// Each command and each exit code has a script. Those that need an engine are in package test.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HAKOBUNE_PASSWORD", "ship in a bottle")
			e.Setenv("XDG_STATE_HOME", e.WorkDir+"/state")
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			e.Setenv("DOCKER_HOST", "unix://"+e.WorkDir+"/no-engine.sock")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code, "night": night},
	})
}

// Scripts for which an engine is there. Names on it begin with $SYSTEM, which is removed afterwards.
func TestEngineScript(t *testing.T) {
	h := dockertest.Engines(t)[0]
	system, image := dockertest.Prefix(t, h), dockertest.Busybox(t, h)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/engine",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{
				"HAKOBUNE_PASSWORD": "ship in a bottle", "HAKOBUNE_REPOSITORY": e.WorkDir + "/repo",
				"XDG_STATE_HOME": e.WorkDir + "/state", "XDG_CACHE_HOME": e.WorkDir + "/cache",
				"DOCKER_HOST": h.Host, "SYSTEM": system, "IMAGE": image,
			} {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code},
	})
}

// code runs a command that must end with the exit code: code 12 hakobune ...
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command ...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = exitText(err)
	}
	if got != args[0] {
		ts.Fatalf("exit %s, want %s", got, args[0])
	}
}

// exitText returns the number in "exit status 12".
func exitText(err error) string {
	s := err.Error()
	for i := len(s); i > 0; i-- {
		if s[i-1] < '0' || s[i-1] > '9' {
			return s[i:]
		}
	}
	return s
}
