package node

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/ledger"
)

// replicas are the task shards this node has a replica of. They come and go
// with placement, so the table is replaced, never changed.
type replicas struct {
	mu sync.Mutex
	of atomic.Pointer[map[uint32]taskReplica]
}

type taskReplica struct {
	machine *taskMachine
	desk    *desk
}

func newReplicas() *replicas {
	r := &replicas{}
	r.of.Store(&map[uint32]taskReplica{})
	return r
}

func (r *replicas) put(shard uint32, x taskReplica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(*r.of.Load())
	next[shard] = x
	r.of.Store(&next)
}

func (r *replicas) drop(shard uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(*r.of.Load())
	delete(next, shard)
	r.of.Store(&next)
}

// taskShard is the state of a shard, nil when this node has no replica of it.
func (n *core) taskShard(shard uint32) *taskMachine { return (*n.replicas.of.Load())[shard].machine }

// desk is the desk of a shard, nil when this node has no replica of it.
func (n *core) desk(shard uint32) *desk { return (*n.replicas.of.Load())[shard].desk }

// nodeRef is a node as others have to know it.
type nodeRef struct {
	RaftID   uint64 `json:"raft_id,string"`
	NodeID   string `json:"node_id"`
	PeerAddr string `json:"peer_addr"`
}

// registry shows the control state once it is that of this cluster: the replica
// of a restored node begins as the old cluster's, whose nodes may still run, and
// turns with the first command it applies.
func (n *core) registry(see func(*ledger.Control)) {
	n.control.view(func(c *ledger.Control) {
		if id := c.Cluster().ID; id == n.id.ClusterID || id == ([16]byte{}) {
			see(c)
		}
	})
}

// nodes are the members of the cluster as this node knows them: from its
// replica of the control shard, or, before that says anything, the founders
// and whom it was told of when it joined.
func (n *core) nodes() []nodeRef {
	var out []nodeRef
	n.registry(func(c *ledger.Control) {
		members := c.Members()
		for _, x := range c.Nodes() {
			if len(members) == 0 || slices.ContainsFunc(members, func(m ledger.Member) bool { return m.RaftID == x.RaftID }) {
				out = append(out, nodeRef{x.RaftID, x.NodeID, x.PeerAddr})
			}
		}
		if len(members) == 0 {
			out = nil
		}
	})
	if out != nil {
		return out
	}
	for _, v := range n.id.Voters {
		out = append(out, nodeRef{v.RaftID, v.NodeID, v.PeerAddr})
	}
	for _, x := range *n.contacts.Load() {
		if !slices.ContainsFunc(out, func(y nodeRef) bool { return y.RaftID == x.RaftID }) {
			out = append(out, x)
		}
	}
	return out
}

// others are the nodes without this one.
func (n *core) others() []nodeRef {
	return slices.DeleteFunc(n.nodes(), func(x nodeRef) bool { return x.RaftID == n.id.RaftID })
}

// isRemoved says that a node was removed from the cluster for good.
func (n *core) isRemoved(raftID uint64) (gone bool) {
	n.control.view(func(c *ledger.Control) { gone = c.IsRemoved(raftID) })
	return gone
}

// serving says that this node knows the cluster well enough to serve: one that
// joined has its own joining in its replica of the control shard.
func (n *core) serving() bool {
	if !n.id.Joined {
		return true
	}
	ok := false
	n.control.view(func(c *ledger.Control) { _, ok = c.Member(n.id.RaftID) })
	return ok
}

// placement is where a shard belongs; false before placement began.
func (n *core) placement(shard uint32) (p ledger.Placement, ok bool) {
	n.control.view(func(c *ledger.Control) {
		if all := c.Placements(); int(shard) < len(all) {
			p, ok = all[shard], true
		}
	})
	return p, ok
}

// Intervals of what follows the cluster's members.
const (
	peersInterval = 500 * time.Millisecond // connections follow the members
	leadsEvery    = 4                      // of these: leaders tell the nodes without a replica who they are, unless it changed
)

// ledHere are the shards led from here, with their terms.
func (n *core) ledHere() map[uint32]uint64 {
	led := map[uint32]uint64{}
	for _, s := range n.store.Status() {
		if s.Ready && s.Leader == n.id.RaftID {
			led[s.Shard] = s.Term
		}
	}
	return led
}

// leadsLoop tells the other nodes what this one leads: a node without a replica
// of a shard has nobody else to learn it from. It also keeps connections to the
// cluster's members, and to nobody else.
func (n *core) leadsLoop() {
	t := n.ticker(peersInterval)
	defer t.Stop()
	known := map[uint64]nodeRef{}
	var told map[uint32]uint64
	var lost headless
	for turn := 0; ; turn++ {
		n.followPeers(known)
		n.watchHeadless(&lost, n.cfg.Now())
		if led := n.ledHere(); turn%leadsEvery == 0 || !maps.Equal(led, told) {
			n.tellPeers(notifyLeads, led) // told again soon
			told = led
		}
		select {
		case <-n.ctx.Done():
			return
		case <-n.ledChanged:
			turn = -1 // tell
		case <-t.C:
		}
	}
}

// tellPeers sends a notice to all peers, as JSON. Who is away misses it.
func (n *core) tellPeers(kind uint8, notice any) {
	b, err := json.Marshal(notice)
	if err != nil {
		panic("node: notice: " + err.Error()) // plain fields always marshal
	}
	for _, v := range n.others() {
		_ = n.peers.Notify(v.RaftID, kind, b)
	}
}

// followPeers makes the peer connections those to the members. known is what it
// set before: gossip may know a newer address, which must not be undone.
func (n *core) followPeers(known map[uint64]nodeRef) {
	for _, x := range n.others() {
		if known[x.RaftID] != x {
			known[x.RaftID] = x
			n.peers.SetPeer(x.RaftID, x.NodeID, x.PeerAddr)
		}
	}
	for _, p := range n.peers.Peers() {
		if n.isRemoved(p.RaftID) {
			n.cfg.Logger.Info("node removed: it is not let in any more", "layer", 5, "peer", p.NodeID)
			n.peers.RemovePeer(p.RaftID)
			n.depths.set(p.RaftID, nil)
			delete(known, p.RaftID)
		}
	}
}

// leadsHeard takes what a peer says it leads, for shards that have no replica
// here, or one that was removed or hears of no leader: otherwise raft knows
// better.
func (n *core) leadsHeard(from uint64, body []byte) {
	var led map[uint32]uint64
	if json.Unmarshal(body, &led) != nil {
		return
	}
	for shard := range n.shards {
		if st, here := n.store.ShardStatus(shard); here {
			member := slices.Contains(st.Voters, n.id.RaftID) || slices.Contains(st.Learners, n.id.RaftID)
			n.leaders.member(shard, member)
			if member && st.Leader != 0 {
				continue
			}
		}
		term, leads := led[shard]
		n.leaders.hint(shard, from, term, leads)
	}
}
