package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
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
		Condition: func(what string) (bool, error) { return what == "fuse" && hasFUSE(), nil },
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"code": code, "night": night, "seed": seed, "busy": busy},
	})
}

// hasFUSE tells whether file systems can be mounted, or must be.
func hasFUSE() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err == nil && os.Geteuid() == 0 || os.Getenv("HAKOBUNE_TEST_REQUIRE") == "1" || os.Getenv("CI") == "true"
}

// Scripts for which an engine is there, and one of another kind at $STANDBY. Names on them begin with $SYSTEM, another for
// each script, which is removed afterwards.
func TestEngineScript(t *testing.T) {
	engines := dockertest.Engines(t)
	h, standby := engines[0], engines[min(1, len(engines)-1)]
	system, image := dockertest.Prefix(t, h), dockertest.Busybox(t, h)
	dockertest.RemoveLater(t, standby, system, len(engines) == 1)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/engine",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{
				"HAKOBUNE_PASSWORD": "ship in a bottle", "HAKOBUNE_REPOSITORY": e.WorkDir + "/repo",
				"XDG_STATE_HOME": e.WorkDir + "/state", "XDG_CACHE_HOME": e.WorkDir + "/cache",
				"DOCKER_HOST": h.Host, "STANDBY": standby.Host, "SYSTEM": system + "-" + strings.TrimPrefix(filepath.Base(e.WorkDir), "script-"), "IMAGE": image,
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

// seed stores snapshots of empty systems, as backups at other times would have: seed DIR FILE. A line of the
// file is
//
//	VARIABLE TIME SYSTEM HOST complete|incomplete [TAG...]
//
// and the variable is set to the first 8 digits of the snapshot's id. TIME is that of the host and of the store, or HOST/STORE.
func seed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: seed DIR FILE")
	}
	dir := ts.MkAbs(args[0])
	b, err := local.Open(dir, local.Options{})
	ts.Check(err)
	repo, err := chunkstore.Open(context.Background(), b, crypto.Passphrase([]byte(ts.Getenv("HAKOBUNE_PASSWORD"))), chunkstore.Options{})
	ts.Check(err)
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		f := strings.Fields(line)
		if len(f) < 5 {
			ts.Fatalf("seed: %q", line)
		}
		id, err := seedOne(repo, dir, f)
		ts.Check(err)
		ts.Setenv(f[0], id[:8])
	}
}

// seedOne stores the snapshot that one line of seed describes, and returns its id.
func seedOne(repo *chunkstore.Repository, dir string, f []string) (string, error) {
	host, store, two := strings.Cut(f[1], "/")
	if !two {
		store = host
	}
	taken, err := time.Parse(time.RFC3339, host)
	if err != nil {
		return "", err
	}
	stored, err := time.Parse(time.RFC3339, store)
	if err != nil {
		return "", err
	}
	s, err := repo.Begin(context.Background(), chunkstore.BeginOptions{Host: f[3]})
	if err != nil {
		return "", err
	}
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: f[2], Host: f[3], Time: taken, Complete: f[4] == "complete", Tags: f[5:]},
		System:  snapshot.System{Name: f[2]},
	}
	if err := snapshot.Commit(context.Background(), s, snap); err != nil {
		return "", err
	}
	objects, err := filepath.Glob(filepath.Join(dir, "n", "*", s.ID().String()))
	if err != nil || len(objects) != 1 {
		return "", fmt.Errorf("objects of the snapshot: %v, %w", objects, err)
	}
	return snap.ID, os.Chtimes(objects[0], stored, stored)
}
