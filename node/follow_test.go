package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// allKnown waits until every node tells the addresses of all.
func (c *testCluster) allKnown() {
	c.t.Helper()
	c.eventually("all addresses known", func() error {
		for _, n := range c.nodes {
			if addrs := n.core.Load().apiAddrs(); len(addrs) != len(c.nodes) {
				return fmt.Errorf("%s knows %v", n.NodeID(), addrs)
			}
		}
		return nil
	})
}

// submits follows the cluster's events; await waits for the one of a task's
// submit.
func submits(ctx context.Context, t *testing.T, c *client.Client) (await func(id string)) {
	seen, ended := make(chan string, 64), make(chan error, 1)
	go func() {
		ended <- c.Events(ctx, "start", func(ev api.Event) error {
			if ev.Record.Verb == "submit" {
				seen <- ev.Record.TaskID
			}
			return nil
		})
	}()
	return func(id string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got == id {
					return
				}
			case err := <-ended:
				t.Fatalf("events ended, without %s: %v", id, err)
			}
		}
	}
}

// A client that was given one node of three goes on at the others when that
// one is closed, with whatever it does; each client knows of them from what it
// does itself.
func TestClientFollows(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	c.allKnown()
	lost := c.nodes[0]
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	spec := func(key string) api.TaskSpec { return api.TaskSpec{Action: "do", Target: "it", IdempotencyKey: key} }

	caller := clientOf(t, lost)
	v, err := caller.Submit(ctx, spec("called"))
	if err != nil {
		t.Fatal(err)
	}
	s := clientOf(t, lost).Submitter()
	defer s.Close()
	if _, err := s.Submit(ctx, []api.TaskSpec{spec("streamed")}); err != nil {
		t.Fatal(err)
	}
	performed := make(chan string, 8)
	actor := clientOf(t, lost)
	act := func(key string) error {
		_, err := actor.Action(ctx, api.ActionRequest{TaskSpec: spec(key), AgentID: "a"}, func(context.Context, api.ActionVerdict) (any, error) {
			performed <- key
			return key, nil
		})
		return err
	}
	if err := act("acted"); err != nil {
		t.Fatal(err)
	}
	await := submits(ctx, t, clientOf(t, lost))
	await(v.TaskID)

	c.nodes = c.nodes[1:]
	if err := lost.Close(); err != nil {
		t.Error(err)
	}
	if again, err := caller.Submit(ctx, spec("called")); err != nil || again.TaskID != v.TaskID {
		t.Errorf("a call: %+v, %v", again, err)
	}
	list, err := s.Submit(ctx, []api.TaskSpec{spec("streamed later")})
	if err != nil || list[0].Error != nil {
		t.Fatalf("a stream of submits: %+v, %v", list, err)
	}
	await(list[0].TaskID)
	if err := act("acted later"); err != nil || len(performed) != 2 {
		t.Errorf("an action: performed %d, %v", len(performed), err)
	}
	done := working(t, caller, client.WorkConfig{Manifest: manifest("w", 4, "do:it"), Handler: func(context.Context, *client.Task) (any, error) { return "done", nil }})
	if task, err := caller.Wait(ctx, v.TaskID); err != nil || task.State != "completed" {
		t.Errorf("a wait, and work: %s, %v", task.State, err)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
}
