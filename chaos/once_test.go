package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// The points of the protocol at which an agent is killed.
var crashPoints = []string{"before-intent", "after-intent", "after-effect", "in-confirm"}

// How what is in doubt is settled: a verify task that sees the counter, one
// that can't tell (then a human resolves it), or a rollback.
var crashModes = []string{"verify", "human", "undo"}

const crashLease = 1.0 // seconds

// crashAtOnce bounds the trials under way: each is a process.
const crashAtOnce = 4

var roundsFlag = flag.Int("rounds", 1, "trials of each point and mode of TestEffectsHappenOnce")

func crashAction(key string) api.ActionRequest {
	mode, _, _ := strings.Cut(key, "/")
	a := api.ActionRequest{AgentID: "agent-" + key, InstanceID: fmt.Sprint(os.Getpid()), TaskSpec: api.TaskSpec{Action: "count", Target: "counter",
		Guarantee: "exactly_once", IdempotencyKey: key, SessionID: key, LeaseSeconds: crashLease, RetryPolicy: &api.RetryPolicy{Backoff: "fixed", InitialDelaySeconds: 0.01}}}
	if mode == "undo" {
		a.Rollback = json.RawMessage(`{"action":"undo"}`)
	} else {
		a.Verify = json.RawMessage(`{"action":"check"}`)
	}
	return a
}

