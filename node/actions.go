package node

import (
	"context"
	"encoding/hex"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Declare takes intents: actions that the agent which declares them performs
// itself. Each gets its own verdict, in order. Go means that the lease is
// fsynced on a quorum; whoever declares the same again learns how it stands.
func (n *core) Declare(ctx context.Context, list []api.ActionRequest, by string) ([]api.ActionVerdict, error) {
	if len(list) > MaxSubmit {
		return nil, api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d actions in one call, at most %d", len(list), MaxSubmit)
	}
	if e := checkNames("by", by); e != nil {
		return nil, e
	}
	verdicts := make([]api.ActionVerdict, len(list))
	cmds := make([]*ledger.Declare, len(list))
	byShard := map[uint32][]int{}
	now, keyless := n.nowMillis(), n.anyShard()
	var rulings rulings
	for i := range list {
		c, ruled, err := n.declareCommand(&list[i], by, now, keyless)
		if err == nil {
			err = n.dependable(ctx, c.Spec.After)
		}
		if c != nil {
			rulings.add(i, c, ruled, err)
		}
		if err != nil {
			verdicts[i] = refusedAction(err)
		} else {
			cmds[i] = c
		}
	}
	var waitsFor *ledger.Declare
	n.recall(ctx, &rulings, func(i int, c ledger.Command, a answer) {
		waitsFor = c.(*ledger.Declare)
		verdicts[i], cmds[i] = n.actionVerdict(ctx, waitsFor, a), nil
	})
	n.recordRulings(ctx, rulings, func(i int, err *api.Error) { verdicts[i], cmds[i] = refusedAction(err), nil })
	for i, c := range cmds {
		if c != nil {
			byShard[c.ID.Shard()] = append(byShard[c.ID.Shard()], i)
		}
	}
	var wait sync.WaitGroup
	for shard, idx := range byShard {
		work := func() {
			batch := make([]ledger.Command, len(idx))
			for k, i := range idx {
				batch[k] = cmds[i]
			}
			for k, a := range n.do(ctx, shard, batch) {
				verdicts[idx[k]] = n.actionVerdict(ctx, cmds[idx[k]], a)
			}
		}
		if len(byShard) == 1 {
			work()
		} else {
			wait.Go(work)
		}
	}
	wait.Wait()
	n.metrics.submitted.Add(float64(len(list)))
	if len(list) == 1 && cmds[0] != nil {
		waitsFor = cmds[0]
	}
	if len(list) == 1 && waitsFor != nil && list[0].WaitSeconds > 0 {
		verdicts[0] = n.awaitAction(ctx, waitsFor, verdicts[0], list[0].WaitSeconds)
	}
	return verdicts, nil
}

func refusedAction(e *api.Error) api.ActionVerdict {
	return api.ActionVerdict{Decision: api.DecisionRefused, TaskID: e.Task, State: e.State, Error: e}
}

// declareCommand checks an intent and makes it a command, also when it is the
// rules that refuse it.
func (n *core) declareCommand(a *api.ActionRequest, by string, now int64, keyless uint32) (*ledger.Declare, *ledger.Ruled, *api.Error) {
	switch {
	case a.AgentID == "":
		return nil, nil, api.Errorf(422, 3, "agent_id_missing", api.RetryNo, "an action names the agent_id that performs it")
	case max(len(a.AgentID), len(a.InstanceID)) > MaxNameBytes:
		return nil, nil, errInvalid("agent_id or instance_id is too long")
	case a.WaitSeconds < 0 || a.WaitSeconds > maxLeaseWait.Seconds():
		return nil, nil, api.Errorf(422, 7, "bad_wait", api.RetryNo, "wait_seconds %g is not within 0 to %g", a.WaitSeconds, maxLeaseWait.Seconds())
	}
	if e := checkNames("agent_id", a.AgentID); e != nil {
		return nil, nil, e
	}
	spec, err := n.parseSpec(&a.TaskSpec, now)
	if err != nil {
		return nil, nil, err
	}
	if spec.SubmittedBy = by; by == "" {
		spec.SubmittedBy = a.AgentID
	}
	terms, _, err := n.parseTerms(&a.TaskSpec, spec)
	if err != nil {
		return nil, nil, err
	}
	terms.Self = true
	shard := keyless
	if spec.Key != "" {
		shard = n.keyShard(spec.Fleet, spec.Key)
	}
	hash := ledger.DeclareHash(spec, &terms)
	id := ledger.NewTaskID(shard, now, n.random())
	ruled, err := n.rule(id, hash, spec, &terms, a.AgentID)
	n.roster.seen(a.AgentID)
	return &ledger.Declare{ID: id, RequestHash: hash, Spec: *spec, Terms: terms,
		Agent: a.AgentID, Node: n.id.NodeID, Instance: a.InstanceID}, ruled, err
}

// actionVerdict says what an intent's outcome means to its agent.
func (n *core) actionVerdict(ctx context.Context, c *ledger.Declare, a answer) api.ActionVerdict {
	if a.err != nil {
		return refusedAction(asAPIError(a.err))
	}
	o := a.outcome
	v := api.ActionVerdict{TaskID: o.ID.String(), State: o.State.String(), Replayed: o.Replayed, IdempotencyKey: c.Spec.Key,
		RequestDigest: hex.EncodeToString(c.RequestHash[:])}
	if v.IdempotencyKey == "" {
		v.IdempotencyKey = v.TaskID
	}
	refuse := func(decision string, e *api.Error) api.ActionVerdict {
		e.Task, e.State = v.TaskID, v.State
		v.Decision, v.Error = decision, e
		return v
	}
	switch {
	case o.Code == ledger.KeyReused:
		return refuse(api.DecisionRefused, errKeyReused(c.Spec.Key, o.ID))
	case o.Code == ledger.InProgress:
		return refuse(api.DecisionInProgress, txnError(o, o.ID))
	case o.Code != ledger.OK:
		return refuse(api.DecisionRefused, outcomeError(o, c.ID))
	}
	switch o.State {
	case ledger.StateRunning:
		v.Decision, v.Epoch, v.LeaseSeconds = api.DecisionGo, o.Epoch, float64(c.Spec.LeaseMillis)/1000
		v.Guarantee = c.Spec.Guarantee.String()
		if o.Replayed { // what was declared first counts, whatever the rules say now
			t, err := n.readTask(ctx, o.ID)
			if err != nil {
				return refuse(api.DecisionRefused, asAPIError(err))
			}
			v.Guarantee = t.Guarantee
			// The holder asks again: that counts as a sign of life.
			_, _ = n.renewAs(ctx, "renew", v.TaskID, api.Claim{AgentID: c.Agent, Epoch: o.Epoch})
		}
	case ledger.StateCompleted:
		t, err := n.readTask(ctx, o.ID)
		if err != nil {
			return refuse(api.DecisionRefused, asAPIError(err))
		}
		v.Decision, v.Epoch, v.Result = api.DecisionDone, t.Epoch, t.Result
	case ledger.StateSubmitted, ledger.StateAwaitingApproval:
		v.Decision = api.DecisionWait
	case ledger.StateUnknown:
		v.Epoch = o.Epoch
		return refuse(api.DecisionUnknown, api.Errorf(409, 7, "unknown_verify_first", api.RetryNo,
			"task %s may have happened: the agent that performed it disappeared", o.ID).
			WithHint("find out, then complete or fail it with epoch %d as its agent, or `quorate task resolve %s --as completed|not-done|rolled-back --evidence …`", o.Epoch, o.ID))
	case ledger.StateReady: // declared as a pooled task before
		return refuse(api.DecisionInProgress, api.Errorf(409, 7, "in_progress", api.RetryLater, "task %s waits for an agent of the pool", o.ID))
	default:
		return refuse(api.DecisionRefused, api.Errorf(409, 7, "action_ended", api.RetryNo, "task %s is %s", o.ID, o.State).
			WithHint("`quorate task get %s` says why; `quorate task retry` lets it be declared again, another effect has another key", o.ID))
	}
	return v
}

// awaitAction declares again whenever the task has moved, until something but
// waiting is the answer or the time is over.
func (n *core) awaitAction(ctx context.Context, c *ledger.Declare, v api.ActionVerdict, seconds float64) api.ActionVerdict {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)))
	defer cancel()
	for v.Decision == api.DecisionWait || v.Decision == api.DecisionInProgress {
		id, err := ledger.ParseTaskID(v.TaskID)
		if err != nil || !n.moved(ctx, id, v.State) {
			return v
		}
		again := n.actionVerdict(context.WithoutCancel(ctx), c, n.do(context.WithoutCancel(ctx), id.Shard(), []ledger.Command{c})[0])
		if again.TaskID == "" { // not decided: what was known stands
			return v
		}
		v = again
	}
	return v
}

// moved waits until a task is seen in another state on this node's replica.
func (n *core) moved(ctx context.Context, id ledger.TaskID, from string) bool {
	m := n.taskShard(id.Shard())
	if m == nil {
		return n.movedElsewhere(ctx, id, from)
	}
	for {
		ch := m.progress()
		if t, ok, err := m.task(id); err == nil && ok && t.State.String() != from {
			return true
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		case <-n.ctx.Done():
			return false
		}
	}
}
