package node

import (
	"context"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// MinTaskRetention is the shortest time that ended tasks can be kept: longer
// than any call or repeat of one is under way.
const MinTaskRetention = ledger.MinRetentionMillis * time.Millisecond

// retentionInterval is how often ended tasks are looked through; retentionPage
// how many go with one command; retentionBarren how many pages of tasks that
// stay are read in a turn before the rest is left for the next one; and
// retentionSessions how many sessions are asked about in a turn.
const (
	retentionInterval = 15 * time.Second
	retentionPage     = 512
	retentionBarren   = 32
	retentionSessions = 64
)

// retentionPolicy is how long what has ended is kept, as far as this node's
// control replica knows.
type retentionPolicy struct {
	fleets map[string]ledger.Retention
	rest   ledger.Retention // of the other fleets
}

func (n *core) retentionPolicy() retentionPolicy {
	ms := n.cfg.TaskRetention.Milliseconds()
	p := retentionPolicy{fleets: map[string]ledger.Retention{}, rest: ledger.Retention{TaskMillis: ms, KeyMillis: ms}}
	n.control.view(func(c *ledger.Control) {
		for _, x := range c.Retentions() {
			p.fleets[x.Fleet] = x
		}
	})
	if x, ok := p.fleets[ledger.EveryFleet]; ok {
		p.rest = x
	}
	return p
}

// keep is how long a task is kept; 0: for ever.
func (p *retentionPolicy) keep(t *ledger.Task) int64 {
	x, ok := p.fleets[t.Spec.Fleet]
	if !ok {
		x = p.rest
	}
	return x.KeepMillis(t.Spec.Key != "")
}

// shortest is the shortest time that anything is kept; 0: all is, for ever.
func (p *retentionPolicy) shortest() int64 {
	least := p.rest.KeepMillis(false)
	for _, x := range p.fleets {
		if ms := x.KeepMillis(false); ms > 0 && (least == 0 || ms < least) {
			least = ms
		}
	}
	return least
}

// retentionLoop proposes the eviction of what ended long enough ago, on the
// shards led here. The ledger checks again.
func (n *core) retentionLoop() {
	t := n.ticker(retentionInterval)
	defer t.Stop()
	from := map[uint32]ledger.TaskID{}
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		p := n.retentionPolicy()
		for shard := range n.shards {
			if leader, _ := n.leaders.of(shard); shard != controlShard && leader == n.id.RaftID {
				from[shard] = n.evictEnded(shard, &p, n.nowMillis(), from[shard])
			}
		}
	}
}

// evictEnded looks through the tasks, from one on, that were made before what
// is kept: no other can have ended before it, and IDs begin with their time.
// It answers where the next turn begins.
func (n *core) evictEnded(shard uint32, p *retentionPolicy, now int64, from ledger.TaskID) (next ledger.TaskID) {
	m, keep := n.taskShard(shard), p.shortest()
	if m == nil || keep == 0 {
		return ledger.TaskID{}
	}
	s := &evictions{n: n, policy: p, now: now, open: map[[2]string]bool{}}
	q := ledger.Query{After: from, Limit: retentionPage, States: []ledger.State{ledger.StateCompleted, ledger.StateFailed, ledger.StateCancelled, ledger.StateTimedOut, ledger.StateRolledBack}}
	for barren := 0; n.ctx.Err() == nil && barren < retentionBarren; {
		var page ledger.Page
		var err error
		m.view(func(t *ledger.Tasks) { page, err = t.Scan(q) })
		if err != nil {
			n.cfg.Logger.Warn("ended tasks are not looked through", "layer", 7, "shard", shard, "error", err)
			return ledger.TaskID{}
		}
		cmds := s.of(page.Tasks)
		if barren++; len(cmds) > 0 {
			barren = 0
		}
		for _, c := range cmds {
			if a := n.do(n.ctx, shard, []ledger.Command{c})[0]; a.err != nil {
				return q.After // whoever leads by then looks again
			}
		}
		if q.After = page.Next; !page.More || page.Next.Millis() >= now-keep {
			return ledger.TaskID{}
		}
	}
	return q.After
}

// evictions decides what goes in one turn.
type evictions struct {
	n      *core
	policy *retentionPolicy
	now    int64
	open   map[[2]string]bool // fleet and session: whether it goes on
}

// of makes the commands for a page. A task is judged by its own fleet's
// retention here; the ledger checks that it ended before the newest of them.
func (s *evictions) of(tasks []ledger.Task) (cmds []ledger.Command) {
	var plain, settled []ledger.TaskID
	var before int64
	for i := range tasks {
		t := &tasks[i]
		keep := s.policy.keep(t)
		switch {
		case keep == 0 || t.CompletedMillis >= s.now-keep:
			continue
		case t.Txn == nil:
			plain = append(plain, t.ID)
		case t.Txn.Stuck || s.undoable(t):
			continue
		default:
			settled = append(settled, t.ID)
		}
		before = max(before, t.CompletedMillis+1)
	}
	if len(plain) > 0 {
		cmds = append(cmds, &ledger.Evict{BeforeMillis: before, IDs: plain})
	}
	if len(settled) > 0 {
		cmds = append(cmds, &ledger.EvictSettled{BeforeMillis: before, IDs: settled})
	}
	return cmds
}

