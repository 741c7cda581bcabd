// Command hakobune backs up systems that run in Docker containers and brings them back elsewhere.
//
// Each command lives in a file of its own: flags become the options of one library call, whose
// result is printed. It answers to the name docker-hakobune as a plugin of the Docker CLI too.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// SIGHUP too: a closed terminal must not leave containers paused.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args, stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}
