package node

import (
	"context"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Bounds of renewing for agents.
const (
	minRenewMillis  = 20    // a tiny lease is not renewed in a loop
	maxRenewMillis  = 1_000 // how long the loop sleeps at most: sessions come and go
	maxRenewals     = 4096  // in one call
	renewalsAtOnce  = 8     // calls
	renewalsTimeout = 5 * time.Second
)

// renewLoop renews, for every agent with a working session, what it holds: a
// batch a shard, not a call a task.
func (n *core) renewLoop() {
	t := time.NewTimer(maxRenewMillis * time.Millisecond)
	defer t.Stop()
	slots := make(chan struct{}, renewalsAtOnce)
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		wait := int64(maxRenewMillis)
		if agents := n.sessions.working(); len(agents) > 0 {
			now := n.nowMillis()
			due, next := n.holds.toRenew(agents, now)
			for shard, list := range due {
				n.renewAll(slots, shard, list)
			}
			if next > 0 {
				wait = min(max(next-now, minRenewMillis), maxRenewMillis)
			}
		}
		t.Reset(time.Duration(wait) * time.Millisecond)
	}
}

func (n *core) renewAll(slots chan struct{}, shard uint32, list []renewRequest) {
	for len(list) > 0 {
		k := min(len(list), maxRenewals)
		batch := list[:k]
		list = list[k:]
		select {
		case slots <- struct{}{}:
		case <-n.ctx.Done():
			return
		}
		n.background(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(n.ctx, renewalsTimeout)
			defer cancel()
			n.claims(ctx, shard, batch)
		})
	}
}

// claimAnswer says what became of one of many claims; Code "" is that it holds.
type claimAnswer struct {
	Code        string `json:"c,omitempty"`
	LeaseMillis int64  `json:"l,omitempty"`
}

// claims renews leases of one shard (and marks them started, or takes their
// progress) at its leader. Those that are over are dropped, and their agents
// told. A shard without a leader answers nothing: the next round asks again.
func (n *core) claims(ctx context.Context, shard uint32, list []renewRequest) []claimAnswer {
	for i := range list {
		list[i].Node = n.id.RaftID
	}
	answers, err := onLeader(ctx, n, shard, methodRenewMany, list, n.renewManyHere)
	if err != nil || len(answers) != len(list) {
		if !n.closing() {
			n.cfg.Logger.Debug("leases not renewed yet", "layer", 5, "shard", shard, "count", len(list), "error", err)
		}
		return nil
	}
	var gone []revoked
	now := n.nowMillis()
	for i, a := range answers {
		q := &list[i]
		if a.Code == "" {
			n.holds.renewed(q.ID, q.Agent, q.Epoch, a.LeaseMillis, now)
			continue
		}
		n.holds.drop(q.ID, q.Epoch)
		gone = append(gone, revoked{id: q.ID, agent: q.Agent, epoch: q.Epoch, reason: a.Code})
	}
	n.sessions.tell(gone)
	return answers
}

// renewManyHere is the leader's side of claims.
func (n *core) renewManyHere(_ context.Context, list []renewRequest) ([]claimAnswer, error) {
	if len(list) > maxRenewals {
		return nil, errShort
	}
	out := make([]claimAnswer, len(list))
	now := n.nowMillis()
	for i := range list {
		q := &list[i]
		d := n.desk(q.ID.Shard())
		if d == nil {
			return nil, errNotLeader
		}
		h, v := d.renew(q.ID, q.Agent, q.Node, q.Epoch, q.Start, q.Progress, now)
		switch v {
		case claimHolds:
			out[i].LeaseMillis = h.leaseMillis
		case claimNoDesk:
			return nil, errNotLeader
		default:
			out[i].Code = n.lapsed(q)
		}
	}
	return out, nil
}

// lapsed says why a claim does not hold, and has it recorded when there is
// such a task.
func (n *core) lapsed(q *renewRequest) string {
	m := n.taskShard(q.ID.Shard())
	if m == nil {
		return "task_not_found"
	}
	t, ok, err := m.task(q.ID)
	switch {
	case err != nil || !ok:
		return "task_not_found"
	case t.State.Terminal():
		return t.State.String()
	}
	n.refused(q.ID.Shard(), q.ID, q.Agent, q.Epoch, q.Verb)
	return "stale_lease"
}

// renewed notes a renewal, if the task is still held.
func (h *holds) renewed(id ledger.TaskID, agent string, epoch uint64, leaseMillis, nowMillis int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x, ok := h.mu.byTask[id]; ok && x.epoch == epoch && x.agent == agent {
		x.leaseMillis, x.renewAt = leaseMillis, nowMillis+max(leaseMillis/renewParts, minRenewMillis)
		h.mu.byTask[id] = x
	}
}

// yield forgets a task if agent holds it at epoch, and says whether it did.
func (h *holds) yield(id ledger.TaskID, agent string, epoch uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, ok := h.mu.byTask[id]
	if !ok || x.agent != agent || x.epoch != epoch {
		return false
	}
	h.less(&x)
	delete(h.mu.byTask, id)
	return true
}

// claimMany claims what an agent says it holds, started or not, and returns
// what it holds no more. What could not be asked is taken to hold: the renewal
// loop asks again.
func (n *core) claimMany(ctx context.Context, agent string, list []api.HeldClaim) []api.SessionEvent {
	byShard := map[uint32][]renewRequest{}
	var bad []api.SessionEvent
	revoke := func(h api.Held, reason string) {
		bad = append(bad, api.SessionEvent{Type: "revoked", TaskID: h.TaskID, Epoch: h.Epoch, Reason: reason})
	}
	for i := range list {
		h := &list[i]
		id, err := n.claimed(h.TaskID, agent, h.Epoch)
		if err != nil {
			revoke(h.Held, asAPIError(err).Code)
			continue
		}
		verb := "renew"
		if h.Start {
			verb = "start"
		}
		if h.Progress != nil {
			verb = "progress"
		}
		byShard[id.Shard()] = append(byShard[id.Shard()], renewRequest{ID: id, Agent: agent, Epoch: h.Epoch, Start: h.Start, Progress: h.Progress, Verb: verb})
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for shard, all := range byShard {
		wait.Go(func() {
			for len(all) > 0 {
				k := min(len(all), maxRenewals)
				part := all[:k]
				all = all[k:]
				answers := n.claims(ctx, shard, part)
				known := make([]string, len(part))
				for i := range part {
					known[i] = n.capabilityFor(agent, part[i].ID)
				}
				mu.Lock()
				for i, a := range answers {
					if a.Code != "" {
						revoke(api.Held{TaskID: part[i].ID.String(), Epoch: part[i].Epoch}, a.Code)
						continue
					}
					n.holds.add(part[i].ID, agent, known[i], part[i].Epoch, a.LeaseMillis, n.nowMillis())
					if part[i].Verb != "renew" {
						n.holds.begin(part[i].ID, part[i].Epoch)
						n.recalls.answered(part[i].ID, part[i].Epoch, false)
					}
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return bad
}

// errFenced ends a session whose agent connected again.
func errFenced(agent string) *api.Error {
	return api.Errorf(409, 2, "session_fenced", api.RetryNo, "agent %s connected again: this session is over", agent).
		WithHint("two processes must not share an agent ID; what this one holds is still checked by its epochs")
}
