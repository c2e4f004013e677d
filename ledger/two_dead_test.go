package ledger

import (
	"slices"
	"testing"
)

// TestTwoDeadNodesLeave: 1 is removed, 4 dies when half of what 1 held has gone
// to it, and 1 dies too. No shard lost its majority, so both must be able to
// leave, whichever is removed first. What the shards really have goes by the
// administrator's rule: a voter goes when all that are placed stand.
func TestTwoDeadNodesLeave(t *testing.T) {
	for _, order := range [][]uint64{{1, 4}, {4, 1}} {
		c, index := NewControl(newMemCold(), func([]byte) {}), uint64(0)
		do := func(x Command) {
			t.Helper()
			index++
			if o, _ := c.Apply(At{Index: index}, x.Append(nil), nil); o.Code != OK {
				t.Fatalf("%T: %v %s", x, o.Code, o.Detail)
			}
		}
		do(&ClusterInit{Name: "q", Shards: 7, Members: []Node{{RaftID: 1, NodeID: "n1"}, {RaftID: 2, NodeID: "n2"}, {RaftID: 3, NodeID: "n3"}}})
		do(&PlacementInit{Members: []uint64{1, 2, 3}})
		have := make([][]uint64, 7)
		for shard := range have {
			have[shard] = []uint64{1, 2, 3}
		}
		do(&NodeAdmit{NodeID: "n4"})
		do(&NodeJoin{RaftID: 4, NodeID: "n4"})
		do(&NodeState{RaftID: 4, State: MemberActive})
		do(&NodeState{RaftID: 1, State: MemberRemoving})
		for shard := 0; shard < len(have); shard += 2 {
			have[shard] = slices.Clone(c.Placements()[shard].Voters)
		}
		settle := func() {
			for shard, p := range c.Placements() {
				if !slices.ContainsFunc(p.Voters, func(id uint64) bool { return (id == 1 || id == 4) && !slices.Contains(have[shard], id) }) {
					have[shard] = slices.Clone(p.Voters)
				}
			}
		}
		do(&NodeState{RaftID: 1, State: MemberActive}) // so that either may be first
		settle()
		for _, id := range order {
			do(&NodeState{RaftID: id, State: MemberRemoving})
			settle()
		}
		for _, id := range order {
			for shard := range have {
				if slices.Contains(have[shard], id) {
					t.Errorf("order %d: shard %d still has %d: %d, placed %d", order, shard, id, have[shard], c.Placements()[shard].Voters)
				}
			}
			do(&NodeRetire{RaftID: id})
		}
	}
}
