package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// What becomes of a task whose agent disappeared in the middle. An exactly_once
// task is unknown until, in this order, its agent comes back and says, its
// verify hook has found out, its rollback has undone whatever it was, or a
// human has settled it.

// expireLogged ends a lease that is in the log.
func (t *Tasks) expireLogged(i uint32, e *entry, c *Expire) Outcome {
	if e.state != StateRunning || c.Epoch != e.epoch || c.Agent != e.agent {
		return e.outcome(NotDue, false)
	}
	t.rec = Record{Verb: VerbExpire, Agent: c.Agent, Epoch: c.Epoch, Detail: c.Reason.String()}
	if e.guarantee == ExactlyOnce {
		return t.doubt(i, e, c.Reason.String())
	}
	t.endAttempt(e, c.Agent, c.Epoch, endExpired)
	e.err = c.Reason.String()
	t.failed(i, e, t.afterFailure(e, true), false)
	return e.outcome(OK, false)
}

// undoBegun undoes a task that was begun and that nobody performs any more:
// what it did, if anything, is compensated. rec is set.
func (t *Tasks) undoBegun(i uint32, e *entry, settled bool) {
	e.x.Undo, e.notBefore = false, 0
	t.move(i, e, StateRollingBack, settled)
	e.x.Rollback = t.hook(e, RoleRollback)
}

// doubted takes the holder's own word that it can't tell.
func (t *Tasks) doubted(c *Doubt) Outcome {
	if len(c.Reason) > maxErrorBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the reason is too long"}
	}
	i, e, o := t.claimed(c.ID, claim{verb: VerbDoubt, agent: c.Agent, node: c.Node, epoch: c.Epoch})
	switch {
	case e == nil:
		return o
	case e.state == StateUnknown:
		return e.outcome(OK, true)
	}
	t.rec = Record{Verb: VerbDoubt, Agent: c.Agent, Actor: c.Node, Epoch: c.Epoch, Detail: t.errorDetail(c.Reason)}
	if e.guarantee == ExactlyOnce {
		return t.doubt(i, e, c.Reason)
	}
	t.endAttempt(e, c.Agent, c.Epoch, endFailed)
	e.err = c.Reason
	t.failed(i, e, t.afterFailure(e, true), true)
	return e.outcome(OK, false)
}

// doubt makes a running task unknown; rec says why.
func (t *Tasks) doubt(i uint32, e *entry, reason string) Outcome {
	e.err = reason
	t.move(i, e, StateUnknown, false)
	t.inquire(i, e)
	return e.outcome(OK, false)
}

// inquire takes the next step towards knowing; when there is none, the task
// waits for its agent or a human.
func (t *Tasks) inquire(i uint32, e *entry) {
	x := e.x
	switch {
	case x.Terms.Verify.Declared() && !x.Asked:
		x.Asked = true
		x.Verify = t.hook(e, RoleVerify)
		t.touch(i, e)
	case x.Terms.Rollback.Declared() && x.Terms.OnUnknown:
		t.undo(i, e, "", "nobody can tell whether it happened")
	}
}

// settle is called when a doubt, if there was one, is over: the question is
// taken back.
func (t *Tasks) settle(e *entry) {
	if e.state == StateUnknown && !e.x.Verify.IsZero() {
		if i, v := t.find(e.x.Verify); v != nil && !v.state.Terminal() {
			v.err = "the answer is known"
			t.rec = Record{Verb: VerbCancel, Detail: v.err}
			t.move(i, v, StateCancelled, false)
		}
	}
	e.x.Asked = false
}

// failed moves a task whose attempt failed; rec is set.
func (t *Tasks) failed(i uint32, e *entry, to State, settled bool) {
	if e.x == nil {
		t.move(i, e, to, settled)
		return
	}
	rec := t.rec
	t.settle(e)
	t.rec = rec
	switch {
	case e.x.Undo && e.perhaps(), to == StateFailed && e.x.Terms.OnFailure && !e.x.Cancel && !e.x.Undo:
		t.undoBegun(i, e, settled)
		return
	case e.x.Cancel || e.x.Undo: // nobody wants it any more
		e.notBefore, to = 0, StateCancelled
	}
	t.move(i, e, to, settled)
}

