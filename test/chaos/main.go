// Command chaos shows that what was reported good can be restored, whatever happens meanwhile: several hosts back up, forget, prune,
// check and read in one repository for some time, all at once, as processes that are killed at random, and their way to the store leads
// through a proxy that delays, cuts, loses and refuses. Afterwards every snapshot whose backup said that it was good, and that nobody
// asked to forget, must read back byte for byte, and a check must find nothing.
//
// What is forgotten, pruned, checked and read is so by the built program. Backups are made by this one (chaos backup), with the same
// library, because they need no engine then; each tells in a file, durably, what it stored.
//
// All decisions come from a seed, which is printed. Which process meets which fault depends on the machine too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	os.Exit(code)
}

// run returns the exit code: 0, exitFailed, or of a backup what says more.
func run(ctx context.Context, args []string) (int, error) {
	if len(args) > 0 && args[0] == "backup" {
		return runBackup(ctx, args[1:])
	}
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	length := f.Duration("for", 10*time.Minute, "how long hosts work")
	hakobune := f.String("hakobune", "hakobune", "the built `PROGRAM`")
	seed := f.Uint64("seed", rand.Uint64(), "of all decisions")
	hosts := f.Int("hosts", 4, "how many")
	if err := f.Parse(args); err != nil {
		return exitFailed, err
	}
	fmt.Printf("chaos: seed %d, %d hosts for %v\n", *seed, *hosts, *length)
	w, err := newWorld(ctx, *hakobune, *seed)
	if err == nil {
		defer w.store.stop()
		err = w.live(ctx, *hosts, *length)
	}
	if err != nil {
		return exitFailed, err
	}
	w.judge(ctx, *hosts)
	fmt.Print(w.tally())
	if err := w.verdict(ctx); err != nil {
		return exitFailed, fmt.Errorf("%w\nseed %d; what was stored and logged is in %s", err, *seed, w.dir)
	}
	fmt.Println("chaos: everything that was reported good is there")
	w.store.stop() // or it writes on while its directory is removed; to stop it twice does nothing
	return 0, os.RemoveAll(w.dir)
}

// newWorld starts a store, the proxy before it, and makes the repository.
func newWorld(ctx context.Context, hakobune string, seed uint64) (*world, error) {
	program, err := exec.LookPath(hakobune)
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hakobune-chaos.")
	if err != nil {
		return nil, err
	}
	w := &world{hakobune: program, self: self, dir: dir, seed: seed, counts: map[string]int{}}
	if w.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if w.store, err = startStore(ctx, dir); err != nil {
		return nil, err
	}
	if w.proxy, err = startProxy(w.store.endpoint, w.dice(0)); err == nil {
		err = w.init(ctx)
	}
	if err != nil {
		w.store.stop()
		return nil, err
	}
	return w, nil
}

// dice decide for the n-th who has some.
func (w *world) dice(n uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, n)) }
