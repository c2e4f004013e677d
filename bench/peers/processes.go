package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/quorate/quorate/chaos/proc"
)

// processes are the servers of one peer, in a temporary directory: this program in other roles.
type processes struct {
	dir   string
	all   []*exec.Cmd
	pipes []io.Closer // of roles: they end when it is closed
}

// newProcesses makes the directory and finds n free loopback addresses.
func newProcesses(n int) (addrs []string, _ *processes, err error) {
	if addrs, err = proc.Addrs(n); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "quorate-peers-")
	if err != nil {
		return nil, nil, err
	}
	return addrs, &processes{dir: dir}, nil
}

// start starts this program in a role. It ends with its standard input, so that none outlives the harness.
func (p *processes) start(name, role string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(p.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(self, append([]string{role}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p.all, p.pipes = append(p.all, cmd), append(p.pipes, in)
	return nil
}

// programNode is a program that is installed, with somebody who ends it: args are its path and its arguments.
func programNode(args []string) error {
	if len(args) == 0 {
		return errors.New("want a program")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	input := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
		close(input)
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	select {
	case err := <-ended:
		return err
	case <-input:
	case <-stop:
	}
	_ = cmd.Process.Kill() // its data is temporary
	<-ended
	return nil
}

// stopWait is how long a server may take to end by itself.
const stopWait = 10 * time.Second

// close ends all and removes what they wrote.
func (p *processes) close() {
	for i, cmd := range p.all {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = p.pipes[i].Close()
	}
	for _, cmd := range p.all {
		t := time.AfterFunc(stopWait, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // what it measured is known already
		t.Stop()
	}
	_ = os.RemoveAll(p.dir) // temporary
}

// dieWithInput ends a server when its standard input does: the harness is gone.
func dieWithInput() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
		os.Exit(1)
	}()
}

var errNotInstalled = errors.New("not installed")