// happened ends a doubt: the effect did happen. rec is set.
func (t *Tasks) happened(i uint32, e *entry, result []byte) {
	rec := t.rec
	t.settle(e)
	t.rec = rec
	if e.open() {
		t.endAttempt(e, e.agent, e.epoch, endSettled)
	}
	e.result, e.err, e.notBefore = clone(result), "", 0
	t.rec.ResultDigest = digest(result)
	t.move(i, e, StateCompleted, false)
	if e.x.Undo {
		t.undo(i, e, "", "its session is rolled back")
	}
}

// notDone ends a doubt: the effect did not happen. rec is set.
func (t *Tasks) notDone(i uint32, e *entry) {
	t.endAttempt(e, e.agent, e.epoch, endSettled)
	t.failed(i, e, t.afterFailure(e, true), false)
}

// resolve takes a human's word.
func (t *Tasks) resolve(c *Resolve) Outcome {
	if c.By == "" || len(c.By) > maxNameBytes || c.Evidence == "" || len(c.Evidence) > maxErrorBytes || c.As == 0 || c.As >= resolutionEnd {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "a resolution says by whom, as what (completed, not-done, rolled-back) and on what evidence"}
	}
	i, e := t.find(c.ID)
	if e == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	stuck := e.x != nil && e.x.Stuck && e.state == StateFailed && c.As != ResolveNotDone
	t.rec = Record{Actor: c.By, Epoch: e.epoch, Detail: VerbResolve}
	if e.x == nil || e.state != StateUnknown && !stuck {
		return t.turnDown(e, BadState)
	}
	if i == 0 {
		i, e = t.keep(e)
	}
	if stuck && !t.dropUndo(e) {
		t.rec = Record{Actor: c.By, Epoch: e.epoch, Detail: VerbResolve}
		return t.turnDown(e, BadState)
	}
	t.rec = Record{Verb: VerbResolve, Actor: c.By, Approver: c.By, Agent: e.agent, Epoch: e.epoch, Detail: c.As.String(), Evidence: c.Evidence}
	if t.journal.format == recordVersion1 {
		t.rec.Detail = cut(c.As.String()+": "+c.Evidence, maxDetailBytes)
	}
	if stuck {
		t.setStuck(e, false)
	}
	switch c.As {
	case ResolveCompleted:
		t.happened(i, e, c.Result)
	case ResolveNotDone:
		t.notDone(i, e)
	default:
		rec := t.rec
		t.settle(e)
		t.rec = rec
		e.close()
		e.err, e.notBefore = "", 0
		t.move(i, e, StateRolledBack, false)
	}
	return e.outcome(OK, false)
}

// rollback asks for a task's effect to be undone.
func (t *Tasks) rollback(c *Rollback) Outcome {
	if max(len(c.By), len(c.Reason)) > maxErrorBytes || len(c.By) > maxNameBytes || c.By == "" {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "who asks is missing, or the name or the reason is too long"}
	}
	if !c.Saga.IsZero() {
		o, over := t.undoStep(c.ID, c.Saga, c.By)
		if over {
			t.tellSaga(c.Saga, c.ID, o.State, o.Code == Irreversible && o.State == StateFailed)
		}
		return o
	}
	i, e := t.find(c.ID)
	if e == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	t.rec = Record{Actor: c.By, Detail: VerbRollback}
	switch {
	case e.state == StateRollingBack || e.state == StateRolledBack:
		return e.outcome(OK, true)
	case e.x == nil || !e.x.Terms.Rollback.Declared() || e.ended == endErased: // what it would be undone with is gone
		return t.turnDown(e, Irreversible)
	case e.x.Stuck || e.state != StateCompleted && e.state != StateUnknown && !e.broken():
		return t.turnDown(e, BadState)
	}
	if i == 0 {
		i, e = t.keep(e)
	}
	t.undo(i, e, c.By, c.Reason)
	return e.outcome(OK, false)
}

