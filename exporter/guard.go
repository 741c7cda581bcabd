package exporter

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// guardSlack is how much longer than the process that holds containers its guard waits before it
// lets them go itself.
const guardSlack = 5 * time.Second

const (
	// guardTime bounds the guard's answer to one message.
	guardTime = 10 * time.Second
	// guardStart bounds its start; it has to reach the engine first. Nothing is held yet.
	guardStart = time.Minute
)

// Guard is a process of its own, in a session of its own, that lets containers go when this process
// cannot: it was killed, or it stands still itself. It learns what is going to be held before it
// is. Its methods may be called from several goroutines.
type Guard struct {
	argv, env []string

	mu   sync.Mutex
	proc *guardProcess // nil: it has failed, the next hold starts another
}

// guardProcess is one run of a guard.
type guardProcess struct {
	to     *os.File
	from   *os.File
	answer *json.Decoder
	gone   chan struct{} // closed when the process has ended
}

// guardMessage is one line to a guard.
type guardMessage struct {
	Hold    []Hold        `json:"hold,omitempty"`    // these are going to be held
	Within  time.Duration `json:"within,omitempty"`  // and are to be let go after this time
	Journal string        `json:"journal,omitempty"` // which lists them too
	Bye     bool          `json:"bye,omitempty"`     // nothing is held and nothing will be
	// A message with nothing of this says that nothing is held any more.
}

// guardAnswer is one line from a guard: when it is ready, and after each message.
type guardAnswer struct {
	Error string `json:"error,omitempty"`
}

// StartGuard runs a program that calls RunGuard, and returns when that is ready. env is its whole
// environment. Neither argv nor env may hold secrets: both can be seen by others. The caller ends
// it with Close.
func StartGuard(argv, env []string) (*Guard, error) {
	if len(argv) == 0 {
		return nil, errors.New("start guard: no program")
	}
	proc, err := startGuardProcess(argv, env)
	if err != nil {
		return nil, err
	}
	return &Guard{argv: argv, env: env, proc: proc}, nil
}

func startGuardProcess(argv, env []string) (*guardProcess, error) {
	theirIn, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	defer theirIn.Close()
	from, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), to.Close())
	}
	defer theirOut.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append([]string{}, env...)
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	// In a session of its own it gets no signals that a terminal sends to our process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p := &guardProcess{to: to, from: from, answer: json.NewDecoder(from), gone: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), to.Close(), from.Close())
	}
	go func() {
		defer close(p.gone)
		_ = cmd.Wait() // its answers tell how it fares
	}()
	if err := p.await(guardStart); err != nil {
		_ = cmd.Process.Kill() // it holds nothing yet
		return nil, errors.Join(fmt.Errorf("start guard: %w", err), p.close())
	}
	return p, nil
}

// hold tells the guard what is going to be held, and returns when it has taken note. A guard that
// has died meanwhile is replaced.
func (g *Guard) hold(list []Hold, within time.Duration, journal string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := guardMessage{Hold: list, Within: within + guardSlack, Journal: journal}
	if g.tell(m) == nil {
		return nil
	}
	var err error
	if g.proc, err = startGuardProcess(g.argv, g.env); err != nil {
		return err
	}
	return g.tell(m)
}

// released tells the guard that nothing is held any more.
func (g *Guard) released() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tell(guardMessage{})
}

// tell sends a message. A guard that does not answer it is given up: by the end of its input it
// lets go what it knows of.
func (g *Guard) tell(m guardMessage) error {
	if g.proc == nil {
		return errors.New("the guard has died")
	}
	if err := g.proc.tell(m); err != nil {
		err = errors.Join(fmt.Errorf("tell the guard: %w", err), g.proc.close())
		g.proc = nil
		return err
	}
	return nil
}

func (p *guardProcess) tell(m guardMessage) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := p.to.SetWriteDeadline(time.Now().Add(guardTime)); err != nil {
		return err
	}
	if _, err := p.to.Write(append(line, '\n')); err != nil {
		return err
	}
	return p.await(guardTime)
}

// await reads one answer.
func (p *guardProcess) await(limit time.Duration) error {
	if err := p.from.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	var a guardAnswer
	if err := p.answer.Decode(&a); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

func (p *guardProcess) close() error { return errors.Join(p.to.Close(), p.from.Close()) }

// Close tells the guard that it is not needed any more and waits for its end. One that has died
// is no error.
func (g *Guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proc == nil {
		return nil
	}
	p := g.proc
	if err := g.tell(guardMessage{Bye: true}); err != nil {
		return err
	}
	g.proc = nil
	select {
	case <-p.gone:
		return p.close()
	case <-time.After(guardTime):
		return errors.Join(errors.New("close guard: it has not ended"), p.close())
	}
}
