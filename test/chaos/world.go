package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a process may take. Those that are not killed repeat a call for up to 30 seconds.
const patience = 5 * time.Minute

// world is one run.
type world struct {
	hakobune, self string // programs
	dir            string
	seed           uint64
	store          *store
	proxy          *proxy
	log            *os.File

	mu         sync.Mutex
	counts     map[string]int
	violations []string
}

func (w *world) count(what string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what] += n
}

// violated notes what must not be, with its story.
func (w *world) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
	fmt.Fprintln(os.Stderr, "chaos: VIOLATION:", w.violations[len(w.violations)-1])
}

// host is one of those that share the repository. Two things go on at each: what its night does, and what cares for the repository.
type host struct {
	*world
	name string
	dir  string
}

// live lets hosts work for that long.
func (w *world) live(ctx context.Context, hosts int, length time.Duration) error {
	end := time.Now().Add(length)
	var all sync.WaitGroup
	for n := range hosts {
		h, err := w.newHost(n)
		if err != nil {
			return err
		}
		for k, act := range []func(context.Context, *rand.Rand){h.night, h.care} {
			dice := w.dice(uint64(2*n + k + 1))
			all.Go(func() {
				for time.Now().Before(end) && ctx.Err() == nil {
					act(ctx, dice)
				}
			})
		}
	}
	all.Wait()
	return ctx.Err()
}

func (w *world) newHost(n int) (*host, error) {
	h := &host{world: w, name: fmt.Sprintf("host-%d", n), dir: filepath.Join(w.dir, fmt.Sprintf("host-%d", n))}
	return h, os.MkdirAll(filepath.Join(h.dir, "tmp"), 0o700)
}

func (h *host) history() string { return filepath.Join(h.world.dir, "history."+h.name) }

// night backs up, mostly, and forgets; and rests, or no collection would ever find that all whom it waits for have ended.
func (h *host) night(ctx context.Context, dice *rand.Rand) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(dice.Int64N(int64(3 * time.Second)))):
	}
	if dice.IntN(4) > 0 {
		h.backUp(ctx, dice)
	} else {
		h.forget(ctx, dice)
	}
}

// care prunes, mostly, checks and reads.
func (h *host) care(ctx context.Context, dice *rand.Rand) {
	switch n := dice.IntN(10); {
	case n < 5:
		h.prune(ctx, dice)
	case n < 7:
		h.check(ctx, dice)
	default:
		h.readAny(ctx, dice)
	}
}

// process is one that has ended.
type process struct {
	line   string
	code   int
	killed bool
	out    []byte
	err    string // the end of what it said
}

// run runs a process, which dice may kill; nil: they may not. use reads its output, if it is not nil.
func (h *host) run(ctx context.Context, dice *rand.Rand, use func(io.Reader) error, program string, args ...string) process {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{
		"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_REGION=" + region,
		"HAKOBUNE_REPOSITORY=s3:http://" + h.proxy.endpoint + "/" + bucket, "HAKOBUNE_KEY_FILE=" + h.keyFile(),
		"HOME=" + h.dir, "XDG_STATE_HOME=" + filepath.Join(h.dir, "state"), "XDG_CACHE_HOME=" + filepath.Join(h.dir, "cache"),
		"TMPDIR=" + filepath.Join(h.dir, "tmp"), "PATH=/nowhere",
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	p := process{line: h.name + ": " + filepath.Base(program) + " " + strings.Join(args, " ")}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		h.violated("%s: %v", p.line, err)
		return p
	}
	if dice != nil && dice.IntN(5) == 0 {
		kill := time.AfterFunc(time.Duration(dice.Int64N(int64(2*time.Second))), func() { cmd.Process.Kill() })
		defer kill.Stop()
	}
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	p.killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	p.code, p.out, p.err = cmd.ProcessState.ExitCode(), out.Bytes(), lastBytes(errs.String(), 3000)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		h.violated("%s: stood still for %v", p.line, patience)
	}
	fmt.Fprintf(h.log, "%s %6dms code %d %s\n%s\n", start.Format("15:04:05.000"), time.Since(start).Milliseconds(), p.code, p.line, p.err)
	if use != nil && p.code == 0 {
		if err := use(&out); err != nil {
			h.violated("%s: %v", p.line, err)
		}
	}
	return p
}

func lastBytes(s string, n int) string { return s[max(0, len(s)-n):] }

// program runs hakobune, which gives up after some time.
func (h *host) program(ctx context.Context, dice *rand.Rand, use func(io.Reader) error, args ...string) process {
	if dice != nil {
		flags := []string{"--retry", retry(dice).String()}
		if dice.IntN(4) == 0 {
			flags = append(flags, "--no-cache")
		}
		args = slices.Insert(args, 1, flags...)
	}
	return h.run(ctx, dice, use, h.hakobune, args...)
}

