package local_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/local"
)

// TestMain writes without end instead of running tests, if it is asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("HAKOBUNE_TEST_WRITE_TO"); dir != "" {
		fmt.Fprintln(os.Stderr, writeForEver(dir, os.Getenv("HAKOBUNE_TEST_ROUND")))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver stores objects from several goroutines and prints the name of each that is stored.
func writeForEver(dir, round string) error {
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		return err
	}
	var out sync.Mutex
	failed := make(chan error)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("p/%s/%d/%06d", round, w, i)
				if err := s.PutIfAbsent(context.Background(), name, contentOf(name)); err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Println(name)
				out.Unlock()
			}
		}()
	}
	return <-failed
}

// contentOf derives an object of up to some hundred KiB from its name.
func contentOf(name string) []byte {
	return bytes.Repeat([]byte(name), 1+len(name)*int(name[len(name)-1]))
}

// A writer that is killed leaves whole objects: those it said it had stored, and perhaps one more of
// each of its goroutines.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	stored := make(map[string]bool)
	for round := range rounds {
		for _, name := range killedWriter(t, dir, fmt.Sprint(round)) {
			stored[name] = true
		}
	}
	if len(stored) == 0 {
		t.Fatal("the writers stored nothing before they were killed")
	}
	s := open(t, dir)
	extra := 0
	for _, name := range names(t, s) {
		data, err := s.Get(t.Context(), name, 0, -1)
		if err != nil || !bytes.Equal(data, contentOf(name)) {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		if !stored[name] {
			extra++
		}
		delete(stored, name)
	}
	if len(stored) > 0 || extra > 4*rounds {
		t.Errorf("%d objects are missing, %d more are there than were reported", len(stored), extra)
	}
}

// killedWriter runs a writer, kills it at a random moment after it has stored something, and returns
// what it reported.
func killedWriter(t *testing.T, dir, round string) []string {
	t.Helper()
	var problems bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HAKOBUNE_TEST_WRITE_TO="+dir, "HAKOBUNE_TEST_ROUND="+round)
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported := bufio.NewReader(out)
	_, begun := reported.Peek(1)
	time.AfterFunc(rand.N(300*time.Millisecond), func() { cmd.Process.Kill() })
	report, err := io.ReadAll(reported)
	cmd.Wait()
	if problems.Len() > 0 || begun != nil || err != nil {
		t.Fatalf("the writer ended by itself: %s %v %v", &problems, begun, err)
	}
	return strings.Fields(string(report[:bytes.LastIndexByte(report, '\n')+1]))
}
