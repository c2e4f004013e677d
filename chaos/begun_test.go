package chaos

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// TestBegunOnceWhenALeaderDies kills a node, and with it the leaders of its
// shards, while agents at the others hold and perform tasks: they keep them, and
// everything is begun with once.
func TestBegunOnceWhenALeaderDies(t *testing.T) {
	const tasks = 400
	c := formedThree(t)
	leaders, err := c.Leaders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	victim := c.Node(leaders[1])
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	begun := map[string]int{}
	reached := make(chan struct{}) // a quarter is begun with
	handler := func(_ context.Context, task *client.Task) (any, error) {
		mu.Lock()
		if begun[task.TaskID]++; len(begun) == tasks/4 && begun[task.TaskID] == 1 {
			close(reached)
		}
		mu.Unlock()
		time.Sleep(20 * time.Millisecond) // the work
		return "done", nil
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	var submitter *client.Client
	for i, n := range c.Nodes() {
		if n == victim {
			continue
		}
		cl := dialTo(t, n)
		submitter = cl
		agent := api.Manifest{AgentID: fmt.Sprint("w", i), Capabilities: []api.Capability{{Action: "do", Target: "it"}}}
		work.Go(func() {
			defer cl.Close()
			_ = cl.WorkWith(ctx, client.WorkConfig{Manifest: agent, Handler: handler, Concurrency: 4, Credit: 24}) // ends with ctx
		})
	}
	specs := make([]api.TaskSpec, tasks)
	for i := range specs {
		specs[i] = api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint("b", i), LeaseSeconds: 60}
	}
	vs, err := submitter.SubmitBatch(ctx, specs)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-reached:
	case <-time.After(memberWait):
		t.Fatal("the agents begin with too little")
	}
	victim.Kill()
	for _, v := range vs {
		task, err := submitter.Task(ctx, v.TaskID, 30*time.Second)
		mu.Lock()
		n := begun[v.TaskID]
		mu.Unlock()
		if err != nil || task.State != "completed" || n != 1 || task.Attempts != 1 {
			t.Errorf("%s: %s, begun with %d times, %d attempts: %v", v.TaskID, task.State, n, task.Attempts, err)
		}
	}
}

// TestWorkersKeepWhatTheyHoldWhenTheirNodeDies kills the node that an agent is
// connected to: the agent goes on at another one with what it performs, which is
// neither given again nor lost.
func TestWorkersKeepWhatTheyHoldWhenTheirNodeDies(t *testing.T) {
	const tasks, lease = 20, 10 * time.Second
	c := formedThree(t)
	victim, other := c.Nodes()[0], c.Nodes()[1]
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	begun, released := make(chan string, 10*tasks), make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	defer release()            // or the agent waits for its handlers
	agent := dialTo(t, victim) // it learns of the others from this one
	work.Go(func() {
		defer agent.Close()
		_ = agent.WorkWith(ctx, client.WorkConfig{Manifest: api.Manifest{AgentID: "w", Capabilities: []api.Capability{{Action: "do", Target: "it"}}},
			Concurrency: tasks, Handler: func(ctx context.Context, task *client.Task) (any, error) {
				begun <- task.TaskID
				select {
				case <-released:
					return "done", nil
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}}) // ends with ctx
	})
	cl := dialTo(t, other)
	defer cl.Close()
	specs := make([]api.TaskSpec, tasks)
	for i := range specs {
		specs[i] = api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint("k", i), LeaseSeconds: lease.Seconds()}
	}
	vs, err := cl.SubmitBatch(ctx, specs)
	if err != nil {
		t.Fatal(err)
	}
	for range tasks {
		select {
		case <-begun:
		case <-time.After(memberWait):
			t.Fatal("the agent begins with too little")
		}
	}
	victim.Kill()
	killed := time.Now()
	wait, cancel := context.WithTimeout(ctx, memberWait)
	defer cancel()
	for _, v := range vs {
		for { // until it was renewed through another node
			x, err := cl.Task(wait, v.TaskID, 0)
			if err == nil && x.LeaseExpires != nil && x.LeaseExpires.After(killed.Add(lease)) {
				break
			}
			if err != nil { // it may be shown as ready until the agent has told its new leader that it has it
				t.Fatalf("%s is %s and not renewed: %v", v.TaskID, x.State, err)
			}
		}
	}
	release()
	for _, v := range vs {
		if x, err := cl.Task(ctx, v.TaskID, 30*time.Second); err != nil || x.State != "completed" || x.Attempts != 1 {
			t.Errorf("%s: %s, %d attempts: %v", v.TaskID, x.State, x.Attempts, err)
		}
	}
	if n := len(begun); n > 0 {
		t.Errorf("%d were begun with again", n)
	}
}

func dialTo(t *testing.T, n *proc.Node) *client.Client {
	t.Helper()
	cl, err := client.New(client.Config{URLs: []string{n.URL()}, Patience: memberWait})
	if err != nil {
		t.Fatal(err)
	}
	return cl
}
