package execagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(t.Context()))
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         api.Settlement
		errorHas     string
	}{
		{"JSON as it is", `echo ' {"findings": [1, 2]} '`, api.Settlement{Verdict: "complete", Result: json.RawMessage(`{"findings": [1, 2]}`)}, ""},
		{"text as a string", `printf 'two\nlines\n'`, api.Settlement{Verdict: "complete", Result: json.RawMessage(`"two\nlines"`)}, ""},
		{"nothing", `true`, api.Settlement{Verdict: "complete"}, ""},
		{"failure", `echo partial; echo why >&2; exit 3`, api.Settlement{Verdict: "fail", Result: json.RawMessage(`"partial"`)}, "exit status 3: why"},
		{"EX_TEMPFAIL", `exit 75`, api.Settlement{Verdict: "fail"}, "exit status 75"},
		{"EX_DATAERR", `exit 65`, api.Settlement{Verdict: "fail", NoRetry: true}, "exit status 65"},
		{"a signal", `kill -9 $$`, api.Settlement{Verdict: "fail"}, "signal: killed"},
		{"input", `cat`, api.Settlement{Verdict: "complete", Result: json.RawMessage(`INPUT`)}, ""},
		{"environment", `echo $QUORATE_TASK_ID $QUORATE_EPOCH $QUORATE_ACTION $QUORATE_TARGET $QUORATE_ATTEMPT $QUORATE_IDEMPOTENCY_KEY $QUORATE_AGENT_ID $QUORATE_FLEET_ID`,
			api.Settlement{Verdict: "complete", Result: json.RawMessage(`"TASK EPOCH vet go 2 k a f"`)}, ""},
		{"the largest result", fmt.Sprintf(`printf '"'; head -c %d /dev/zero | tr '\0' x; printf '"'`, MaxResultBytes-2), api.Settlement{Verdict: "complete", Result: json.RawMessage("LONG")}, ""},
		{"a larger result", fmt.Sprintf(`head -c %d /dev/zero | tr '\0' x`, MaxResultBytes+1), api.Settlement{Verdict: "fail", NoRetry: true}, "over 1048576 bytes"},
		{"a result that grows as a string", fmt.Sprintf(`head -c %d /dev/zero | tr '\0' x`, MaxResultBytes-1), api.Settlement{Verdict: "fail", NoRetry: true}, "over 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := newCluster(t)
			l := cl.give()
			cl.run(c.script)
			got := next(t, cl.settled, "verdict")
			switch want := string(c.want.Result); want {
			case "INPUT":
				var in api.Lease
				if err := json.Unmarshal(got.Result, &in); err != nil || in.TaskID != l.TaskID || string(in.Input) != string(l.Input) {
					t.Errorf("standard input %s: %v", got.Result, err)
				}
			case "LONG":
				if len(got.Result) != MaxResultBytes {
					t.Errorf("a result of %d bytes, want %d", len(got.Result), MaxResultBytes)
				}
			default:
				want = strings.NewReplacer("TASK", l.TaskID, "EPOCH", fmt.Sprint(l.Epoch)).Replace(want)
				if !jsonEqual(string(got.Result), want) {
					t.Errorf("result %s, want %s", got.Result, want)
				}
			}
			if got.TaskID != l.TaskID || got.Epoch != l.Epoch || got.Verdict != c.want.Verdict || got.NoRetry != c.want.NoRetry || !strings.Contains(got.Error, c.errorHas) {
				t.Errorf("settlement %+v, want %+v with error %q", got, c.want, c.errorHas)
			}
		})
	}
}

func jsonEqual(a, b string) bool {
	var x, y any
	_ = json.Unmarshal([]byte(a), &x)
	_ = json.Unmarshal([]byte(b), &y)
	return fmt.Sprint(x) == fmt.Sprint(y)
}

