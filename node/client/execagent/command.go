package execagent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Limits of a command's output.
const (
	MaxResultBytes = 1 << 20
	MaxStderrBytes = 4 << 10
	exitDataErr    = 65 // EX_DATAERR of sysexits.h: the input is wrong, another attempt will not help
)

// pipeWait is how long a process outside the group may keep the output open
// after the command's end.
const pipeWait = time.Second

// command runs the command once, in a process group that ends with it, with ctx
// or with this process.
func (a *Agent) command(ctx context.Context, t api.Lease) api.Settlement {
	in, err := json.Marshal(t)
	if err != nil {
		return failed("task does not encode: %v", err)
	}
	cmd := exec.Command(a.cfg.Command[0], a.cfg.Command[1:]...)
	cmd.Stdin = bytes.NewReader(append(in, '\n'))
	stdout, stderr := &head{limit: MaxResultBytes}, &tail{limit: MaxStderrBytes}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(os.Environ(), "QUORATE_TASK_ID="+t.TaskID, "QUORATE_EPOCH="+strconv.FormatUint(t.Epoch, 10),
		"QUORATE_ACTION="+t.Action, "QUORATE_TARGET="+t.Target, "QUORATE_ATTEMPT="+strconv.Itoa(t.Attempt),
		"QUORATE_IDEMPOTENCY_KEY="+t.IdempotencyKey, "QUORATE_AGENT_ID="+a.cfg.Manifest.AgentID, "QUORATE_FLEET_ID="+t.FleetID)
	g, err := newGuard()
	if err != nil {
		a.cfg.Logger.Warn("a command has no guard: if this process is killed, what the command starts goes on", "layer", 1, "task", t.TaskID, "error", err)
	}
	defer g.end()
	cmd.SysProcAttr = procAttr()
	cmd.SysProcAttr.Pgid = g.group()
	cmd.WaitDelay = pipeWait
	if err := cmd.Start(); err != nil {
		return failed("command does not start: %v", err)
	}
	group := cmp.Or(g.group(), cmd.Process.Pid)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		a.kill(group, done)
		return inDoubt(t, failed("%v%s", context.Cause(ctx), stderr))
	}
	_ = syscall.Kill(-group, syscall.SIGKILL) // what it left behind in its group
	s := verdict(err, stdout, stderr)
	if stdout.over && s.Verdict == "fail" && cmd.ProcessState.Success() && (a.effect || api.ExactlyOnce(t.Guarantee)) {
		s = api.Settlement{Verdict: "complete", Result: cut(stdout)}
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() < 0 { // a signal ended it
		s = inDoubt(t, s)
	}
	return s
}

// inDoubt is the verdict on a command that was killed: of an exactly_once
// effect nobody can tell whether it happened.
func inDoubt(t api.Lease, s api.Settlement) api.Settlement {
	if s.Verdict == "fail" && api.ExactlyOnce(t.Guarantee) {
		s.Verdict = "unknown"
	}
	return s
}

// cut stands for an output that is too large for a result, of a command that
// exited 0: what it did has happened, whatever it printed.
func cut(stdout *head) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"result_too_large":true,"stdout_bytes":%d,"limit_bytes":%d}`, stdout.bytes, MaxResultBytes))
}

// verdict is what a command's end says.
func verdict(err error, stdout *head, stderr *tail) api.Settlement {
	out := result(bytes.TrimSpace(stdout.buf.Bytes()))
	over := stdout.over || len(out) > MaxResultBytes
	stdout.over = over
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		if over {
			s := failed("the result is over %d bytes", MaxResultBytes)
			s.NoRetry = true
			return s
		}
		return api.Settlement{Verdict: "complete", Result: out}
	case errors.As(err, &exit):
		s := failed("%v%s", err, stderr)
		s.NoRetry = exit.ExitCode() == exitDataErr
		if !over {
			s.Result = out
		}
		return s
	}
	return failed("%v", err)
}

func failed(format string, args ...any) api.Settlement {
	return api.Settlement{Verdict: "fail", Error: fmt.Sprintf(format, args...)}
}

// kill ends a process group: politely, and after the grace for good.
func (a *Agent) kill(group int, done <-chan error) {
	_ = syscall.Kill(-group, syscall.SIGTERM) // gone already is fine, as below
	t := time.NewTimer(a.cfg.Grace)
	defer t.Stop()
	select {
	case <-done:
		_ = syscall.Kill(-group, syscall.SIGKILL) // those in the group that stayed
	case <-t.C:
		_ = syscall.Kill(-group, syscall.SIGKILL)
		<-done
	}
}

// head keeps the beginning of what is written.
type head struct {
	buf   bytes.Buffer
	limit int
	bytes int64 // of everything written
	over  bool
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.limit-h.buf.Len())
	h.buf.Write(p[:n])
	h.bytes += int64(len(p))
	h.over = h.over || n < len(p)
	return len(p), nil
}

// tail keeps the end of what is written.
type tail struct {
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String is the tail behind a colon, or nothing.
func (t *tail) String() string {
	s := strings.TrimSpace(strings.ToValidUTF8(string(t.buf), ""))
	if s == "" {
		return ""
	}
	return ": " + s
}
