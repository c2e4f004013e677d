package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// relayBatch is how many letters of a shard are delivered at a time.
const relayBatch = 256

// relayInterval is how often letters that nobody was woken for are looked at:
// those of a shard that came here with its leadership.
const relayInterval = 500 * time.Millisecond

// relayLoop delivers the letters of the shards led here until they are
// acknowledged.
func (n *core) relayLoop() {
	t := n.ticker(relayInterval)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.mail:
		case <-t.C:
		}
		for again := true; again && n.ctx.Err() == nil; {
			again = false
			for shard, r := range *n.replicas.of.Load() {
				m := r.machine
				if id, _ := n.leaders.of(shard); id != n.id.RaftID {
					continue
				}
				var letters []ledger.Letter
				m.view(func(t *ledger.Tasks) { letters = t.Outbox(relayBatch) })
				if len(letters) > 0 {
					again = n.deliver(shard, letters) && len(letters) == relayBatch || again
				}
			}
		}
	}
}

// deliver takes letters to their shards and acknowledges those that were
// decided there, whatever the decision; true when all were.
func (n *core) deliver(from uint32, letters []ledger.Letter) bool {
	ctx, cancel := context.WithTimeout(n.ctx, attemptLimit)
	defer cancel()
	byShard := map[uint32][]int{}
	cmds := make([]ledger.Command, len(letters))
	var ack ledger.Ack
	for i, l := range letters {
		c, err := ledger.DecodeCommand(l.Command)
		if err != nil {
			n.cfg.Logger.Error("a letter does not decode", "layer", 5, "shard", from, "letter", l.Seq, "error", err)
			continue
		}
		if ask, ok := c.(*ledger.SagaAsk); ok {
			if n.startSaga(ctx, ask) {
				ack.Seqs = append(ack.Seqs, l.Seq)
			}
			continue
		}
		cmds[i] = c
		byShard[l.Shard] = append(byShard[l.Shard], i)
	}
	for shard, idx := range byShard {
		batch := make([]ledger.Command, len(idx))
		for k, i := range idx {
			batch[k] = cmds[i]
		}
		for k, a := range n.do(ctx, shard, batch) {
			if a.err == nil {
				ack.Seqs = append(ack.Seqs, letters[idx[k]].Seq)
			}
		}
	}
	if len(ack.Seqs) == 0 {
		return false
	}
	a := n.doHere(ctx, from, []ledger.Command{&ack})[0] // before the next look, or they go out twice
	return a.err == nil && len(ack.Seqs) == len(letters)
}

// startSaga gathers the session whose step failed and has it rolled back. Asked
// twice it makes the same saga.
func (n *core) startSaga(ctx context.Context, ask *ledger.SagaAsk) bool {
	steps, fixed, err := n.steps(ctx, ask.Fleet, ask.Session)
	if err != nil {
		return false
	}
	for _, f := range fixed { // the ledger refuses them, and its records say so
		if id, err := ledger.ParseTaskID(f); err == nil {
			steps = append(steps, id)
		}
	}
	all := len(steps)
	steps, part := newestSteps(steps)
	h := sha256.Sum256(append([]byte("saga\x00"), ask.Cause[:]...))
	id := ledger.NewTaskID(n.keyShard(ask.Fleet, "session\x00"+ask.Session), ask.Cause.Millis(), binary.BigEndian.Uint64(h[:]))
	a := n.do(ctx, id.Shard(), []ledger.Command{&ledger.Saga{ID: id, Fleet: ask.Fleet, Session: ask.Session, Steps: steps, By: "ledger",
		Reason: part + "step " + ask.Cause.String() + " failed", Cause: ask.Cause}})[0]
	if a.err != nil {
		return false
	}
	if len(fixed) > 0 || part != "" || a.outcome.Code != ledger.OK {
		n.metrics.rollbacksFailed.Inc()
		n.cfg.Logger.Error("a session is not rolled back in full", "layer", 7, "session", ask.Session, "fleet", ask.Fleet, "saga", id.String(),
			"irreversible", len(fixed), "steps", all, "undone", len(steps), "code", a.outcome.Code.String(), "detail", a.outcome.Detail, "hint", "quorate task rollback the session again for what one saga did not take (see its description); settle by hand what is irreversible")
	}
	return true
}

// watchRollbacks is told of every event: a rollback that failed is loud.
func (n *core) watchRollbacks(shard uint32, events []ledger.Event) {
	for i := range events {
		e := &events[i]
		if e.From != ledger.StateRollingBack || e.State != ledger.StateFailed {
			continue
		}
		if id, _ := n.leaders.of(shard); id == n.id.RaftID {
			n.metrics.rollbacksFailed.Inc()
			n.cfg.Logger.Error("a rollback failed: the effect stands until someone settles it", "layer", 7, "task", e.ID.String(),
				"capability", e.Capability, "hint", "quorate task list --rollback-failed; quorate task resolve")
		}
	}
}

// stuckHere lists the tasks of a shard whose rollback failed.
func (n *core) stuckHere(m *taskMachine, f *api.TaskFilter) (out []api.Task, err error) {
	var ids []ledger.TaskID
	m.view(func(t *ledger.Tasks) { ids = t.Stuck() })
	for _, id := range ids {
		t, ok, err := m.task(id)
		if err != nil {
			return nil, errInternal(err)
		}
		if ok && (f.FleetID == "" || f.FleetID == t.Spec.Fleet) && (f.SessionID == "" || f.SessionID == t.Spec.Session) {
			out = append(out, n.renderTask(&t))
		}
	}
	return out, nil
}

// hasMail says whether a shard has letters to deliver.
func (m *taskMachine) hasMail() bool { return len(m.mu.tasks.Outbox(1)) > 0 }
