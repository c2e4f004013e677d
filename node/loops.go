package node

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/raftstore"
	"github.com/quorate/quorate/sched"
)

// Intervals of the node's loops.
const (
	deskInterval  = 100 * time.Millisecond
	depthInterval = 100 * time.Millisecond
	// backlogGrace is how long queued work is left to the agents connected here
	// before the peers hear of it. Told at once, they asked for most tasks just
	// after an agent here had taken them: at 2,000 tasks a second 1,280 requests
	// for 313 leases, a third of all frames between the nodes.
	backlogGrace    = 2 * time.Millisecond
	balanceInterval = 500 * time.Millisecond
	balanceTurns    = 6 // a leader that may stay is moved this rarely
)

// ticker is time.NewTicker on the process's beat.
func (n *core) ticker(interval time.Duration) *time.Ticker {
	t := time.NewTimer(raftstore.UntilBeat(time.Now(), n.id.RaftID))
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.ctx.Done():
	}
	return time.NewTicker(interval)
}

// deskLoop turns the wheel: it proposes what is due on the shards led here.
func (n *core) deskLoop() {
	t := n.ticker(deskInterval)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		now := n.nowMillis()
		for shard, r := range *n.replicas.of.Load() {
			d := r.desk
			cmds, asks := d.due(now)
			for part := range slices.Chunk(cmds, maxForwarded) {
				n.propose(shard, part)
			}
			if len(asks) > 0 {
				n.askHeld(asks)
			}
		}
	}
}

// propose sends commands to the log without waiting; who proposed them looks
// again later.
func (n *core) propose(shard uint32, cmds []ledger.Command) {
	ps := make([]raftstore.Proposal, len(cmds))
	for i, c := range cmds {
		ps[i] = raftstore.Proposal{Command: c.Append(nil), Done: func(raftstore.Result) {}}
	}
	n.store.Propose(shard, ps)
}

// agentLoop reports who was seen and, on the control leader, looks for the
// silent.
func (n *core) agentLoop() {
	every := min(n.cfg.AgentInterval/3, time.Second)
	t := n.ticker(every)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		n.flushSeen()
		if id, _ := n.leaders.of(controlShard); id == n.id.RaftID {
			n.watchAgents()
		}
	}
}

// depthLoop tells the peers what waits here: at once when a backlog starts that
// no agent here can do, soon when one can, and then as it changes.
func (n *core) depthLoop() {
	var told []depth
	var again, grace <-chan time.Time
	for {
		var list []depth
		select {
		case <-n.ctx.Done():
			return
		case <-n.backlog:
			if grace != nil {
				continue
			}
			if list = n.queued(); len(told) == 0 && n.servedHere(list) { // by agents that may be between two tasks
				grace = time.After(backlogGrace)
				continue
			}
		case <-grace:
			list = n.queued()
		case <-again:
			list = n.queued()
		}
		grace = nil
		if len(list) > 0 && n.handOverQueued(list) {
			list = n.queued()
		}
		if len(list) > 0 || len(told) > 0 {
			n.tellPeers(notifyDepths, list) // again soon, as long as there is any
		}
		told, again = list, nil
		if len(list) > 0 {
			again = time.After(depthInterval)
		}
	}
}

// queued is what waits here.
func (n *core) queued() (list []depth) {
	for _, d := range n.sched.Depths() {
		if d.Queued > 0 {
			list = append(list, depth{Capability: d.Capability, Queued: d.Queued, Oldest: d.OldestMillis})
		}
	}
	return list
}

// servedHere says that agents connected here can do all that waits.
func (n *core) servedHere(list []depth) bool {
	n.seats.Lock()
	defer n.seats.Unlock()
	for _, d := range list {
		served := false
		for _, s := range n.seats.of {
			if served = sched.Matches(s.caps, d.Capability); served {
				break
			}
		}
		if !served {
			return false
		}
	}
	return true
}

// heard takes a peer's depths and wakes workers here that could help.
func (n *core) heard(from uint64, body []byte) {
	var list []depth
	if json.Unmarshal(body, &list) != nil {
		return
	}
	n.depths.set(from, list)
	if len(list) == 0 {
		return
	}
	n.seats.Lock()
	defer n.seats.Unlock()
	for _, d := range list {
		left := d.Queued
		for _, s := range n.seats.of {
			if left <= 0 {
				break
			}
			if sched.Matches(s.caps, d.Capability) {
				left -= s.wake(left)
			}
		}
	}
}

// balanceLoop hands leadership to the node that should have it by placement,
// so that leaders spread evenly; from a node that is to lose its replica at
// once.
func (n *core) balanceLoop() {
	t := n.ticker(balanceInterval)
	defer t.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		for _, s := range n.store.Status() {
			if s.Leader != n.id.RaftID || n.draining.Load() {
				continue
			}
			p, ok := n.placement(s.Shard)
			if !ok || turn%balanceTurns != 0 && slices.Contains(p.Voters, n.id.RaftID) {
				continue
			}
			n.giveLead(&s, p.Voters)
		}
	}
}

// giveLead hands a shard to the first of the nodes that is fit for it, unless
// this one comes before.
func (n *core) giveLead(s *raftstore.ShardStatus, to []uint64) {
	for _, id := range to {
		if id == n.id.RaftID {
			return
		}
		if !slices.Contains(s.Voters, id) || !n.peers.Up(id) || !caughtUp(s, id) {
			continue
		}
		n.background(func() { // asked twice, it is done once
			if err := n.store.TransferLeader(n.ctx, s.Shard, id); err != nil {
				n.cfg.Logger.Debug("leader not handed over", "layer", 5, "shard", s.Shard, "error", err)
			}
		})
		return
	}
}

// caughtUp says that a follower has (nearly) the leader's whole log.
func caughtUp(s *raftstore.ShardStatus, id uint64) bool {
	for _, f := range s.Followers {
		if f.RaftID == id {
			return f.Active && !f.Snapshot && f.Match+caughtUpLag >= s.LastIndex
		}
	}
	return false
}

// caughtUpLag is how many entries a follower may lack and still be well: what
// is in flight under load.
const caughtUpLag = 64

// handOver gives every led shard to a follower that is up. What one does not
// take is offered to the next, as long as ctx allows.
func (n *core) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverLimit)
	defer cancel()
	for turn := 0; ctx.Err() == nil; turn++ {
		var wg sync.WaitGroup
		left := 0
		for _, s := range n.store.Status() {
			if s.Leader != n.id.RaftID {
				continue
			}
			up := slices.DeleteFunc(slices.Clone(s.Voters), func(id uint64) bool { return id == n.id.RaftID || !n.peers.Up(id) })
			if len(up) == 0 {
				continue
			}
			left++
			wg.Go(func() {
				if err := n.store.TransferLeader(ctx, s.Shard, up[turn%len(up)]); err != nil {
					n.cfg.Logger.Debug("leader not handed over", "layer", 5, "shard", s.Shard, "error", err)
					n.pause(ctx, nil)
				}
			})
		}
		wg.Wait()
		if left == 0 {
			return
		}
	}
}

// handOverLimit bounds what handing over may delay a stop.
const handOverLimit = 2 * time.Second
