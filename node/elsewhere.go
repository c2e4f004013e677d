package node

import (
	"context"
	"sync"

	"github.com/quorate/quorate/ledger"
)

// elsewhere is what a node has of an agent.
type elsewhere struct {
	Held     []heldElsewhere `json:"held,omitempty"` // at most MaxLeases of its own agents' and so many of a desk's
	Reserved int             `json:"reserved,omitempty"`
	More     int             `json:"more,omitempty"` // at desks, and not listed
	Led      []uint32        `json:"led,omitempty"`  // shards whose desk is there and knows every lease
}

type heldElsewhere struct {
	ID         ledger.TaskID `json:"id"`
	Capability string        `json:"c,omitempty"`
}

type elsewhereRequest struct {
	Agent string `json:"agent"`
	Node  uint64 `json:"node"`
	Look  bool   `json:"look,omitempty"` // nothing is leased: nothing is promised
	At    uint64 `json:"at,omitempty"`   // who is asked; 0: who got it
}

// elsewhereHere answers a peer that wants to lease to an agent: from now on it
// is asked before anything is leased to the agent here. A question for another
// is passed on, once.
func (n *core) elsewhereHere(ctx context.Context, q elsewhereRequest) (elsewhere, error) {
	if at := q.At; at != 0 && at != n.id.RaftID {
		if q.At = 0; !n.peers.Up(at) {
			return elsewhere{}, errNotReached
		}
		ctx, cancel := context.WithTimeout(ctx, elsewhereWait)
		defer cancel()
		return callPeer[elsewhereRequest, elsewhere](ctx, n, at, methodElsewhere, q)
	}
	x := n.holds.has(&q)
	n.addDesks(&x, q.Agent) // after the promise: a lease that it does not forbid is at the desk, or reserved
	return x, nil
}

// has is what the agents here have, and the promise.
func (h *holds) has(q *elsewhereRequest) elsewhere {
	h.mu.Lock()
	defer h.mu.Unlock()
	if u := h.mu.uses[q.Agent]; u != nil && !q.Look {
		u.asked++
		delete(u.trust, q.Node)
		u.wake() // who waits with room set aside gives it up
	}
	x := elsewhere{Reserved: h.mu.reserved[q.Agent]}
	if h.mu.byAgent[q.Agent] > 0 {
		for id, t := range h.mu.byTask {
			if t.agent == q.Agent {
				x.Held = append(x.Held, heldElsewhere{ID: id, Capability: t.capability})
			}
			if len(x.Held) == MaxLeases {
				break // the desks count the rest
			}
		}
	}
	if x.Reserved == 0 && !q.Look {
		h.promise(q.Agent, q.Node)
	}
	return x
}

// askPeers asks the peers for what they have; who does not answer is asked
// through those who do. silent are those that nobody reaches.
func (n *core) askPeers(ctx context.Context, q elsewhereRequest, peers []nodeRef) (answers []elsewhere, silent []uint64) {
	ctx = context.WithoutCancel(ctx)
	got, errs := make([]elsewhere, len(peers)), make([]error, len(peers))
	ask := func(i int, through uint64, q elsewhereRequest) {
		ctx, cancel := context.WithTimeout(ctx, elsewhereWait)
		defer cancel()
		if errs[i] = errNotReached; n.peers.Up(through) {
			got[i], errs[i] = callPeer[elsewhereRequest, elsewhere](ctx, n, through, methodElsewhere, q)
		}
	}
	var wait sync.WaitGroup
	for i, v := range peers {
		wait.Go(func() { ask(i, v.RaftID, q) })
	}
	wait.Wait()
	var answered, lost []int
	for i := range peers {
		if errs[i] == nil {
			answered = append(answered, i)
		} else {
			lost = append(lost, i)
		}
	}
	for _, i := range lost {
		wait.Go(func() {
			for _, k := range answered {
				q := q
				if q.At = peers[i].RaftID; errs[i] != nil {
					ask(i, peers[k].RaftID, q)
				}
			}
		})
	}
	wait.Wait()
	for i := range peers {
		if errs[i] != nil {
			silent = append(silent, peers[i].RaftID)
		} else {
			answers = append(answers, got[i])
		}
	}
	return answers, silent
}