// undo starts the rollback of a task in memory, if it has one.
func (t *Tasks) undo(i uint32, e *entry, by, reason string) {
	if !e.x.Terms.Rollback.Declared() {
		return
	}
	t.settle(e)
	e.close()
	e.x.Undo = false
	t.rec = Record{Verb: VerbRollback, Actor: by, Agent: e.agent, Epoch: e.epoch, Detail: t.words(reason)}
	t.move(i, e, StateRollingBack, false)
	e.x.Rollback = t.hook(e, RoleRollback)
}

// hook makes the task of a hook: the agent that takes it finds what it is
// about in its context.
func (t *Tasks) hook(e *entry, role Role) TaskID {
	x := e.x
	h := &x.Terms.Verify
	if role == RoleRollback {
		h = &x.Terms.Rollback
	}
	v, err := decodeSpec(e.spec)
	if err != nil {
		panic(fmt.Sprintf("ledger: invariant: task %s in memory: %v", e.id, err))
	}
	x.Rounds++
	id := t.hookID(e.id, x.Rounds)
	s := Spec{Fleet: v.Fleet, Action: h.Action, Target: h.Target, Description: role.String() + " of " + e.id.String(), Input: h.Input,
		Context: e.about(role, &v), Priority: PriorityHigh, Guarantee: AtLeastOnce, LeaseMillis: h.LeaseMillis, Session: v.Session,
		Key: fmt.Sprintf("%s-%s-%d", role, e.id, e.epoch), Parent: e.id, SubmittedBy: "ledger",
		Retry: RetryPolicy{MaxRetries: h.MaxRetries, InitialDelayMillis: 1000, MaxDelayMillis: 60_000}}
	if s.LeaseMillis == 0 {
		s.LeaseMillis = e.leaseMs
	}
	fresh := entry{id: id, class: t.names.class([]byte(s.Fleet), []byte(s.Action), []byte(s.Target)), spec: s.Append(nil),
		request: RequestHash(&s), created: t.now, ready: t.now, leaseMs: s.LeaseMillis, priority: s.Priority, guarantee: s.Guarantee,
		x: &Txn{Role: role, Of: e.id}, flags: flagRelated}
	if role == RoleVerify { // the one before it is found through this one
		fresh.x.Verify = x.Verify
	} else {
		fresh.x.Rollback = x.Rollback
	}
	i, p := t.keep(&fresh)
	t.rec = Record{Verb: VerbSubmit, Actor: s.SubmittedBy, RequestDigest: p.request, Detail: s.Description}
	t.move(i, p, StateReady, false)
	return id
}

// hookID is the same on every replica, and new.
func (t *Tasks) hookID(of TaskID, round uint32) TaskID {
	h := sha256.Sum256(binary.BigEndian.AppendUint32(of[:len(of):len(of)], round))
	for n := binary.BigEndian.Uint64(h[:]); ; n++ {
		id := NewTaskID(t.shard, t.now, n)
		if _, e := t.find(id); e == nil {
			return id
		}
	}
}

// maxEchoBytes bounds what a hook's context repeats of the task's input,
// result and snapshot, each; what is longer is left out, and is to be read
// from the task itself.
const maxEchoBytes = 64 << 10

