package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// TestStaleReads: a node that lost its quorum says so when it is asked for the
// truth, and still tells what it knows to who is content with that.
func TestStaleReads(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	n := c.nodes[0]
	c.register(n, "a", "do:it")
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it"})
	stale := api.WithStale(t.Context())
	for _, n := range c.nodes { // each answers from its own replica
		c.eventually("the task everywhere", func() error {
			_, err := n.Task(stale, id, 0)
			if err == nil {
				_, err = n.Agent(stale, "a")
			}
			return err
		})
	}
	for _, gone := range c.nodes[1:] {
		if err := gone.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.nodes = c.nodes[:1]
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := n.Task(short, id, 0); err == nil {
		t.Fatal("a node without a quorum answered a linearizable read")
	} else if e := (*api.Error)(nil); !errors.As(err, &e) || e.Layer != 5 {
		t.Fatalf("refused with %v", err)
	}
	task, err := n.Task(stale, id, 0)
	if err != nil || task.TaskID != id {
		t.Fatalf("stale read: %+v, %v", task, err)
	}
	page, err := n.Tasks(stale, api.TaskFilter{})
	if err != nil || len(page.Tasks) != 1 {
		t.Fatalf("stale list: %+v, %v", page, err)
	}
	if _, err := n.Audit(short, api.AuditFilter{Shard: -1}); code(err) != "no_leader" || !strings.Contains(asAPIError(err).Hint, "consistency=stale") {
		t.Errorf("records without a quorum: %v", err)
	}
	if p, err := n.Audit(stale, api.AuditFilter{Shard: -1, Verb: "submit"}); err != nil || len(p.Records) != 1 {
		t.Errorf("stale records: %+v, %v", p.Records, err)
	}
	if _, err := n.core.Load().dropHere(short, 1); code(err) != "no_leader" { // what it knows of placements may be old
		t.Errorf("a replica put away without a quorum: %v", err)
	}
	if _, err := n.Agents(stale, api.AgentFilter{State: "bogus"}); code(err) != "unknown_state" || !strings.Contains(asAPIError(err).Hint, api.AgentDraining) {
		t.Errorf("agents of no state: %v", err)
	}
	agents, err := n.Agents(stale, api.AgentFilter{})
	if err != nil || agents.Count != 1 {
		t.Fatalf("stale agents: %+v, %v", agents, err)
	}
}

// TestRecordsAreThere: what was acknowledged is in the audit log, whichever node
// is asked.
func TestRecordsAreThere(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	for i := range 40 {
		by, at := c.nodes[i%3], c.nodes[(i+1)%3]
		id := c.submit(by, api.TaskSpec{Action: "do", Target: "it"})
		for _, f := range []api.AuditFilter{{Shard: -1, TaskID: id}, {Shard: -1, Limit: 1000}} {
			p, err := at.Audit(t.Context(), f)
			if err != nil || !slices.ContainsFunc(p.Records, func(r api.Record) bool { return r.TaskID == id }) {
				t.Fatalf("task %d is not in the log (%+v): %v", i, f, err)
			}
		}
	}
}