func TestStderrTail(t *testing.T) {
	c := newCluster(t)
	c.give()
	c.run(fmt.Sprintf(`echo beginning >&2; head -c %d /dev/zero | tr '\0' y >&2; echo end >&2; exit 1`, 3*MaxStderrBytes))
	got := next(t, c.settled, "verdict").Error
	if strings.Contains(got, "beginning") || !strings.HasSuffix(got, "yend") || len(got) > MaxStderrBytes+len("exit status 1: ") {
		t.Errorf("%d bytes of error: %.30s…%s", len(got), got, got[max(0, len(got)-10):])
	}
}

func TestNoSuchCommand(t *testing.T) {
	c := newCluster(t)
	c.give()
	c.run("", func(cfg *Config) { cfg.Command = []string{filepath.Join(t.TempDir(), "missing")} })
	if got := next(t, c.settled, "verdict"); got.Verdict != "fail" || !strings.Contains(got.Error, "does not start") {
		t.Errorf("settlement %+v", got)
	}
}

// family is a script whose grandchild lives long and holds a pipe. The script
// tells through it that it is up; the pipe's end is the end of them all.
func family(t *testing.T, script string) (sh string, up, gone <-chan struct{}) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	began, ended := make(chan struct{}), make(chan struct{})
	go func() {
		f, err := os.Open(fifo)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if _, err := io.ReadFull(f, make([]byte, len("up\n"))); err != nil {
			t.Error(err)
		}
		close(began)
		_, _ = io.Copy(io.Discard, f)
		close(ended)
	}()
	return fmt.Sprintf("exec 3>%s; (trap '' TERM; echo up >&3; exec sleep 1000) & %s", fifo, script), began, ended
}

// Each way to stop a command ends its whole process group, with one that
// ignores SIGTERM in it.
func TestStops(t *testing.T) {
	for _, c := range []struct {
		name, script string
		cfg          func(*Config)
		stop         func(c *cluster, a *agent, l api.Lease)
		settled      string // part of the error settled; empty: nothing is
	}{
		{"cancelled", "wait", nil, func(c *cluster, _ *agent, l api.Lease) {
			c.events <- revoked(l, "cancelled")
		}, ""},
		{"cancelled, deaf", "trap '' TERM; wait; wait; wait", nil, func(c *cluster, _ *agent, l api.Lease) {
			c.events <- revoked(l, "cancelled")
		}, ""},
		{"stale lease", "wait", nil, func(c *cluster, _ *agent, l api.Lease) { c.events <- revoked(l, "stale_lease") }, ""},
		{"timeout", "echo slow >&2; wait", func(cfg *Config) { cfg.Timeout = 2 * time.Second }, func(*cluster, *agent, api.Lease) {}, "timed out after 2s: slow"},
		{"abort", "wait", nil, func(_ *cluster, a *agent, _ api.Lease) { a.stop(); a.Abort() }, "the agent was stopped"},
		{"drain", "wait", func(cfg *Config) { cfg.Drain = 50 * time.Millisecond }, func(_ *cluster, a *agent, _ api.Lease) { a.stop() }, "the agent was stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := newCluster(t)
			script, up, gone := family(t, c.script)
			l := cl.give()
			if c.cfg == nil {
				c.cfg = func(*Config) {}
			}
			a := cl.run(script, c.cfg)
			next(t, cl.held, "session")
			next(t, up, "command")
			next(t, cl.started, "start")
			c.stop(cl, a, l)
			next(t, gone, "end of the process group")
			if c.settled == "" {
				a.stop()
				next(t, a.ended, "end of Run")
				select {
				case s := <-cl.settled:
					t.Errorf("settled %+v though revoked", s)
				default:
				}
				return
			}
			if s := next(t, cl.settled, "verdict"); s.Verdict != "fail" || s.NoRetry || !strings.Contains(s.Error, c.settled) {
				t.Errorf("settled %+v, want error %q", s, c.settled)
			}
		})
	}
}

