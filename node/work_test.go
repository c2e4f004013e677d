package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// clientOf is a client of some of the nodes.
func clientOf(t *testing.T, nodes ...*Node) *client.Client {
	t.Helper()
	var urls []string
	for _, n := range nodes {
		urls = append(urls, "http://"+n.APIAddr())
	}
	c, err := client.New(client.Config{URLs: urls, Actor: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func manifest(id string, max int, caps ...string) api.Manifest {
	m := api.Manifest{AgentID: id, MaxTasks: max}
	for _, s := range caps {
		a, t, _ := api.SplitCapability(s)
		m.Capabilities = append(m.Capabilities, api.Capability{Action: a, Target: t})
	}
	return m
}

// working runs an agent until the test's end and returns a channel of its end.
func working(t *testing.T, c *client.Client, cfg client.WorkConfig) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.WorkWith(ctx, cfg) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-ended:
			case <-time.After(30 * time.Second):
				err = errors.New("the worker does not end")
			}
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// Tasks submitted over a stream are pushed to agents at every node and end
// once each.
func TestStreamLifecycles(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	const tasks = 2000
	var mu sync.Mutex
	ended := map[string]int{}
	all := make(chan struct{})
	handler := func(_ context.Context, task *client.Task) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		if ended[task.TaskID]++; len(ended) == tasks {
			close(all)
		}
		return map[string]string{"by": task.TaskID}, nil
	}
	var stops []func() error
	for i, n := range c.nodes {
		stops = append(stops, working(t, clientOf(t, n), client.WorkConfig{Manifest: manifest(fmt.Sprint("w", i), 0, "do:it"), Handler: handler, Concurrency: 4, Credit: 64}))
	}
	s := clientOf(t, c.nodes[1]).Submitter()
	defer s.Close()
	var ids []string
	for i := 0; i < tasks; i += 100 {
		specs := make([]api.TaskSpec, 100)
		for k := range specs {
			specs[k] = api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: fmt.Sprint(i + k), Input: json.RawMessage(`{"n":1}`)}
		}
		vs, err := s.Submit(t.Context(), specs)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			if v.Error != nil {
				t.Fatal(v.Error)
			}
			ids = append(ids, v.TaskID)
		}
	}
	select {
	case <-all:
	case <-time.After(60 * time.Second):
		t.Fatalf("%d of %d tasks were performed", len(ended), tasks)
	}
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	for _, id := range ids {
		task, err := c.nodes[0].Task(t.Context(), id, 10*time.Second)
		if err != nil || task.State != "completed" || task.Attempts != 1 || ended[id] != 1 {
			t.Fatalf("%+v, performed %d times: %v", task, ended[id], err)
		}
	}
}
