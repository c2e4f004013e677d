package node

import (
	"slices"
	"testing"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/internal/form"
)

// TestRestoredNodeKnowsOnlyItsOwnCluster: until the first command of the new
// cluster is applied, a restored replica shows the old one's nodes, which may
// run on. Dialling or gossiping with them would keep the new ones of the same
// names out.
func TestRestoredNodeKnowsOnlyItsOwnCluster(t *testing.T) {
	old, own := form.ID{1}, form.ID{2}
	n := &core{control: &controlMachine{}}
	n.contacts.Store(&[]nodeRef{})
	n.id.ClusterID, n.id.RaftID, n.id.Voters = own, 12, []form.Voter{{RaftID: 11, NodeID: "n1", PeerAddr: "new:1"}, {RaftID: 12, NodeID: "n2"}}
	control := ledger.NewControl(nil, func([]byte) {})
	n.control.mu.control = control
	whole := Node{}
	whole.core.Store(n)
	apply := func(cmds ...ledger.Command) {
		t.Helper()
		for _, cmd := range cmds {
			if o, _ := control.Apply(ledger.At{Index: 1}, cmd.Append(nil), nil); o.Code != ledger.OK {
				t.Fatalf("%T: %+v", cmd, o)
			}
		}
	}
	apply(&ledger.ClusterInit{ClusterID: old, Name: "q", Shards: 2, Members: []ledger.Node{{RaftID: 1, NodeID: "n1", PeerAddr: "old:1"}, {RaftID: 2, NodeID: "n2"}}},
		&ledger.NodeUp{RaftID: 1, NodeID: "n1", PeerAddr: "old:1", GossipAddr: "old:2"})
	if got := n.others(); len(got) != 1 || got[0].RaftID != 11 || len(whole.knownGossip()) != 0 {
		t.Errorf("others %+v, gossip %v", got, whole.knownGossip())
	}
	apply(&ledger.ClusterRestored{ClusterID: own, From: old, Name: "q", Shards: 2, EpochFloor: 1, Source: "backup",
		Members: []ledger.Node{{RaftID: 11, NodeID: "n1", PeerAddr: "new:1"}, {RaftID: 12, NodeID: "n2", PeerAddr: "new:2"}}},
		&ledger.NodeUp{RaftID: 11, NodeID: "n1", PeerAddr: "new:1", GossipAddr: "new:3"})
	if got, known := n.others(), whole.knownGossip(); len(got) != 1 || got[0].RaftID != 11 || !slices.Equal(known, []string{"new:3"}) {
		t.Errorf("restored: others %+v, gossip %v", got, known)
	}
}
