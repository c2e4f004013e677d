package ledger

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func (s *script) memberCommand(name string, node Node) Command {
	switch name {
	case "placement-init":
		c := &PlacementInit{}
		for _, m := range s.list2("members") {
			c.Members = append(c.Members, must(strconv.ParseUint(m, 10, 64)))
		}
		return c
	case "admit":
		return &NodeAdmit{NodeID: node.NodeID, PeerAddr: node.PeerAddr, By: s.text("by", "")}
	case "uninvite":
		return &NodeUninvite{NodeID: node.NodeID, By: s.text("by", "")}
	case "join":
		return (*NodeJoin)(&node)
	case "node-state":
		state := slices.Index(memberStateNames, s.text("state", ""))
		return &NodeState{RaftID: node.RaftID, State: MemberState(max(state, 0)), By: s.text("by", "")}
	}
	return &NodeRetire{RaftID: node.RaftID}
}

func (s *script) printMembers(b *strings.Builder) {
	for _, m := range s.control.Members() {
		fmt.Fprintf(b, "%d %s %s\n", m.RaftID, m.NodeID, m.State)
	}
	for _, v := range s.control.Invites() {
		fmt.Fprintf(b, "admitted: %s peer=%s\n", v.NodeID, v.PeerAddr)
	}
	for _, v := range s.control.Retired() {
		fmt.Fprintf(b, "retired: %s raft=%d\n", v.NodeID, v.RaftID)
	}
	for _, p := range s.control.Placements() {
		fmt.Fprintf(b, "shard %d epoch %d voters %v learners %v\n", p.Shard, p.Epoch, p.Voters, p.Learners)
	}
}

// TestPlacementSpread lets clusters grow, drain and shrink, and looks at every
// plan: voters are members that may have them, replicas and leaders are even
// to one, and little moves.
func TestPlacementSpread(t *testing.T) {
	for _, shards := range []uint32{2, 5, 17, 65} {
		c := NewControl(newMemCold(), func([]byte) {})
		index := uint64(0)
		do := func(x Command) {
			index++
			if o, _ := c.Apply(At{Index: index}, x.Append(nil), nil); o.Code != OK {
				t.Fatalf("%T: %v %s", x, o.Code, o.Detail)
			}
			checkPlacement(t, c)
		}
		do(&ClusterInit{Name: "q", Shards: shards, Members: []Node{{RaftID: 10, NodeID: "n10"}, {RaftID: 20, NodeID: "n20"}, {RaftID: 30, NodeID: "n30"}}})
		do(&PlacementInit{Members: []uint64{10, 20, 30}})
		grow := func(id uint64) {
			name := fmt.Sprintf("n%d", id)
			do(&NodeAdmit{NodeID: name})
			do(&NodeJoin{RaftID: id, NodeID: name})
			before := c.Placements()
			do(&NodeState{RaftID: id, State: MemberActive})
			for i, p := range c.Placements() {
				if gone := len(slices.DeleteFunc(slices.Clone(before[i].Voters), func(v uint64) bool { return slices.Contains(p.Voters, v) })); gone > 1 {
					t.Fatalf("%d shards, node %d: shard %d moves %d replicas: %v to %v", shards, id, i, gone, before[i].Voters, p.Voters)
				}
			}
		}
		for id := uint64(5); id <= 45; id += 10 {
			grow(id)
		}
		for _, id := range []uint64{10, 45, 20, 5} {
			do(&NodeState{RaftID: id, State: MemberRemoving})
			do(&NodeRetire{RaftID: id})
		}
	}
}

func checkPlacement(t *testing.T, c *Control) {
	t.Helper()
	load, leads := map[uint64]int{}, map[uint64]int{}
	for _, m := range c.Members() {
		if m.State == MemberActive {
			load[m.RaftID], leads[m.RaftID] = 0, 0
		}
	}
	for _, p := range c.Placements() {
		if len(p.Voters) != min(ReplicationFactor, len(load)) {
			t.Fatalf("shard %d has voters %v among %d nodes", p.Shard, p.Voters, len(load))
		}
		for i, v := range p.Voters {
			if _, ok := load[v]; !ok || slices.Contains(p.Voters[:i], v) || slices.Contains(p.Learners, v) {
				t.Fatalf("shard %d: voters %v learners %v", p.Shard, p.Voters, p.Learners)
			}
			if p.Shard != ControlShard {
				load[v]++
			}
		}
		leads[p.Voters[0]]++
	}
	for what, counts := range map[string]map[uint64]int{"voters": load, "leaders": leads} {
		least, most := 1<<30, 0
		for _, n := range counts {
			least, most = min(least, n), max(most, n)
		}
		if limit := map[string]int{"voters": 1, "leaders": 3}[what]; len(counts) > 0 && most-least > limit {
			t.Errorf("%s are uneven: %v", what, counts)
		}
	}
}

// TestMaxInvites admits as many nodes as may wait, and one more.
func TestMaxInvites(t *testing.T) {
	c := NewControl(newMemCold(), func([]byte) {})
	apply := func(i int, x Command) Outcome {
		o, _ := c.Apply(At{Index: uint64(i + 1)}, x.Append(nil), nil)
		return o
	}
	apply(0, &ClusterInit{Name: "q", Shards: 2, Members: []Node{{RaftID: 1, NodeID: "n1"}}})
	apply(1, &PlacementInit{Members: []uint64{1}})
	for i := range maxInvites {
		if o := apply(2+i, &NodeAdmit{NodeID: fmt.Sprint("x", i)}); o.Code != OK {
			t.Fatal(i, o)
		}
	}
	if o := apply(2+maxInvites, &NodeAdmit{NodeID: "more"}); o.Code != MembersBusy {
		t.Fatal(o)
	}
}
