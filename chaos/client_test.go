package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// clientBurst is how many tasks each way of submitting declares at a time; the
// node is killed between clientKillAt of them and the end.
const (
	clientBurst  = 20
	clientBursts = 12
	clientKillAt = 4
	clientWait   = 60 * time.Second
)

// clientUse is what one program does with the client while its node dies.
type clientUse struct {
	t      *testing.T
	c      *client.Client
	mu     sync.Mutex
	ids    []string       // acknowledged, whatever way they were submitted
	calls  map[string]int // of the handler, by task
	events map[string]int // completions seen, by task
	first  chan struct{}  // closed when the events have begun
}

// TestClientsNodeIsKilled kills the node that a program's client is connected
// to in the middle of Submit, SubmitBatch, a Submitter, Work and Events, each of
// which goes on by itself: every task that was acknowledged ends once, its end is
// told once, and nothing of the client is left.
func TestClientsNodeIsKilled(t *testing.T) {
	before := goleak.IgnoreCurrent()
	cluster := formedThree(t)
	u := &clientUse{t: t, calls: map[string]int{}, events: map[string]int{}, first: make(chan struct{})}
	var err error
	if u.c, err = client.New(client.Config{URLs: cluster.URLs(), Actor: "program"}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*clientWait)
	defer stop()
	follow, unfollow := context.WithCancel(ctx)
	var following, working sync.WaitGroup
	following.Go(func() { u.follow(follow) })
	<-u.first
	work, rest := context.WithCancel(ctx)
	for i := range 6 { // spread over the nodes by their names
		working.Go(func() { u.work(work, fmt.Sprint("w", i)) })
	}

	kill := make(chan struct{})
	var submitting sync.WaitGroup
	submitting.Go(func() { u.submit(ctx, "one", nil, u.one) })
	submitting.Go(func() { u.submit(ctx, "batch", kill, u.c.SubmitBatch) })
	s := u.c.Submitter()
	submitting.Go(func() { u.submit(ctx, "stream", nil, s.Submit) })
	<-kill
	cluster.Nodes()[0].Kill() // what the client asks, until it is gone
	submitting.Wait()
	s.Close()

	u.account(ctx)
	unfollow()
	following.Wait()
	rest()
	working.Wait()
	u.c.Close()
	cluster.Close()
	goleak.VerifyNone(t, before)
}

// one submits tasks one after the other.
func (u *clientUse) one(ctx context.Context, specs []api.TaskSpec) (out []api.SubmitVerdict, err error) {
	for _, s := range specs {
		v, err := u.c.Submit(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// submit declares bursts of tasks; the killer is told in the middle.
func (u *clientUse) submit(ctx context.Context, name string, kill chan<- struct{}, by func(context.Context, []api.TaskSpec) ([]api.SubmitVerdict, error)) {
	for burst := range clientBursts {
		if kill != nil && burst == clientKillAt {
			close(kill)
		}
		specs := make([]api.TaskSpec, clientBurst)
		for i := range specs {
			specs[i] = api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint(name, burst, "-", i), LeaseSeconds: 5}
		}
		verdicts, err := by(ctx, specs)
		if err != nil || len(verdicts) != len(specs) {
			u.t.Errorf("%s: %v, %d verdicts", name, err, len(verdicts))
			return
		}
		u.mu.Lock()
		for _, v := range verdicts {
			if v.Error != nil {
				u.t.Errorf("%s: %v", name, v.Error)
			}
			u.ids = append(u.ids, v.TaskID)
		}
		u.mu.Unlock()
	}
}

func (u *clientUse) work(ctx context.Context, agent string) {
	m := api.Manifest{AgentID: agent, MaxTasks: 4, Capabilities: []api.Capability{{Action: "do", Target: "it"}}}
	err := u.c.Work(ctx, m, func(_ context.Context, t *client.Task) (any, error) {
		u.mu.Lock()
		u.calls[t.TaskID]++
		u.mu.Unlock()
		return agent, nil
	})
	if err != nil {
		u.t.Errorf("%s: %v", agent, err)
	}
}

// follow counts the ends of tasks, from now on.
func (u *clientUse) follow(ctx context.Context) {
	if _, err := u.c.Submit(ctx, api.TaskSpec{Action: "nobody", Target: "can"}); err != nil {
		u.t.Error(err)
	}
	begun := false
	defer func() {
		if !begun {
			close(u.first)
		}
	}()
	err := u.c.Events(ctx, "start", func(ev api.Event) error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if ev.Record.Verb == "complete" {
			u.events[ev.Record.TaskID]++
		}
		if !begun {
			begun = true
			close(u.first)
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		u.t.Errorf("events: %v", err)
	}
}

// account waits until everything acknowledged has ended and its end was told,
// and looks for what is there twice.
func (u *clientUse) account(ctx context.Context) {
	u.mu.Lock()
	ids := slices.Clone(u.ids)
	u.mu.Unlock()
	if want := 3 * clientBursts * clientBurst; len(ids) != want {
		u.t.Errorf("%d tasks were acknowledged, want %d", len(ids), want)
	}
	for _, id := range ids {
		task, err := u.c.Wait(ctx, id)
		if err != nil || task.State != "completed" {
			u.t.Fatalf("%s: %s, %v", id, task.State, err)
		}
		u.mu.Lock()
		if n := u.calls[id]; n < 1 || n > task.Attempts {
			u.t.Errorf("%s was performed %d times in %d attempts", id, n, task.Attempts)
		}
		u.mu.Unlock()
	}
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 3*clientBursts*clientBurst {
		u.t.Errorf("%d different tasks", n)
	}
	for deadline := time.Now().Add(clientWait); ; {
		u.mu.Lock()
		told := len(u.events)
		u.mu.Unlock()
		if told >= len(u.calls) {
			break
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("%d of %d ends were told", told, len(ids))
		}
		time.Sleep(10 * time.Millisecond) // records come when they come
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, n := range u.events {
		if n != 1 {
			u.t.Errorf("the end of %s was told %d times", id, n)
		}
	}
}
