package node

import (
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/raftstore"
)

// commitWait bounds how long a lease may take through the log.
const commitWait = 3 * time.Second

// commitLeases has the leases among got that belong in the log decided there,
// before any agent hears of them. What is refused is dropped from got; a lease
// that comes through after everybody stopped waiting is released again.
func (n *core) commitLeases(got []grant, agent string, node uint64) []grant {
	var open sync.WaitGroup
	var mu sync.Mutex // of got and abandoned
	abandoned := false
	count := 0
	for i := range got {
		g := &got[i]
		if !g.logged || g.epoch != 0 {
			continue
		}
		count++
		open.Add(1)
		id, shard := g.id, g.id.Shard()
		done := func(r raftstore.Result) {
			defer open.Done()
			a := resultAnswer(r)
			ok := a.err == nil && a.outcome.Code == ledger.OK
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ok && abandoned:
				n.propose(shard, []ledger.Command{&ledger.Release{ID: id, Agent: agent, Epoch: a.outcome.Epoch}})
			case ok:
				g.epoch = a.outcome.Epoch
			case a.err == nil || certain(a.err):
				n.unlease(shard, id)
			}
		}
		again, stop, e := n.revalidate(id, agent)
		if len(again) > 0 {
			n.propose(shard, again)
		}
		if stop || e != nil {
			if d := n.desk(shard); d != nil && e == nil && len(again) == 0 { // the agent is one of the task's approvers
				d.passOn(id, n.nowMillis())
			} else { // a rule has changed since
				n.unlease(shard, id)
			}
			open.Done()
			continue
		}
		c := &ledger.Lease{ID: id, Agent: agent, Node: n.nodeName(node)}
		n.store.Propose(shard, []raftstore.Proposal{{Command: c.Append(nil), Done: done}})
	}
	if count == 0 {
		return got
	}
	all := make(chan struct{})
	go func() { // ends when the store has answered every proposal, which it always does
		open.Wait()
		close(all)
	}()
	t := time.NewTimer(commitWait)
	defer t.Stop()
	select {
	case <-all:
	case <-t.C:
	case <-n.ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	abandoned = true
	kept := make([]grant, 0, len(got)) // late answers still write to got
	for _, g := range got {
		if g.epoch != 0 {
			kept = append(kept, g)
		}
	}
	return kept
}
