package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"runtime/trace"

	"github.com/urfave/cli/v2"
)

// profileFlags are for whoever looks for where the time of a command goes: `go tool pprof` and
// `go tool trace` read the files. They are not shown in help.
func profileFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "cpuprofile", Usage: "write a profile of processor time to `FILE`", Hidden: true},
		&cli.StringFlag{Name: "memprofile", Usage: "write a profile of allocated memory to `FILE`", Hidden: true},
		&cli.StringFlag{Name: "trace", Usage: "write a trace of the Go runtime to `FILE`", Hidden: true},
	}
}

// profiled runs a command's action under the profiles that its flags ask for.
func profiled(c *cli.Context, action cli.ActionFunc) (err error) {
	for _, p := range []struct {
		flag  string
		begin func(*os.File) error
		end   func(*os.File) error
	}{
		{"cpuprofile", func(f *os.File) error { return pprof.StartCPUProfile(f) }, func(*os.File) error { pprof.StopCPUProfile(); return nil }},
		{"trace", func(f *os.File) error { return trace.Start(f) }, func(*os.File) error { trace.Stop(); return nil }},
		{"memprofile", func(*os.File) error { return nil }, func(f *os.File) error { return pprof.Lookup("allocs").WriteTo(f, 0) }},
	} {
		name := given(c, p.flag).String(p.flag)
		if name == "" {
			continue
		}
		f, openErr := os.Create(name)
		if openErr == nil {
			openErr = p.begin(f)
		}
		if openErr != nil {
			return fmt.Errorf("--%s: %w", p.flag, openErr)
		}
		defer func() { err = errors.Join(err, p.end(f), f.Close()) }()
	}
	return action(c)
}
