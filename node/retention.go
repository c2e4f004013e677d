package node

import (
	"time"

	"github.com/quorate/quorate/ledger"
)

// MinTaskRetention is the shortest time that ended tasks can be kept: longer
// than any call or repeat of one is under way.
const MinTaskRetention = time.Minute

// retentionInterval is how often ended tasks are looked through; retentionPage
// how many go with one command.
const (
	retentionInterval = 15 * time.Second
	retentionPage     = 512
)

// retentionLoop proposes the eviction of what ended long enough ago, on the
// shards led here. The ledger checks again.
func (n *core) retentionLoop() {
	if n.cfg.TaskRetention == 0 {
		return
	}
	t := n.ticker(retentionInterval)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		for shard := range n.shards {
			if leader, _ := n.leaders.of(shard); shard != controlShard && leader == n.id.RaftID {
				n.evictEnded(shard, n.nowMillis()-n.cfg.TaskRetention.Milliseconds())
			}
		}
	}
}

// evictEnded looks through the tasks that were made before a time: no other
// can have ended before it. IDs begin with their time, so that what is kept
// is not looked at.
func (n *core) evictEnded(shard uint32, before int64) {
	m := n.taskShard(shard)
	if m == nil {
		return
	}
	q := ledger.Query{Limit: retentionPage, States: []ledger.State{ledger.StateCompleted, ledger.StateFailed, ledger.StateCancelled, ledger.StateTimedOut, ledger.StateRolledBack}}
	for n.ctx.Err() == nil {
		var p ledger.Page
		var err error
		m.view(func(t *ledger.Tasks) { p, err = t.Scan(q) })
		if err != nil {
			n.cfg.Logger.Warn("ended tasks are not looked through", "layer", 7, "shard", shard, "error", err)
			return
		}
		c := &ledger.Evict{BeforeMillis: before}
		for i := range p.Tasks {
			if t := &p.Tasks[i]; t.CompletedMillis < before && t.Txn == nil {
				c.IDs = append(c.IDs, t.ID)
			}
		}
		if len(c.IDs) > 0 {
			if a := n.do(n.ctx, shard, []ledger.Command{c})[0]; a.err != nil {
				return // whoever leads by then looks again
			}
		}
		if q.After = p.Next; !p.More || p.Next.Millis() >= before {
			return
		}
	}
}
