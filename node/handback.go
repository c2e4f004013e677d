package node

import (
	"context"
	"slices"

	"github.com/quorate/quorate/ledger"
)

// A lease that a node got for its agent, and what becomes of it when a message
// is lost, the node dies or the shard's leader changes:
//
//   - It counts as held when the agent's node has entered it, before the agent
//     hears of it. What was told to a new leader as not held is not entered any
//     more ([holds.admit]): the leader may have given it to others.
//   - The desk is told that it arrived. If that is lost, the desk asks the node
//     after confirmMillis ([core.askHeld]); only a node's word that it does not
//     hold the lease ends it early, and the node keeps that word. A node that
//     cannot be asked has until the lease ends.
//   - What goes back is brought to whoever leads the shard until it is there
//     ([core.handBack]); no attempt is counted.

// confirmGrants tells the desks that leases arrived.
func (n *core) confirmGrants(gs []grant) {
	remote := map[uint64][]stolen{}
	for _, g := range gs {
		shard := g.id.Shard()
		id, _ := n.leaders.of(shard)
		if d := n.desk(shard); id == n.id.RaftID && d != nil {
			d.confirm(g.id, g.epoch)
			continue
		}
		remote[id] = append(remote[id], stolen{ID: g.id, Epoch: g.epoch})
	}
	for id, list := range remote {
		if id != 0 {
			_ = n.peers.Notify(id, notifyConfirm, appendGrants(nil, list)) // the desk asks if it is lost
		}
	}
}

// grantsConfirmed is confirmGrants' other end.
func (n *core) grantsConfirmed(body []byte) {
	list, err := readGrants(body)
	if err != nil {
		return
	}
	for _, g := range list {
		if d := n.desk(g.ID.Shard()); d != nil {
			d.confirm(g.ID, g.Epoch)
		}
	}
}

// handBack ends leases whose tasks nobody began with. Leases that are not in
// the log and of shards led here are back when it returns.
func (n *core) handBack(gs []grant) {
	byShard := map[uint32][]stolen{}
	for _, g := range gs {
		shard := g.id.Shard()
		if d := n.desk(shard); d != nil {
			if c, done := d.giveBack(g.id, g.epoch); done && c == nil {
				continue
			}
		}
		byShard[shard] = append(byShard[shard], stolen{ID: g.id, Epoch: g.epoch})
	}
	for shard, list := range byShard {
		n.background(func() {
			if _, err := onLeader(n.ctx, n, shard, methodGiveBack, list, n.giveBackHere); err != nil && !n.closing() {
				n.cfg.Logger.Warn("leases not given back; they run out instead", "layer", 5, "shard", shard, "count", len(list), "error", err)
			}
		})
	}
}

// giveBackHere is the leader's side of handBack.
func (n *core) giveBackHere(ctx context.Context, list []stolen) (struct{}, error) {
	byShard := map[uint32][]ledger.Command{}
	for _, g := range list {
		d := n.desk(g.ID.Shard())
		if d == nil {
			return struct{}{}, errNotLeader
		}
		c, done := d.giveBack(g.ID, g.Epoch)
		if !done {
			return struct{}{}, errNotLeader
		}
		if c != nil {
			byShard[g.ID.Shard()] = append(byShard[g.ID.Shard()], c)
		}
	}
	for shard, cmds := range byShard {
		for part := range slices.Chunk(cmds, maxForwarded) {
			for _, a := range n.doHere(ctx, shard, part) {
				if a.err != nil {
					return struct{}{}, a.err
				}
			}
		}
	}
	return struct{}{}, nil
}

// unconfirmed is a lease that its node did not say arrived.
type unconfirmed struct {
	id    ledger.TaskID
	node  uint64
	epoch uint64
}

// askHeld asks the nodes of leases that were not confirmed whether they hold
// them.
func (n *core) askHeld(list []unconfirmed) {
	byNode := map[uint64][]heldReport{}
	for _, u := range list {
		byNode[u.node] = append(byNode[u.node], heldReport{ID: u.id, Epoch: u.epoch})
	}
	for id, asked := range byNode {
		n.background(func() {
			holds, err := n.holdingHere(n.ctx, asked)
			if id != n.id.RaftID {
				holds, err = callPeer[[]heldReport, []bool](n.ctx, n, id, methodHolding, asked)
			}
			if err != nil || len(holds) != len(asked) {
				return // asked again
			}
			for i, x := range asked {
				if d := n.desk(x.ID.Shard()); d != nil && holds[i] {
					d.confirm(x.ID, x.Epoch)
				} else {
					n.handBack([]grant{{id: x.ID, epoch: x.Epoch}})
				}
			}
		})
	}
}

// holdingHere says which leases an agent of this node holds. Those that none
// does are not taken any more.
func (n *core) holdingHere(_ context.Context, list []heldReport) ([]bool, error) {
	out := make([]bool, len(list))
	now := n.nowMillis()
	for i, x := range list {
		out[i] = n.holds.holding(x.ID, x.Epoch, now)
	}
	return out, nil
}