// retry is how long a process repeats a call: some outlast every storm.
func retry(dice *rand.Rand) time.Duration {
	return []time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second}[dice.IntN(3)]
}

// ended counts how a process ended and reports whether it did well. Whoever met faults may have given up, with 1; nothing else can be the
// store's fault. So it is damage that nobody did, a repository that is said not to be there, or a panic.
func (h *host) ended(what string, p process) bool {
	switch {
	case p.killed:
		h.count(what+": killed", 1)
	case p.code == 0:
		h.count(what+": good", 1)
		return true
	case p.code == exitFailed:
		h.count(what+": gave up", 1)
	default:
		h.violated("%s: exit code %d\n%s\n%s", p.line, p.code, lastBytes(string(p.out), 3000), p.err)
	}
	return false
}

func (h *host) backUp(ctx context.Context, dice *rand.Rand) {
	p := h.run(ctx, dice, nil, h.self, "backup", "-endpoint", h.proxy.endpoint, "-dir", h.dir, "-system", h.name, "-history", h.history(), "-key", h.keyFile(),
		"-seed", strconv.FormatUint(dice.Uint64(), 10), "-retry", retry(dice).String())
	if ctx.Err() == nil {
		h.ended("backup", p)
	}
}

// forget forgets some of what is there, of whatever host, but keeps some of all.
func (h *host) forget(ctx context.Context, dice *rand.Rand) {
	past, err := recall(h.world.dir)
	if err != nil {
		h.violated("history: %v", err)
		return
	}
	wanted := past.wanted()
	if len(wanted) < 10 {
		return
	}
	dice.Shuffle(len(wanted), func(i, k int) { wanted[i], wanted[k] = wanted[k], wanted[i] })
	ids := wanted[:1+dice.IntN(len(wanted)/3)]
	for _, id := range ids {
		if err := note(h.history(), "forget %s", id); err != nil {
			h.violated("history: %v", err)
			return
		}
	}
	p := h.program(ctx, dice, nil, slices.Concat([]string{"forget", "--allow-last"}, ids)...)
	if ctx.Err() == nil && h.ended("forget", p) {
		h.count("snapshots forgotten", len(ids))
	}
}

func (h *host) prune(ctx context.Context, dice *rand.Rand) {
	p := h.program(ctx, dice, nil, "prune", "--json", "--min-age", "0s", "--max-unused", []string{"0", "5%", "50%"}[dice.IntN(3)])
	if ctx.Err() == nil && h.ended("prune", p) {
		h.pruned(p)
	}
}

func (h *host) pruned(p process) {
	for line := range bytes.Lines(p.out) {
		var report struct {
			Type            string `json:"message_type"`
			Deleted, Repack struct{ Packs int }
			Rescued         int `json:"rescued_packs"`
			Fenced          []string
		}
		if err := json.Unmarshal(line, &report); err != nil || report.Type != "summary" {
			continue
		}
		h.count("packs deleted", report.Deleted.Packs)
		h.count("packs rewritten", report.Repack.Packs)
		h.count("packs rescued", report.Rescued)
		h.count("dead sessions given up", len(report.Fenced))
	}
}

func (h *host) check(ctx context.Context, dice *rand.Rand) {
	args := []string{"check"}
	if dice.IntN(2) == 0 {
		args = append(args, "--read-data")
	}
	if p := h.program(ctx, dice, nil, args...); ctx.Err() == nil {
		h.ended("check", p)
	}
}

// readAny reads a snapshot back that is good and wanted, unless somebody wants to forget it meanwhile.
func (h *host) readAny(ctx context.Context, dice *rand.Rand) {
	past, err := recall(h.world.dir)
	if err != nil {
		h.violated("history: %v", err)
		return
	}
	wanted := past.wanted()
	if len(wanted) == 0 {
		time.Sleep(100 * time.Millisecond)
		return
	}
	id := wanted[dice.IntN(len(wanted))]
	p := h.program(ctx, dice, sumIs(past.good[id]), "dump", id+":data")
	if ctx.Err() != nil {
		return
	}
	if past, err = recall(h.world.dir); err == nil && past.forgotten[id] && p.code != 0 {
		h.count("read: forgotten meanwhile", 1)
		return
	}
	h.ended("read", p)
}

// sumIs wants a tar of files of that sum.
func sumIs(want string) func(io.Reader) error {
	return func(r io.Reader) error {
		got, err := tarSum(r)
		if err == nil && got != want {
			err = fmt.Errorf("read back %s, was %s", got, want)
		}
		return err
	}
}

// tally tells all counts.
func (w *world) tally() string {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(w.counts)) {
		fmt.Fprintf(&b, "  %-28s %6d\n", what, w.counts[what])
	}
	fmt.Fprintf(&b, "  %-28s %6d\n", "requests", w.proxy.requests)
	for _, f := range faults() {
		fmt.Fprintf(&b, "  %-28s %6d\n", "fault "+f.name, w.proxy.fired[f.name])
	}
	return b.String()
}
