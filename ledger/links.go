package ledger

import (
	"fmt"
	"slices"
)

// Links between tasks, which may live in different shards: dependencies and
// the steps of a saga. A task can only name tasks that are there already (IDs
// are made at submission), so dependencies form no cycle.

// MaxSteps bounds the steps of a saga: 160 kB of IDs in one command.
const MaxSteps = 10_000

// dependable refuses what can't be waited for; of tasks of other shards only
// their shards know.
func (t *Tasks) dependable(id TaskID, on []TaskID) Outcome {
	for _, d := range on {
		switch {
		case d == id:
			return Outcome{Code: Invalid, ID: id, Detail: "a task can't wait for itself"}
		case d.Shard() != t.shard:
			continue
		}
		switch _, e := t.find(d); {
		case e == nil:
			return Outcome{Code: DependencyMissing, ID: id, Detail: "after: there is no task " + d.String()}
		case e.x != nil && len(e.x.Watchers) >= maxWatchers:
			return Outcome{Code: TooManyDependents, ID: id, Detail: "after: " + crowded(d)}
		}
	}
	return Outcome{}
}

// await has the task on told of to e when it ends.
func (t *Tasks) await(e *entry, on TaskID) {
	if on.Shard() != t.shard {
		t.post(on.Shard(), &Watch{ID: on, Dependent: e.id})
		return
	}
	if state, over := t.watchHere(on, e.id); over {
		t.dependency(e.id, on, state)
	}
}

// crowded says that no more tasks can wait for one.
func crowded(id TaskID) string {
	return fmt.Sprintf("%s is waited for by %d tasks, the most there may be", id, maxWatchers)
}

// watchHere notes who waits for a task of this shard; over if it has ended, is
// not there (state 0), or is waited for by as many as may be (the state it is
// in, not a terminal one).
func (t *Tasks) watchHere(id, dependent TaskID) (state State, over bool) {
	i, e := t.find(id)
	switch {
	case e == nil:
		return 0, true
	case e.state.Terminal():
		return e.state, true
	}
	if e.x == nil {
		e.x = new(Txn)
	}
	if !slices.Contains(e.x.Watchers, dependent) {
		if len(e.x.Watchers) >= maxWatchers {
			return e.state, true
		}
		e.x.Watchers = append(e.x.Watchers, dependent)
		t.touch(i, e)
	}
	return 0, false
}

func (t *Tasks) watch(c *Watch) Outcome {
	if c.ID.Shard() != t.shard {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the task ID names another shard"}
	}
	if state, over := t.watchHere(c.ID, c.Dependent); over {
		t.tellDependent(c.Dependent, c.ID, state)
	}
	return Outcome{ID: c.ID}
}

func (t *Tasks) tellDependent(dependent, on TaskID, state State) {
	if dependent.Shard() != t.shard {
		t.post(dependent.Shard(), &Dependency{ID: dependent, On: on, State: state})
		return
	}
	t.dependency(dependent, on, state)
}

// dependency takes the end of a task that another one waits for.
func (t *Tasks) dependency(id, on TaskID, state State) Outcome {
	i, e := t.find(id)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: id}
	case e.x == nil || e.state != StateSubmitted || !slices.Contains(e.x.Waits, on):
		return e.outcome(NotDue, false)
	}
	t.rec = Record{Verb: VerbDependency, Detail: fmt.Sprintf("%s is %s", on, state)}
	if state == StateCompleted {
		at := slices.Index(e.x.Waits, on)
		e.x.Waits = slices.Delete(slices.Clone(e.x.Waits), at, at+1)
		if len(e.x.Waits) > 0 {
			t.touch(i, e)
			return e.outcome(OK, false)
		}
		to := t.gate(e)
		if to == StateReady && e.x.Terms.Self {
			e.ready = t.now // until its agent declares it again
		}
		t.move(i, e, to, false)
		return e.outcome(OK, false)
	}
	e.x.Waits, e.notBefore = nil, 0
	e.err, t.rec.Code = fmt.Sprintf("the task it waited for, %s, is %s", on, state), BadState
	switch {
	case state == 0:
		e.err, t.rec.Code = "the task it waited for, "+on.String()+", does not exist", DependencyMissing
	case !state.Terminal():
		e.err, t.rec.Code = "too_many_dependents: "+crowded(on), TooManyDependents
	}
	t.rec.Detail = e.err
	to := StateFailed
	if e.x.Terms.SkipDependents {
		to, e.err = StateCancelled, "skipped: "+e.err
	}
	t.move(i, e, to, false)
	return e.outcome(OK, false)
}

