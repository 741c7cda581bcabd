// Command bench measures hakobune beside what else is used for the same purpose, on the same data, in one run, and writes
// the tables of docs/performance.md. run.sh brings what it needs: an engine of its own, the programs, the image.
//
// What is compared writes to the same MinIO through the loopback interface (borg, which knows no S3, and the registry: to a
// directory), is encrypted with a password where it can be, and compresses with zstd where that is a choice (kopia and borg;
// restic does by itself). A scenario is a sequence of steps. Before each step the data change and are read once, so that all find
// the same caches; then each program backs them up, one after the other, and is asked for its list, which must have
// changed. Dirty pages are written out before each run. Where a run restores, the application must give the checksums it gave.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scenarios are run in this order: restore brings back what nights stored.
var scenarios = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"nights", (*bench).nights},
	{"restore", (*bench).restore},
	{"smallfiles", (*bench).smallFiles},
	{"bigfile", (*bench).bigFile},
}

// bench is one run.
type bench struct {
	host     host
	hakobune string // the program
	work     string // a directory whose owner removes it
	image    string // the file of the system's image
	courses  int    // of a MiB each, in the system
	files    int    // small ones
	big      int64  // MiB

	system *system // nil until it runs
	tables []*table
	log    io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	b := &bench{hakobune: os.Getenv("HAKOBUNE"), log: os.Stderr}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	engine := f.String("engine", "", "`DIR` of an engine that engines.sh brought up for this run; it is emptied")
	setup := f.String("setup", "", "`DIR` of engines.sh")
	doc := f.String("doc", "", "also write the tables into `FILE`, between its marks")
	f.StringVar(&b.work, "work", "", "`DIR` for everything that is written")
	f.StringVar(&b.image, "image", "", "`FILE` of the image of the system")
	f.IntVar(&b.courses, "courses", 165, "nights, restore: `MIB` of attachments in the system")
	f.IntVar(&b.files, "files", 200_000, "smallfiles: how many")
	f.Int64Var(&b.big, "big", 10*1024, "bigfile: its `MIB`")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: run.sh [FLAG...] [SCENARIO...]   scenarios:", strings.Join(names(), " "))
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, name := range f.Args() {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("no scenario %s; there are: %s", name, strings.Join(names(), " "))
		}
	}
	var err error
	if b.host, err = newHost(*engine, *setup); err != nil {
		return err
	}
	stop, err := b.servers(ctx)
	defer stop()
	if err != nil {
		return err
	}
	err = b.runAll(ctx, f.Args())
	text := b.report(context.WithoutCancel(ctx)) // also of what came before an error
	fmt.Print(text)
	if err != nil || *doc == "" {
		return err
	}
	return document(*doc, text)
}

// runAll runs the scenarios named, or all.
func (b *bench) runAll(ctx context.Context, chosen []string) error {
	for _, s := range scenarios {
		if len(chosen) > 0 && !slices.Contains(chosen, s.name) {
			continue
		}
		start := time.Now()
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(b.log, "%s took %s\n", s.name, time.Since(start).Round(time.Second))
	}
	return nil
}

func names() []string {
	var all []string
	for _, s := range scenarios {
		all = append(all, s.name)
	}
	return all
}
