package node

import (
	"github.com/quorate/quorate/ledger"
)

// word is what this node told of leases it does not hold.
type word struct {
	// terms has, by shard, the newest term whose leader was told what is held:
	// older leases that were not among it are over.
	terms map[uint32]uint64
	// denied has the newest epoch of a task that was said not to be held.
	denied map[ledger.TaskID]denial
	pruned int64 // when denied was last gone through
}

type denial struct {
	epoch  uint64
	millis int64
}

// deniedMillis is for how long a denial is kept: longer than a lease can be on
// its way here.
const deniedMillis = 60_000

// admit enters a new lease; false: its task may be somebody else's by now (leases
// in the log are the ledger's to end), or one too many of its capability.
func (h *holds) admit(g *grant, agent, capability string, nowMillis int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !g.logged && g.epoch>>epochTermShift < h.mu.word.terms[g.id.Shard()] {
		return false
	}
	if len(h.mu.word.denied) > 0 && g.epoch <= h.mu.word.denied[g.id].epoch {
		return false
	}
	if !h.fits(agent, capability) {
		return false
	}
	if x := h.enter(g.id, agent, capability, g.epoch, g.leaseMillis, nowMillis); x != nil {
		x.action, x.target, x.theft = g.action, g.target, g.theft
		h.mu.byTask[g.id] = *x
	}
	return true
}

// told lists the leases held on a shard for the leader of term: it will not be
// told of others with older epochs.
func (h *holds) told(shard uint32, term, node uint64) (out []report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.word.terms[shard] = max(h.mu.word.terms[shard], term)
	for id, x := range h.mu.byTask {
		if id.Shard() == shard {
			out = append(out, report{id: id, agent: x.agent, node: node, epoch: x.epoch, theft: x.theft})
		}
	}
	return out
}

// holding says whether a lease is held here; if not, it will not be.
func (h *holds) holding(id ledger.TaskID, epoch uint64, nowMillis int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x, ok := h.mu.byTask[id]; ok && x.epoch == epoch {
		return true
	}
	w := &h.mu.word
	if nowMillis-w.pruned > deniedMillis {
		w.pruned = nowMillis
		for k, d := range w.denied {
			if nowMillis-d.millis > deniedMillis {
				delete(w.denied, k)
			}
		}
	}
	w.denied[id] = denial{epoch: max(epoch, w.denied[id].epoch), millis: nowMillis}
	return false
}
