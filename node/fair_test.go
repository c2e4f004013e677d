package node

import (
	"fmt"
	"math"
	"testing"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// One fleet floods before another comes with a few tasks: while those wait,
// both are served by their weights.
func TestFleetsShare(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { cfg.FleetWeights = map[string]int{"flood": 3} })
	n := c.nodes[0]
	c.register(n, "a", "vet:go")
	submit := func(fleet string, count int) {
		specs := make([]api.TaskSpec, count)
		for i := range specs {
			specs[i] = api.TaskSpec{FleetID: fleet, Action: "vet", Target: "go"}
		}
		if _, err := n.Submit(t.Context(), specs, "test"); err != nil {
			t.Fatal(err)
		}
	}
	const few = 60
	for range 3 {
		submit("flood", 900)
	}
	submit("few", few)
	served := map[string]int{}
	for served["few"] < few {
		ls, err := n.Lease(t.Context(), api.LeaseRequest{AgentID: "a", Max: 16, WaitSeconds: 30})
		if err != nil || len(ls.Tasks) == 0 {
			t.Fatal(err, served)
		}
		list := make([]api.Settlement, len(ls.Tasks))
		for i, l := range ls.Tasks {
			served[l.FleetID]++
			list[i] = api.Settlement{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete"}
		}
		if _, err := n.Settle(t.Context(), "a", list); err != nil {
			t.Fatal(err)
		}
	}
	share := few / float64(served["few"]+served["flood"])
	t.Logf("the second fleet had %.2f of the service, its due is .25", share)
	if math.Abs(share-.25) > .06 {
		t.Errorf("served %v, due 3:1", served)
	}
}

// A task whose class is one too many waits on its desk; the others go on.
func TestClassesOverflow(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	c.register(n, "a", "vet:go", "new:go")
	core, err := n.member()
	if err != nil {
		t.Fatal(err)
	}
	first := c.submit(n, api.TaskSpec{Action: "vet", Target: "go"})
	for i := range sched.MaxClasses {
		if _, err := core.sched.ClassOf("", fmt.Sprint("fill:", i)); err != nil {
			break
		}
	}
	other := c.submit(n, api.TaskSpec{Action: "new", Target: "go"})
	id, err := core.taskID(other)
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("the task is on the shelf", func() error {
		d := core.desk(id.Shard())
		d.mu.Lock()
		defer d.mu.Unlock()
		if i, ok := d.mu.byID[id]; !ok || !d.mu.slots[i].shelved {
			return errNoTask(other)
		}
		return nil
	})
	if l := c.lease(n, "a", 20); l.TaskID != first {
		t.Errorf("leased %s", l.TaskID)
	}
}