// saga starts undoing a session.
func (t *Tasks) saga(c *Saga) Outcome {
	if c.ID.Shard() != t.shard || c.Fleet == "" || c.By == "" || len(c.Steps) > MaxSteps ||
		max(len(c.Fleet), len(c.Session), len(c.By)) > maxNameBytes || len(c.Reason) > maxDescriptionBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "a saga needs a fleet, who asks, and a sane number of steps"}
	}
	if _, e := t.find(c.ID); e != nil {
		return e.outcome(OK, true)
	}
	s := Spec{Fleet: c.Fleet, Action: "rollback", Target: "session", Session: c.Session, Description: c.Reason, Priority: PriorityHigh,
		Guarantee: AtLeastOnce, LeaseMillis: 60_000, SubmittedBy: c.By, Parent: c.Cause}
	fresh := entry{id: c.ID, class: t.names.class([]byte(s.Fleet), []byte(s.Action), []byte(s.Target)), spec: s.Append(nil),
		request: RequestHash(&s), created: t.now, leaseMs: s.LeaseMillis, priority: s.Priority, guarantee: s.Guarantee,
		x: &Txn{Role: RoleSaga, Steps: c.Steps}}
	if c.Session != "" || !c.Cause.IsZero() {
		fresh.flags = flagRelated
	}
	i, e := t.keep(&fresh)
	t.rec = Record{Verb: VerbSaga, Actor: c.By, RequestDigest: e.request, Detail: t.words(fmt.Sprintf("%d steps: %s", len(c.Steps), c.Reason))}
	t.move(i, e, StateRollingBack, false)
	t.advance(i, e)
	return e.outcome(OK, false)
}

// advance undoes the next step of a saga, and those behind it that need
// nothing.
func (t *Tasks) advance(i uint32, e *entry) {
	x := e.x
	for int(x.Next) < len(x.Steps) {
		step := x.Steps[x.Next]
		if step.Shard() != t.shard {
			t.post(step.Shard(), &Rollback{ID: step, By: "saga", Saga: e.id})
			t.touch(i, e)
			return
		}
		o, over := t.undoStep(step, e.id, "saga")
		if !over {
			t.touch(i, e)
			return
		}
		if o.Code == Irreversible && o.State == StateFailed {
			t.halt(i, e, step)
			return
		}
		x.Next++
	}
	t.rec = Record{Verb: VerbRolledBack, Detail: fmt.Sprintf("%d steps", len(x.Steps))}
	t.move(i, e, StateRolledBack, false)
}

// halt stops a saga at a step whose rollback failed; it goes on when the step
// is settled.
func (t *Tasks) halt(i uint32, e *entry, step TaskID) {
	e.err = "rollback_failed: step " + step.String()
	t.rec = Record{Verb: VerbSaga, Detail: e.err}
	t.move(i, e, StateFailed, false)
}

// perhaps says that an attempt which did not complete may have done something,
// and that it can be undone. Of exactly_once a failure says that it did not
// happen, and what nobody can tell is unknown: compensating it might take back
// what never was.
func (e *entry) perhaps() bool {
	return e.x != nil && e.epoch > 0 && e.guarantee != ExactlyOnce && e.x.Terms.Rollback.Declared() && e.ended != endErased
}