// undoable says that a task is a step that its session, still going on, may
// want undone. What can't be learned keeps it.
func (s *evictions) undoable(t *ledger.Task) bool {
	switch t.State {
	case ledger.StateCompleted:
	case ledger.StateFailed, ledger.StateTimedOut, ledger.StateCancelled:
		if t.Epoch == 0 || t.Spec.Guarantee == ledger.ExactlyOnce { // as the ledger judges: nothing was done
			return false
		}
	default:
		return false
	}
	if !t.Txn.Terms.Rollback.Declared() || t.Spec.Session == "" {
		return false
	}
	name := [2]string{t.Spec.Fleet, t.Spec.Session}
	open, known := s.open[name]
	if !known {
		if len(s.open) >= retentionSessions {
			return true
		}
		open = s.n.sessionOpen(s.n.ctx, t.Spec.Fleet, t.Spec.Session)
		s.open[name] = open
	}
	return open
}

// sessionOpen says whether a session has a task that has not ended, or one
// whose rollback failed.
func (n *core) sessionOpen(ctx context.Context, fleet, session string) bool {
	for _, f := range []api.TaskFilter{{RollbackFailed: true}, {States: []string{"submitted", "awaiting_approval", "ready", "assigned", "running", "unknown", "rolling_back"}}} {
		f.FleetID, f.SessionID, f.Limit = fleet, session, 1
		for {
			p, err := n.Tasks(ctx, f)
			if err != nil || len(p.Tasks) > 0 {
				return true
			}
			if f.Cursor = p.NextCursor; f.Cursor == "" {
				break
			}
		}
	}
	return false
}

// Retentions lists the fleets' retentions.
func (n *core) Retentions(ctx context.Context) (api.RetentionPage, error) {
	p, err := read(ctx, n, controlShard, methodRetention, struct{}{}, n.retentionsHere)
	p.DefaultMillis = n.cfg.TaskRetention.Milliseconds()
	return p, err
}

func (n *core) retentionsHere(ctx context.Context, _ struct{}) (api.RetentionPage, error) {
	out := api.RetentionPage{Retentions: []api.Retention{}}
	if err := n.barrier(ctx, controlShard); err != nil {
		return out, err
	}
	n.control.view(func(c *ledger.Control) {
		for _, p := range c.Retentions() {
			out.Retentions = append(out.Retentions, api.Retention{FleetID: p.Fleet, TasksMillis: p.TaskMillis, KeysMillis: p.KeyMillis, By: p.By, SetAt: timePtr(p.SetMillis)})
		}
		for _, p := range c.RecordRetentions() {
			out.Records = append(out.Records, api.RecordRetention{FleetID: p.Fleet, RecordsMillis: p.Millis, NoArchive: p.Drop, By: p.By, SetAt: timePtr(p.SetMillis)})
		}
	})
	return out, nil
}

// SetRetention sets a fleet's retention.
func (n *core) SetRetention(ctx context.Context, in api.Retention) (api.Retention, error) {
	in.SetAt = nil
	err := n.changeRetention(ctx, in.FleetID, in.By, "tasks_ms and keys_ms are milliseconds after the end: 0, for ever, or a minute to a hundred years",
		&ledger.FleetRetention{Fleet: in.FleetID, TaskMillis: in.TasksMillis, KeyMillis: in.KeysMillis, By: in.By})
	return in, err
}

// RemoveRetention leaves a fleet to the default.
func (n *core) RemoveRetention(ctx context.Context, fleet, by string) error {
	return n.changeRetention(ctx, fleet, by, "", &ledger.FleetRetention{Fleet: fleet, Remove: true, By: by})
}

// SetRecordRetention sets how long a fleet's audit records stay.
func (n *core) SetRecordRetention(ctx context.Context, in api.RecordRetention) (api.RecordRetention, error) {
	in.SetAt = nil
	err := n.changeRetention(ctx, in.FleetID, in.By, "records_ms is milliseconds after they were written: 0, for ever, or a second to a hundred years",
		&ledger.FleetRecords{Fleet: in.FleetID, Millis: in.RecordsMillis, Drop: in.NoArchive, By: in.By})
	return in, err
}

// RemoveRecordRetention leaves a fleet's records to that of *.
func (n *core) RemoveRecordRetention(ctx context.Context, fleet, by string) error {
	return n.changeRetention(ctx, fleet, by, "", &ledger.FleetRecords{Fleet: fleet, Remove: true, By: by})
}

func (n *core) changeRetention(ctx context.Context, fleet, by, hint string, c ledger.Command) error {
	if fleet == "" || len(fleet) > MaxNameBytes || len(by) > MaxNameBytes {
		return errInvalid("fleet_id is missing, or a name is too long")
	}
	if e := checkNames("by or fleet_id", by, fleet); e != nil {
		return e
	}
	a := n.do(ctx, controlShard, []ledger.Command{c})[0]
	switch {
	case a.err != nil:
		return asAPIError(a.err)
	case a.outcome.Code != ledger.OK:
		return api.Errorf(422, 7, "retention_invalid", api.RetryNo, "%s", a.outcome.Detail).
			WithHint("%s", hint)
	}
	return nil
}