// crashAgent is the agent's process: it declares, has an effect on a counter
// that honours no key, confirms, and kills itself on the way.
func crashAgent(point, key string) int {
	dieAt := func(p string) {
		if p == point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // not one instruction further
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(client.Config{URLs: strings.Split(os.Getenv("CRASH_API"), ","), Patience: 20 * time.Second})
	if err != nil {
		return 1
	}
	dieAt("before-intent")
	v, err := c.Declare(ctx, crashAction(key))
	switch {
	case err != nil:
		return 3 // in doubt, or ended otherwise
	case v.Decision != api.DecisionGo:
		return 0
	}
	dieAt("after-intent")
	if count(os.Getenv("CRASH_COUNTER"), key+"\n") != nil {
		return 1
	}
	dieAt("after-effect")
	sent := make(chan struct{})
	go func() {
		close(sent)
		_, err = c.Settle(ctx, "agent-"+key, []api.Settlement{{TaskID: v.TaskID, Epoch: v.Epoch, Verdict: "complete", Result: []byte(`"counted"`)}})
		if point == "in-confirm" {
			return // to be killed, also when the answer was quicker
		}
		if err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	}()
	<-sent
	if point == "in-confirm" {
		time.Sleep(time.Millisecond) // somewhere on its way: nothing tells where
	}
	dieAt("in-confirm")
	select {}
}

// count appends one line to the counter, as one write.
func count(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(line)
	return err
}

func counted(t *testing.T, path, line string) int {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count("\n"+string(bytes.ReplaceAll(b, []byte("\n"), []byte("\n\n"))), "\n"+line+"\n")
}

// once is the test's cluster and counter.
type once struct {
	t       *testing.T
	cluster *proc.Cluster
	client  *client.Client
	counter string
}

// TestEffectsHappenOnce kills agents at every point of the protocol, and a
// node beside them: the counter is at most 1 for every key, and never 0 for
// one that is completed.
func TestEffectsHappenOnce(t *testing.T) {
	cl, err := proc.Start(t.Context(), proc.Config{Binary: binary(t), Args: []string{"--auto-approve", "count:*"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	c, err := client.New(client.Config{URLs: cl.URLs(), Patience: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := &once{t: t, cluster: cl, client: c, counter: filepath.Join(t.TempDir(), "counter")}
	ctx, stop := context.WithCancel(t.Context())
	var hooks, trials sync.WaitGroup
	for _, h := range []string{"check", "undo"} {
		hooks.Go(func() { o.hook(ctx, h) })
	}
	room := make(chan struct{}, crashAtOnce)
	for _, mode := range crashModes {
		for _, point := range crashPoints {
			for r := range *roundsFlag {
				trials.Go(func() {
					room <- struct{}{}
					defer func() { <-room }()
					o.trial(ctx, point, fmt.Sprintf("%s/%s/%d", mode, point, r))
				})
			}
		}
	}
	for n := range wrappedTrials * *roundsFlag {
		trials.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			o.wrapped(ctx, n)
		})
	}
	o.killNode(ctx)
	trials.Wait()
	stop()
	hooks.Wait()
}

// killNode takes a node away while agents die, and brings it back.
func (o *once) killNode(ctx context.Context) {
	n := o.cluster.Nodes()[1]
	n.Kill()
	if err := n.Restart(ctx); err != nil {
		o.t.Error(err)
	}
}

// run is one life of the agent.
func (o *once) run(ctx context.Context, point, key string) int {
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "CRASH_POINT="+point, "CRASH_KEY="+key, "CRASH_API="+strings.Join(o.cluster.URLs(), ","), "CRASH_COUNTER="+o.counter)
	_ = cmd.Run() // its exit code is what matters
	return cmd.ProcessState.ExitCode()
}

// trial kills the agent once at a point and starts it again until its task has
// ended, as a supervisor would.
func (o *once) trial(ctx context.Context, point, key string) {
	if code := o.run(ctx, point, key); code != -1 {
		o.t.Errorf("%s: the agent ended with %d, it should have been killed", key, code)
	}
	o.end(ctx, point, key, func() { o.run(ctx, "none", key) })
}

// end starts an agent until its task has ended, and judges it.
func (o *once) end(ctx context.Context, point, key string, run func()) {
	var task api.Task
	for deadline := time.Now().Add(60 * time.Second); ; {
		if task.TaskID == "" || task.State == "ready" {
			run()
		}
		var err error
		if task.TaskID == "" {
			task, err = o.find(ctx, key)
		}
		if err == nil {
			task, err = o.client.Task(ctx, task.TaskID, 300*time.Millisecond)
		}
		if err != nil {
			o.t.Errorf("%s: %v", key, err)
			return
		}
		if task.CompletedAt != nil {
			break
		}
		if strings.HasPrefix(key, "human/") && task.State == "unknown" {
			o.human(ctx, key, task)
		}
		if time.Now().After(deadline) {
			o.t.Errorf("%s: still %s (%s)", key, task.State, task.LastError)
			return
		}
	}
	o.judge(point, key, task)
}

// find is the task of a key, which is its session too.
func (o *once) find(ctx context.Context, key string) (api.Task, error) {
	p, err := o.client.Tasks(ctx, api.TaskFilter{SessionID: key})
	for _, t := range p.Tasks {
		if t.Role == "" {
			return t, nil
		}
	}
	return api.Task{}, errors.Join(err, errors.New("the agent left no task"))
}

// human looks at the counter, when the verify task has said that it can't.
func (o *once) human(ctx context.Context, key string, task api.Task) {
	v, err := o.client.Task(ctx, task.VerifyTaskID, time.Second)
	if err != nil || v.CompletedAt == nil {
		return
	}
	as := "not-done"
	if counted(o.t, o.counter, key) > 0 {
		as = "completed"
	}
	if _, err := o.client.Resolve(ctx, task.TaskID, api.Resolution{As: as, By: "human", Evidence: "the counter"}); err != nil {
		o.t.Logf("%s: resolve: %v", key, err) // settled meanwhile, perhaps; the end decides
	}
}

// judge holds what the protocol promises.
func (o *once) judge(point, key string, task api.Task) {
	n, undone := counted(o.t, o.counter, key), counted(o.t, o.counter, key+" undone")
	doubt := point == "after-intent" || point == "after-effect"
	switch {
	case n > 1:
		o.t.Errorf("%s: the effect happened %d times", key, n)
	case task.State == "completed" && n != 1:
		o.t.Errorf("%s: completed, and the counter says %d", key, n)
	case task.State == "rolled_back" && undone < 1:
		o.t.Errorf("%s: rolled back, and nobody undid it", key)
	case task.State != "completed" && task.State != "rolled_back":
		o.t.Errorf("%s: ended %s: %s", key, task.State, task.LastError)
	case doubt && task.VerifyTaskID == "" && task.RollbackTaskID == "":
		o.t.Errorf("%s: it was never in doubt", key)
	}
}

// hook performs verify and rollback tasks.
func (o *once) hook(ctx context.Context, action string) {
	id := "hook-" + action
	if _, err := o.client.Register(ctx, api.Manifest{AgentID: id, Capabilities: []api.Capability{{Action: action, Target: "counter"}}}); err != nil {
		o.t.Error(err)
		return
	}
	for ctx.Err() == nil {
		leases, err := o.client.Lease(ctx, api.LeaseRequest{AgentID: id, Max: 16, WaitSeconds: 1})
		if err != nil {
			continue
		}
		for _, l := range leases.Tasks {
			var about struct {
				Key string `json:"idempotency_key"`
			}
			if err := json.Unmarshal(l.Context, &about); err != nil || about.Key == "" {
				o.t.Errorf("context %s: %v", l.Context, err)
			}
			result := "null"
			switch {
			case action == "undo":
				if err := count(o.counter, about.Key+" undone\n"); err != nil {
					o.t.Error(err)
				}
			case strings.HasPrefix(about.Key, "verify/"):
				result = fmt.Sprintf(`{"happened":%v}`, counted(o.t, o.counter, about.Key) > 0)
			}
			_, _ = o.client.Settle(ctx, id, []api.Settlement{{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete", Result: json.RawMessage(result)}}) // leased again if it was lost
		}
	}
}
