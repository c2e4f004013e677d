package ledger

import "testing"

// TestRestoredTasks: whatever the old cluster gave out is over, nothing else is.
func TestRestoredTasks(t *testing.T) {
	cold := newMemCold()
	s, j := newTestTasks(t, 1, cold)
	apply := func(c Command) Outcome {
		o, _ := s.Apply(At{Index: 1, TimeMillis: 1000}, c.Append(nil), nil)
		return o
	}
	keyed := testSpec()
	keyed.Key = "k"
	open, done, doubt := NewTaskID(1, 1, 1), NewTaskID(1, 1, 2), NewTaskID(1, 1, 3)
	apply(submitOf(open, testSpec()))
	apply(submitOf(done, keyed))
	apply(&Complete{ID: done, Agent: "w", Epoch: 5})
	puts, deletes, _ := s.Freeze()
	cold.write(puts, deletes)
	s.Thaw()
	declare := func(id TaskID, guarantee Guarantee, terms Terms, agent string) {
		spec := testSpec()
		spec.Guarantee, spec.Key = guarantee, id.String()
		if o := apply(&Declare{ID: id, RequestHash: DeclareHash(&spec, &terms), Spec: spec, Terms: terms, Agent: agent, Node: "n"}); o.Code != OK || o.State != StateRunning {
			t.Fatalf("declared: %+v", o)
		}
	}
	again := NewTaskID(1, 1, 4)
	declare(doubt, ExactlyOnce, Terms{Self: true, Verify: Hook{Action: "look", Target: "up"}}, "w")
	declare(again, AtLeastOnce, Terms{Self: true}, "w")
	restored := &ClusterRestored{ClusterID: [16]byte{1}, From: [16]byte{2}, Name: "q", Shards: 2, Members: []Node{{RaftID: 9, NodeID: "n"}}, EpochFloor: 100, Source: "backup"}
	if o := apply(restored); o.Code != OK {
		t.Fatal(o)
	}
	checkInvariants(t, s)
	if x, _, _ := s.Task(doubt); x.State != StateUnknown || x.Epoch != 100 {
		t.Errorf("what was being performed is %s at epoch %d", x.State, x.Epoch)
	}
	if n := s.Counts()[StateReady]; n != 2 {
		t.Errorf("%d tasks are ready: want the one that waited, and the question to the verify hook", n)
	}
	if x, _, _ := s.Task(again); x.State != StateSubmitted || x.Attempts != 1 || x.Epoch != 100 {
		t.Errorf("what may be repeated is %s at epoch %d after %d attempts", x.State, x.Epoch, x.Attempts)
	}
	if o := apply(&Complete{ID: doubt, Agent: "w", Epoch: 1}); o.Code != StaleLease {
		t.Errorf("the old holder of what is in doubt: %+v", o)
	}
	if o := apply(&Complete{ID: open, Agent: "w", Epoch: 100}); o.Code != StaleLease {
		t.Errorf("the old cluster's last epoch: %+v", o)
	}
	if o := apply(&Complete{ID: done, Agent: "w", Epoch: 5}); o.Code != OK || !o.Replayed {
		t.Errorf("a completion told again: %+v", o)
	}
	if o := apply(submitOf(NewTaskID(1, 2, 9), keyed)); o.ID != done || !o.Replayed {
		t.Errorf("an idempotency key of before: %+v", o)
	}
	if o := apply(&Complete{ID: open, Agent: "w", Epoch: 101}); o.Code != OK {
		t.Errorf("the new cluster's first epoch: %+v", o)
	}
	for _, broken := range []func(*ClusterRestored){
		func(c *ClusterRestored) { c.ClusterID = c.From },
		func(c *ClusterRestored) { c.ClusterID = [16]byte{} },
		func(c *ClusterRestored) { c.Name = "" },
		func(c *ClusterRestored) { c.Members = nil },
		func(c *ClusterRestored) { c.Members = []Node{{NodeID: "n"}} },
	} {
		c := *restored
		broken(&c)
		if o := apply(&c); o.Code != Invalid {
			t.Errorf("%+v: %+v", c, o)
		}
	}
	checkChain(t, 1, j.records, s.Head())
}

// TestRestoredControl: the old nodes never return, the new ones are all there
// is, agents stay.
func TestRestoredControl(t *testing.T) {
	c := NewControl(newMemCold(), func([]byte) {})
	if err := c.Restore(nil); err != nil {
		t.Fatal(err)
	}
	apply := func(x Command) Outcome {
		o, _ := c.Apply(At{Index: 1}, x.Append(nil), nil)
		return o
	}
	apply(&ClusterInit{ClusterID: [16]byte{2}, Name: "q", Shards: 2, Members: []Node{{RaftID: 1, NodeID: "a"}, {RaftID: 2, NodeID: "b"}}})
	apply(&AgentRegister{ID: "w", Capabilities: []CapabilitySpec{{Action: "vet", Target: "go"}}})
	x := &ClusterRestored{ClusterID: [16]byte{1}, From: [16]byte{2}, Name: "q", Shards: 2, Members: []Node{{RaftID: 2, NodeID: "a"}}, EpochFloor: 100, Source: "backup"}
	if o := apply(x); o.Code != Invalid {
		t.Errorf("an old raft ID came back: %+v", o)
	}
	x.Members[0].RaftID = 9
	if o := apply(x); o.Code != OK {
		t.Fatal(o)
	}
	if n := c.Nodes(); len(n) != 1 || n[0] != x.Members[0] || len(c.Removed()) != 2 || c.Cluster().ID != x.ClusterID {
		t.Errorf("nodes %+v, removed %v, cluster %+v", n, c.Removed(), c.Cluster())
	}
	if up := NodeUp(Node{RaftID: 1, NodeID: "a"}); apply(&up).Code != NodeRemoved {
		t.Error("an old node was let in")
	}
	if _, ok := c.Agent("w"); !ok {
		t.Error("the agents are gone")
	}
}
