package node

import (
	"context"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// A session that opens says what its agent still holds. What this node thinks
// the agent holds beyond that, nobody performs: it was pushed into a connection
// that broke, or its process was started anew. Left alone it would be renewed
// with the rest for as long as the session lasts. So its lease ends as if the
// agent were lost. (Held through another node it is not renewed, and runs out.)

// orphans drops, and returns, what agent is noted to hold beyond list.
func (h *holds) orphans(agent string, list []api.Held) []ledger.Command {
	said := make(map[string]uint64, len(list))
	for _, x := range list {
		said[x.TaskID] = x.Epoch
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.byAgent[agent] == 0 {
		return nil
	}
	var cmds []ledger.Command
	for id, x := range h.mu.byTask {
		if epoch, ok := said[id.String()]; x.agent != agent || ok && epoch == x.epoch {
			continue
		}
		cmds = append(cmds, &ledger.Expire{ID: id, Agent: agent, Epoch: x.epoch, Reason: ledger.ReasonAgentLost})
		h.less(&x)
		delete(h.mu.byTask, id)
	}
	return cmds
}

// endOrphans has their leases ended by the shards' leaders.
func (n *core) endOrphans(agent string, cmds []ledger.Command) {
	byShard := map[uint32][]ledger.Command{}
	for _, c := range cmds {
		id := c.(*ledger.Expire).ID
		byShard[id.Shard()] = append(byShard[id.Shard()], c)
	}
	for shard, list := range byShard {
		n.cfg.Logger.Info("agent opened a session without tasks it held: they go elsewhere", "layer", 5, "agent", agent, "shard", shard, "tasks", len(list))
		n.background(func() {
			ctx, cancel := context.WithTimeout(n.ctx, callTimeout)
			defer cancel()
			n.do(ctx, shard, list) // what is not decided in time runs out by itself
		})
	}
}

// admitExpire takes the end of a lost agent's lease only if the desk knows that
// very lease: who proposed it may have learnt late.
func (d *desk) admitExpire(c *ledger.Expire) error {
	if c.Reason != ledger.ReasonAgentLost {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch _, v := d.find(c.ID, c.Agent, c.Epoch); v {
	case claimHolds:
		return nil
	case claimNoDesk:
		return errNotLeader
	}
	return errStale(c.ID, c.Epoch)
}

// recall asks an agent's session for tasks it may not have started; it says
// whether the session was told. The agent gives them back (Return), or says
// that they are started (Claim).
func (s *sessions) recall(agent string, list []api.Held) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.mu.of[agent]
	if x == nil || !x.work {
		return false
	}
	for _, h := range list {
		x.revoke(api.SessionEvent{Type: api.EventRecall, TaskID: h.TaskID, Epoch: h.Epoch})
	}
	return true
}