// undoStep does to a step of this shard what its saga asks. over: nothing is
// left to do; otherwise the saga is told when there isn't. Irreversible and
// failed means that its rollback failed.
func (t *Tasks) undoStep(id, saga TaskID, by string) (o Outcome, over bool) {
	i, e := t.find(id)
	if e == nil {
		return Outcome{Code: NotFound, ID: id}, true
	}
	if e.x != nil && !e.x.Saga.IsZero() && e.x.Saga != saga && (!e.state.Terminal() || e.x.Stuck) {
		t.tellSaga(e.x.Saga, id, StateRollingBack, false) // who waited for it waits no more
		i, e = t.find(id)
	}
	switch {
	case e.x != nil && e.x.Stuck:
		if i == 0 {
			i, e = t.keep(e)
		}
		e.x.Saga = saga // told again when it is settled
		t.touch(i, e)
		return e.outcome(Irreversible, false), true
	case e.state == StateRollingBack:
		e.x.Saga = saga
		t.touch(i, e)
		return e.outcome(OK, true), false
	case e.state == StateCompleted || e.state == StateUnknown:
		if e.x == nil || !e.x.Terms.Rollback.Declared() || e.ended == endErased {
			if e.state == StateUnknown {
				e.x.Saga, e.x.Undo = saga, true
				t.touch(i, e)
				return e.outcome(OK, false), false
			}
			t.rec = Record{Actor: by, Detail: VerbRollback} // the effect stands, and the records say so
			return t.turnDown(e, Irreversible), true
		}
		if i == 0 {
			i, e = t.keep(e)
		}
		e.x.Saga = saga
		t.undo(i, e, by, "step of "+saga.String())
		return e.outcome(OK, false), false
	case e.state == StateRunning:
		e.x.Saga, e.x.Undo = saga, true
		t.touch(i, e)
		return e.outcome(OK, false), false
	case e.state.Terminal() && !(e.broken() && e.perhaps()):
		return e.outcome(OK, true), true
	case e.state.Terminal():
		if i == 0 {
			i, e = t.keep(e)
		}
		e.x.Saga = saga
		t.undo(i, e, by, "step of "+saga.String())
		return e.outcome(OK, false), false
	}
	e.close()
	e.notBefore, e.err = 0, "its session is rolled back"
	if e.perhaps() {
		e.x.Saga = saga
		t.undo(i, e, by, "step of "+saga.String())
		return e.outcome(OK, false), false
	}
	t.rec = Record{Verb: VerbCancel, Actor: by, Detail: e.err}
	t.move(i, e, StateCancelled, false)
	return e.outcome(OK, false), true
}

func (t *Tasks) tellSaga(saga, step TaskID, state State, stuck bool) {
	if saga.Shard() != t.shard {
		t.post(saga.Shard(), &StepEnded{Saga: saga, Step: step, State: state, Stuck: stuck})
		return
	}
	t.stepEnded(saga, step, state, stuck)
}

// stepEnded takes a saga on. A step that has not ended is one that another saga
// of the session waits for now: that one has all that was left of this one.
func (t *Tasks) stepEnded(saga, step TaskID, state State, stuck bool) Outcome {
	i, e := t.find(saga)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: saga}
	case e.x == nil || e.x.Role != RoleSaga || int(e.x.Next) >= len(e.x.Steps) || e.x.Steps[e.x.Next] != step ||
		e.state != StateRollingBack && (stuck || e.state != StateFailed):
		return e.outcome(NotDue, false)
	}
	if stuck {
		t.halt(i, e, step)
		return e.outcome(OK, false)
	}
	if i == 0 {
		i, e = t.keep(e)
	}
	if !state.Terminal() {
		e.err = "another rollback of the session has taken over, at step " + step.String()
		t.rec = Record{Verb: VerbCancel, Actor: "saga", Detail: e.err}
		t.move(i, e, StateCancelled, false)
		return e.outcome(OK, false)
	}
	if e.state == StateFailed {
		e.err = ""
		t.rec = Record{Verb: VerbSaga, Detail: step.String() + " is " + state.String()}
		t.move(i, e, StateRollingBack, false)
	}
	e.x.Next++
	t.advance(i, e)
	return e.outcome(OK, false)
}
