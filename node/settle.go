package node

import (
	"context"
	"encoding/json"
	"sync"
	"unicode/utf8"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Limits of what an agent reports.
const (
	MaxSettle        = 1024
	MaxProgressBytes = api.MaxProgressBytes
	MaxErrorBytes    = 4 << 10 // a longer error is cut, keeping its end
)

// renewRequest is start, renew or progress on its way to the desk.
type renewRequest struct {
	ID       ledger.TaskID `json:"id"`
	Agent    string        `json:"agent"`
	Node     uint64        `json:"node"`
	Epoch    uint64        `json:"epoch"`
	Start    bool          `json:"start,omitempty"`
	Progress []byte        `json:"progress,omitempty"`
	Verb     string        `json:"verb"`
}

// Start marks a held task running and renews its lease.
func (n *core) Start(ctx context.Context, id string, c api.Claim) (api.Renewal, error) {
	return n.renewAs(ctx, "start", id, c)
}

// Renew prolongs a lease.
func (n *core) Renew(ctx context.Context, id string, c api.Claim) (api.Renewal, error) {
	return n.renewAs(ctx, "renew", id, c)
}

// Progress keeps what the holder reports and renews its lease.
func (n *core) Progress(ctx context.Context, id string, c api.Claim) (api.Renewal, error) {
	if len(c.Progress) > MaxProgressBytes {
		return api.Renewal{}, api.Errorf(413, 2, "payload_too_large", api.RetryNo, "progress has %d bytes, at most %d", len(c.Progress), MaxProgressBytes)
	}
	if c.Progress == nil {
		c.Progress = json.RawMessage("null")
	}
	return n.renewAs(ctx, "progress", id, c)
}

func (n *core) renewAs(ctx context.Context, verb, id string, c api.Claim) (api.Renewal, error) {
	tid, err := n.claimed(id, c.AgentID, c.Epoch)
	if err != nil {
		return api.Renewal{}, err
	}
	n.roster.seen(c.AgentID)
	q := renewRequest{ID: tid, Agent: c.AgentID, Node: n.id.RaftID, Epoch: c.Epoch, Start: verb == "start", Progress: c.Progress, Verb: verb}
	r, err := onLeader(ctx, n, tid.Shard(), methodRenew, q, n.renewHere)
	if err != nil {
		if asAPIError(err).Code == "stale_lease" {
			n.holds.drop(tid, c.Epoch)
		}
		return r, err
	}
	n.holds.add(tid, c.AgentID, n.capabilityFor(c.AgentID, tid), c.Epoch, 0, n.nowMillis())
	return r, nil
}

// claimed checks the parts of a claim.
func (n *core) claimed(id, agent string, epoch uint64) (ledger.TaskID, error) {
	tid, err := n.taskID(id)
	switch {
	case err != nil:
		return tid, err
	case agent == "":
		return tid, api.Errorf(422, 3, "agent_id_missing", api.RetryNo, "a claim names the agent_id that holds the task")
	case epoch == 0:
		return tid, api.Errorf(422, 5, "epoch_missing", api.RetryNo, "a claim carries the epoch that the lease answered")
	}
	return tid, nil
}

// renewHere is the leader's side of start, renew and progress.
func (n *core) renewHere(ctx context.Context, q renewRequest) (api.Renewal, error) {
	d := n.desk(q.ID.Shard())
	if d == nil {
		return api.Renewal{}, errNotLeader
	}
	h, v := d.renew(q.ID, q.Agent, q.Node, q.Epoch, q.Start, q.Progress, n.nowMillis())
	r := api.Renewal{TaskID: q.ID.String(), Epoch: q.Epoch}
	switch v {
	case claimHolds:
		r.State, r.ExpiresAt = ledger.StateAssigned.String(), timeOf(h.expires)
		if h.started {
			r.State = ledger.StateRunning.String()
		}
		return r, nil
	case claimNoDesk:
		return r, errNotLeader
	}
	t, err := n.taskHere(ctx, q.ID) // no such task, or what it has become
	if err != nil {
		return r, err
	}
	if t.State == ledger.StateUnknown.String() && t.AgentID == q.Agent && t.Epoch == q.Epoch {
		e := api.Errorf(409, 7, "task_in_doubt", api.RetryLater, "the lease of task %s is over: what became of it is being found out", q.ID).
			WithHint("go on, and complete or fail it with the same epoch: that settles it, unless something else has")
		e.Task, e.State = t.TaskID, t.State
		return r, e
	}
	n.refused(q.ID.Shard(), q.ID, q.Agent, q.Epoch, q.Verb)
	e := errStale(q.ID, q.Epoch)
	e.State = t.State
	return r, e
}

// Settle ends held tasks. Each settlement gets its own verdict, in order;
// completion is fsynced on a quorum before it is answered. A verdict that is
// repeated after its answer was lost is answered again.
func (n *core) Settle(ctx context.Context, agentID string, list []api.Settlement) ([]api.SettleVerdict, error) {
	if len(list) > MaxSettle {
		return nil, api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d settlements in one call, at most %d", len(list), MaxSettle)
	}
	verdicts := make([]api.SettleVerdict, len(list))
	cmds := make([]ledger.Command, len(list))
	ids := make([]ledger.TaskID, len(list))
	byShard := map[uint32][]int{}
	for i := range list {
		s := &list[i]
		if s.AgentID == "" {
			s.AgentID = agentID
		}
		verdicts[i].TaskID = s.TaskID
		id, c, err := n.settleCommand(s)
		if err != nil {
			verdicts[i].Error = asAPIError(err)
			continue
		}
		ids[i], cmds[i] = id, c
		byShard[id.Shard()] = append(byShard[id.Shard()], i)
	}
	var wait sync.WaitGroup
	for shard, idx := range byShard {
		work := func() {
			batch := make([]ledger.Command, len(idx))
			for k, i := range idx {
				batch[k] = cmds[i]
			}
			for k, a := range n.do(ctx, shard, batch) {
				i := idx[k]
				n.settleVerdict(&verdicts[i], &list[i], ids[i], a)
			}
		}
		if len(byShard) == 1 {
			work()
		} else {
			wait.Go(work)
		}
	}
	wait.Wait()
	n.roster.seen(agentID)
	return verdicts, nil
}

func (n *core) settleCommand(s *api.Settlement) (ledger.TaskID, ledger.Command, error) {
	id, err := n.claimed(s.TaskID, s.AgentID, s.Epoch)
	if err != nil {
		return id, nil, err
	}
	if e := n.checkJSON("result", s.Result); e != nil {
		return id, nil, e
	}
	switch s.Verdict {
	case "complete":
		return id, &ledger.Complete{ID: id, Agent: s.AgentID, Epoch: s.Epoch, Result: s.Result, Node: n.id.NodeID}, nil
	case "fail":
		return id, &ledger.Fail{ID: id, Agent: s.AgentID, Epoch: s.Epoch, Result: s.Result, Error: tail(s.Error, MaxErrorBytes), Retryable: !s.NoRetry, Node: n.id.NodeID}, nil
	}
	if s.Verdict == "unknown" {
		return id, &ledger.Doubt{ID: id, Agent: s.AgentID, Epoch: s.Epoch, Reason: tail(s.Error, MaxErrorBytes), Node: n.id.NodeID}, nil
	}
	return id, nil, api.Errorf(422, 5, "unknown_verdict", api.RetryNo, "verdict %q: want complete, fail or unknown", s.Verdict)
}

// tail keeps the end of s, at most limit bytes of whole characters.
func tail(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	s = s[len(s)-limit:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

func (n *core) settleVerdict(v *api.SettleVerdict, s *api.Settlement, id ledger.TaskID, a answer) {
	if a.err != nil {
		v.Error = asAPIError(a.err)
		if v.Error.Code == "stale_lease" {
			n.holds.drop(id, s.Epoch)
		}
		return
	}
	n.holds.drop(id, s.Epoch)
	v.State, v.Replayed = a.outcome.State.String(), a.outcome.Replayed
	if a.outcome.Code != ledger.OK {
		v.Error = outcomeError(a.outcome, id)
		if a.outcome.Code == ledger.StaleLease {
			v.Error = errStale(id, s.Epoch)
		}
		return
	}
	if !v.Replayed {
		n.metrics.settled.WithLabelValues(s.Verdict).Inc()
	}
}