// about is the context of a hook's task.
func (e *entry) about(role Role, s *Spec) []byte {
	b := appendJSON([]byte(`{"`), role.String()+`":`, "")
	b = appendQuoted(b, e.id.String())
	for _, f := range []struct{ name, value string }{{"action", s.Action}, {"target", s.Target}, {"idempotency_key", s.Key}, {"agent_id", e.agent}} {
		b = appendQuoted(appendJSON(b, `,"`, f.name+`":`), f.value)
	}
	b = fmt.Appendf(b, `,"epoch":%d`, e.epoch)
	snapshot := e.x.Snapshot
	if snapshot == nil {
		snapshot = e.x.Terms.Snapshot
	}
	for _, f := range []struct {
		name  string
		value []byte
	}{{"input", s.Input}, {"result", e.result}, {"snapshot", snapshot}} {
		if len(f.value) > 0 && len(f.value) <= maxEchoBytes {
			b = append(appendJSON(b, `,"`, f.name+`":`), f.value...)
		}
	}
	return append(b, '}')
}

// ended tells whoever waits for a task's end; each command's ends are told
// when it is done otherwise.
func (t *Tasks) ended(id TaskID) {
	i, e := t.find(id)
	if e == nil || !e.state.Terminal() {
		return // it went on within the command
	}
	x := e.x
	if watchers := x.Watchers; len(watchers) > 0 {
		x.Watchers = nil
		t.touch(i, e)
		for _, w := range watchers {
			t.tellDependent(w, id, e.state)
		}
	}
	switch x.Role {
	case RoleVerify:
		t.answered(e)
	case RoleRollback:
		t.undone(e)
	}
	if !x.Saga.IsZero() {
		t.tellSaga(x.Saga, id, e.state, x.Stuck)
	}
	if (e.state == StateFailed || e.state == StateTimedOut && e.epoch > 0) && x.Terms.OnFailureAll && !x.Stuck && x.Saga.IsZero() {
		t.post(t.shard, &SagaAsk{Fleet: e.class.fleet, Session: e.session(), Cause: id})
	}
}

func (e *entry) session() string {
	var v specView
	r := newReader(e.spec)
	v.read(&r)
	return string(v.session)
}

// answered takes what a verify task found out.
func (t *Tasks) answered(v *entry) {
	i, e := t.find(v.x.Of)
	if e == nil || e.state != StateUnknown || e.x.Verify != v.id {
		return
	}
	says, result := answerCantTell, []byte(nil)
	if v.state == StateCompleted {
		says, result = readAnswer(v.result)
	}
	t.rec = Record{Verb: VerbVerified, Agent: v.agent, Epoch: e.epoch, Detail: v.id.String() + " says " + says.String(), ResultDigest: digest(v.result)}
	switch says {
	case answerYes:
		t.happened(i, e, result)
	case answerNo:
		t.notDone(i, e)
	case answerPartly:
		if e.x.Terms.Rollback.Declared() {
			t.undo(i, e, "", v.id.String()+" says that it happened in part")
			return
		}
		fallthrough
	default:
		t.record(e, e.state, e.state)
		t.inquire(i, e)
	}
}

// undone takes the end of a rollback task.
func (t *Tasks) undone(u *entry) {
	i, e := t.find(u.x.Of)
	if e == nil || e.x == nil || e.x.Rollback != u.id || e.state != StateRollingBack && !e.x.Stuck {
		return
	}
	if u.state != StateCompleted && e.x.Stuck {
		return // tried again, and failed again
	}
	if i == 0 {
		i, e = t.keep(e)
	}
	t.rec = Record{Verb: VerbRolledBack, Agent: u.agent, Epoch: e.epoch, Detail: "by " + u.id.String(), ResultDigest: digest(u.result)}
	if u.state == StateCompleted {
		t.setStuck(e, false)
		t.move(i, e, StateRolledBack, false)
		return
	}
	e.err = cut("rollback_failed: "+u.err, maxErrorBytes)
	t.rec.Detail = cut(fmt.Sprintf("rollback_failed: %s is %s: %s", u.id, u.state, t.errorDetail(u.err)), maxDetailBytes)
	t.setStuck(e, true)
	t.move(i, e, StateFailed, false)
}
