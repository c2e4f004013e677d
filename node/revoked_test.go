package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// An agent that is taken out of the registry while it works is told so and
// ends; what it held goes to another, and its epoch is over.
func TestRevokedAgent(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	n := c.nodes[0]
	began, told := make(chan *client.Task, 1), make(chan error, 1)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cl := clientOf(t, c.nodes...)
	go func() {
		ended <- cl.WorkWith(ctx, client.WorkConfig{Manifest: manifest("revoked", 1, "do:it"), Drain: time.Second, Handler: func(ctx context.Context, task *client.Task) (any, error) {
			began <- task
			<-ctx.Done()
			told <- context.Cause(ctx)
			return "too late", nil
		}})
	}()
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it", LeaseSeconds: 600})
	first := <-began
	if err := c.nodes[1].Deregister(t.Context(), "revoked"); err != nil {
		t.Fatal(err)
	}
	within := time.After(30 * time.Second)
	select {
	case <-told:
	case <-within:
		t.Fatal("the handler is not told")
	}
	other := c.openWork(n, "other", "")
	h := c.taken(other)
	if h.TaskID != id || h.Epoch <= first.Epoch {
		t.Errorf("another agent got %+v, the first had epoch %d", h, first.Epoch)
	}
	select {
	case err := <-ended:
		var e *api.Error
		if !errors.As(err, &e) || e.Code != "agent_not_registered" || e.Layer != 3 || e.Retry != api.RetryNo {
			t.Errorf("work ended with %v", err)
		}
	case <-within:
		t.Fatal("the agent works on")
	}
	if vs, err := n.Settle(t.Context(), "revoked", []api.Settlement{{TaskID: id, Epoch: first.Epoch, Verdict: "complete"}}); err == nil && (len(vs) != 1 || vs[0].Error == nil || vs[0].Error.Code != "stale_lease") {
		t.Errorf("a revoked agent settled: %+v", vs)
	}
	if vs, err := other.Settle(t.Context(), []api.Settlement{{TaskID: id, Epoch: h.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
		t.Errorf("%+v, %v", vs, err)
	}
	if _, err := n.Agent(t.Context(), "revoked"); code(err) != "agent_not_registered" {
		t.Errorf("it is registered again: %v", err)
	}
}