// What a command that ended well leaves behind ends with it.
func TestLeftBehind(t *testing.T) {
	c := newCluster(t)
	script, up, gone := family(t, "exec >/dev/null; exit 0")
	c.give()
	c.run(strings.Replace(script, "(trap", "echo up >&3; (trap", 1))
	next(t, c.settled, "verdict")
	next(t, up, "command")
	next(t, gone, "end of the process group")
}

// What is begun is said to be, and what is recalled then is kept and said to be
// started; what no command has begun with goes back.
func TestStarted(t *testing.T) {
	c := newCluster(t)
	fifo := filepath.Join(t.TempDir(), "go")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	l := c.give()
	c.run("cat " + fifo)
	for range 2 {
		if got := next(t, c.started, "start"); got != l.TaskID {
			t.Errorf("%s is started, want %s", got, l.TaskID)
		}
		c.events <- &pb.SessionResponse{Recall: []*pb.Claim{{TaskId: l.TaskID, Epoch: l.Epoch}, {TaskId: "unheard of", Epoch: 1}}}
	}
	if err := os.WriteFile(fifo, []byte("7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := next(t, c.settled, "verdict"); string(s.Result) != "7" {
		t.Errorf("settled %+v", s)
	}
}

// Of an exactly_once effect nobody can tell, when its command was killed.
func TestInDoubt(t *testing.T) {
	c := newCluster(t)
	c.give(func(l *api.Lease) { l.Guarantee = "exactly_once" })
	c.run("kill -9 $$")
	if s := next(t, c.settled, "verdict"); s.Verdict != "unknown" || s.Error == "" {
		t.Errorf("settled %+v", s)
	}
}

// An exactly_once effect whose command exited 0 has happened, whatever it printed.
func TestTooLargeAndHappened(t *testing.T) {
	c := newCluster(t)
	c.give(func(l *api.Lease) { l.Guarantee = "exactly_once" })
	c.run(fmt.Sprintf("head -c %d /dev/zero", MaxResultBytes+1))
	if s := next(t, c.settled, "verdict"); s.Verdict != "complete" || !strings.Contains(string(s.Result), "result_too_large") {
		t.Errorf("settled %+v", s)
	}
}

// A verdict is repeated until it is acknowledged, or refused for good.
func TestSettleRepeats(t *testing.T) {
	c := newCluster(t)
	c.mu.settle = func(n int, _ api.Settlement) *pb.Problem {
		return map[int]*pb.Problem{1: {Status: 503, Layer: 5, Code: "no_leader", Retry: "later"}, 2: {Status: 503, Layer: 5, Code: "unknown", Retry: "same_key"}}[n]
	}
	c.give()
	a := c.run("true")
	next(t, c.settled, "verdict")
	if c.mu.settles != 3 {
		t.Errorf("%d attempts, want 3", c.mu.settles)
	}
	refused := make(chan struct{})
	c.mu.Lock()
	c.mu.settle = func(n int, _ api.Settlement) *pb.Problem {
		if n == 4 {
			close(refused)
			return &pb.Problem{Status: 409, Layer: 5, Code: "stale_lease", Retry: "no"}
		}
		return nil
	}
	c.mu.Unlock()
	c.give()
	next(t, refused, "refused verdict")
	c.give() // its verdict is the next thing heard
	next(t, c.settled, "verdict")
	a.stop()
	next(t, a.ended, "end of Run")
	if c.mu.settles != 5 {
		t.Errorf("%d attempts, want 5: a stale verdict is not repeated", c.mu.settles)
	}
}

// A result that the node does not take fails the task, with its reason.
func TestResultRefused(t *testing.T) {
	c := newCluster(t)
	c.mu.settle = func(_ int, s api.Settlement) *pb.Problem {
		if s.Verdict == "complete" {
			return &pb.Problem{Status: 413, Layer: 2, Code: "payload_too_large", Retry: "no", Detail: "result has 9 bytes, at most 8"}
		}
		return nil
	}
	c.give()
	c.run(`echo '"1234567"'`)
	if s := next(t, c.settled, "verdict"); s.Verdict != "fail" || !s.NoRetry || !strings.Contains(s.Error, "at most 8") {
		t.Errorf("settled %+v", s)
	}
}

func TestDrainFinishes(t *testing.T) {
	c := newCluster(t)
	dir := t.TempDir()
	for _, name := range []string{"up", "go"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.give()
	a := c.run(fmt.Sprintf("cd %s; echo >up; cat go; echo done", dir))
	if _, err := os.ReadFile(filepath.Join(dir, "up")); err != nil { // the command runs
		t.Fatal(err)
	}
	a.stop()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := next(t, c.settled, "verdict"); string(s.Result) != `"done"` {
		t.Errorf("settled %+v", s)
	}
	if err := next(t, a.ended, "end of Run"); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A session that ends is opened again, with the manifest and what is held; a
// node that leaves ends it too.
func TestComesBack(t *testing.T) {
	c := newCluster(t)
	a := c.run("exec sleep 1000")
	if held := next(t, c.held, "session"); len(held) != 0 {
		t.Errorf("held at first: %+v", held)
	}
	l := c.give()
	next(t, c.started, "start")
	c.end <- problem(connect.CodeUnavailable, 503, "closing", "later")
	if held := next(t, c.held, "session"); len(held) != 1 || held[0].TaskId != l.TaskID || held[0].Epoch != l.Epoch {
		t.Errorf("held at the second: %+v", held)
	}
	c.events <- &pb.SessionResponse{Drain: true}
	if held := next(t, c.held, "session"); len(held) != 1 {
		t.Errorf("held at the third: %+v", held)
	}
	c.events <- revoked(l, "cancelled")
	l = c.give()
	next(t, c.started, "start of the next task")
	if c.mu.Lock(); c.mu.manifests != 3 {
		t.Errorf("heard the manifest %d times, want 3", c.mu.manifests)
	}
	c.mu.Unlock()
	a.stop()
	a.Abort()
	if s := next(t, c.settled, "verdict"); s.TaskID != l.TaskID {
		t.Errorf("settled %+v", s)
	}
	next(t, a.ended, "end of Run")
	if !c.mu.drained {
		t.Error("it ended without a word")
	}
}

func TestFenced(t *testing.T) {
	c := newCluster(t)
	script, up, gone := family(t, "wait")
	a := c.run(script)
	next(t, c.held, "session")
	c.give()
	next(t, up, "command")
	c.end <- problem(connect.CodeAborted, 409, "session_fenced", "no")
	next(t, gone, "end of the process group: the task is not this process's any more")
	var e *api.Error
	if err := next(t, a.ended, "end of Run"); !errors.As(err, &e) || e.Code != "session_fenced" || !strings.Contains(err.Error(), "another process runs as a") {
		t.Errorf("Run: %v", err)
	}
}

func TestAtMostMax(t *testing.T) {
	c := newCluster(t)
	dir := t.TempDir()
	for range 6 {
		c.give()
	}
	// Each command notes how many others run beside it.
	c.run(fmt.Sprintf(`cd %s; touch $$; ls | wc -l; sleep 0.05; rm $$`, dir), func(cfg *Config) { cfg.Max = 2 })
	for range 6 {
		if s := next(t, c.settled, "verdict"); string(s.Result) != "1" && string(s.Result) != "2" {
			t.Errorf("result %s: more than 2 at a time", s.Result)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		cfg Config
		bad bool
	}{{Config{}, true}, {Config{Command: []string{"x"}, Max: -1}, true}, {Config{Command: []string{"x"}, Max: maxTasks + 1}, true},
		{Config{Command: []string{"x"}, Max: maxTasks}, false}, {Config{Command: []string{"x"}}, false}} {
		if _, err := New(c.cfg); (err != nil) != c.bad {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}
