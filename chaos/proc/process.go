package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// logTailBytes is how much of a process's log an error quotes.
const logTailBytes = 8192

// ErrExited says that a process ended while something was expected of it.
var ErrExited = errors.New("process ended")

// Process is one operating-system process started here, its output in a file.
type Process struct {
	Name string
	Log  string // path of the file that stdout and stderr are appended to
	cmd  *exec.Cmd
	done chan struct{} // closed once cmd.Wait returned
	err  error         // what it returned; read after done
}

// spawn starts cmd. It must run on a thread that outlives the process when
// dieWithParent is set: the kernel's death signal is tied to that thread.
func spawn(name, logPath string, cmd *exec.Cmd, detach bool) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(logPath), 0o755); err != nil {
		return nil, fmt.Errorf("proc: %w", err)
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("proc: %w", err)
	}
	defer log.Close() // the child has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = procAttr(detach)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("proc: start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: logPath, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running says whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode is the process's exit code, or -1 while it runs or when a signal
// ended it.
func (p *Process) ExitCode() int {
	if p.Running() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	if p.Running() {
		_ = p.cmd.Process.Kill() // fails only when it is gone already
	}
	<-p.done
}

// Stop asks the process to end with SIGTERM and waits. When ctx ends first the
// process is killed and that is the error, as is an exit code other than zero.
func (p *Process) Stop(ctx context.Context) error {
	if p.Running() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("proc: %s did not stop on SIGTERM: %w%s", p.Name, ctx.Err(), p.tail())
	}
	if p.err != nil {
		return fmt.Errorf("proc: %s: %w%s", p.Name, p.err, p.tail())
	}
	return nil
}

// Pause stops the process where it is (SIGSTOP), as a machine that hangs.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on (SIGCONT).
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	if !p.Running() {
		return p.exited()
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("proc: %s: %v: %w", p.Name, s, err)
	}
	return nil
}

// Wait waits until the process has ended and returns its exit code.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("proc: waiting for %s: %w", p.Name, ctx.Err())
	}
}

// CPU is the user and system time the process has used up to now, or in all
// when it has ended.
func (p *Process) CPU() (time.Duration, error) {
	if !p.Running() {
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), nil
	}
	return cpuOf(p.PID())
}

// RSS is the resident memory of the running process, in bytes.
func (p *Process) RSS() (int64, error) { return rssOf(p.PID()) }

// exited is the error for a process that ended too early.
func (p *Process) exited() error {
	return fmt.Errorf("proc: %s (%v): %w%s", p.Name, p.cmd.ProcessState, ErrExited, p.tail())
}

// tail renders the end of the log for an error.
func (p *Process) tail() string {
	b := LogTail(p.Log, logTailBytes)
	if len(b) == 0 {
		return ""
	}
	return "; its log ends:\n" + string(b)
}

// LogTail is the last lines of a file, at most max bytes; nil when it cannot
// be read.
func LogTail(path string, max int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	from := size - max
	if from < 0 {
		from = 0
	}
	b := make([]byte, size-from)
	n, _ := f.ReadAt(b, from)
	b = b[:n]
	if from > 0 {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return b
}
