package node

import (
	"errors"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// An approver that ranks best and waits, in two calls, is passed over at once:
// the next best gets the task, and nobody is refused it in turn for ever.
func TestApproverIsPassedOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, single)
	n := c.nodes[0]
	type taken struct {
		agent  string
		leases []api.Lease
	}
	took := make(chan taken, 3)
	for _, x := range []struct {
		agent string
		rate  float64
		calls int
	}{{"best", .9, 2}, {"next", .3, 1}} {
		m := manifest(x.agent, 0, "deploy:web")
		m.Capabilities[0].Confidence = &x.rate
		if _, err := n.Register(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		for range x.calls {
			go func() {
				ls, err := n.Lease(t.Context(), api.LeaseRequest{AgentID: x.agent, WaitSeconds: 30})
				if err != nil {
					t.Error(err)
				}
				took <- taken{x.agent, ls.Tasks}
			}()
		}
	}
	c.eventually("all wait", func() error {
		waiting := 0
		for _, w := range n.core.Load().sched.Workers() {
			if w.WaitingMillis > 0 {
				waiting++
			}
		}
		if waiting < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	id := c.submit(n, action("", "k1").TaskSpec)
	c.inState(id, "awaiting_approval")
	if _, err := n.Approve(t.Context(), id, api.Judgement{By: "best"}); err != nil {
		t.Fatal(err)
	}
	if x := <-took; x.agent != "next" || len(x.leases) != 1 || x.leases[0].TaskID != id {
		t.Fatalf("%+v", x)
	}
}
