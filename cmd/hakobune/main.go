// Command hakobune backs up systems that run in Docker containers and brings them back elsewhere.
//
// Each command lives in a file of its own: flags become the options of one library call, whose
// result is printed. It answers to the name docker-hakobune as a plugin of the Docker CLI too.
package main

import (
	"context"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// memoryLimit is from where on the garbage collector works harder. What is in use at a time is bounded
// below it (chunkstore's pipeline and Read say by what); the rest would be garbage waiting for a
// collection. GOMEMLIMIT in the environment goes before.
const memoryLimit = 320 << 20

func main() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(memoryLimit)
	}
	// SIGHUP too: a closed terminal must not leave containers paused.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args, stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}
