package chaos

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

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
		cl, err := client.New(client.Config{URLs: []string{n.URL()}, Patience: memberWait})
		if err != nil {
			t.Fatal(err)
		}
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
