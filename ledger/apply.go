package ledger

import (
	"bytes"
	"crypto/sha256"
	"unicode/utf8"
)

func (t *Tasks) submit(r *reader) Outcome {
	var id TaskID
	var request [32]byte
	var v specView
	r.fixed(id[:])
	r.fixed(request[:])
	spec := r.b
	v.read(r)
	t.whole(r)
	if o := t.admissible(id, &v); o.Code != OK {
		return o
	}
	switch { // they need terms: see Declare
	case v.guarantee == ExactlyOnce:
		return Outcome{Code: NotYetSupported, ID: id, Detail: "guarantee exactly_once"}
	case len(v.after) > 0:
		return Outcome{Code: NotYetSupported, ID: id, Detail: "after (dependencies)"}
	}
	var key [16]byte
	if len(v.key) > 0 {
		key = keyHash(v.fleet, v.key)
		if e := t.named(v.fleet, v.key, &key); e != nil {
			return replay(e, &request)
		}
	}
	if _, e := t.find(id); e != nil {
		if len(v.key) > 0 || e.key != ([16]byte{}) {
			return Outcome{Code: Exists, ID: id, State: e.state, Epoch: e.epoch, Detail: "the task ID belongs to another task"}
		}
		return replay(e, &request)
	}
	if v.deadline > 0 && v.deadline <= t.now {
		return Outcome{Code: Invalid, ID: id, Detail: "the deadline has passed"}
	}
	fresh := entry{id: id, key: key, request: request, class: t.names.class(v.fleet, v.action, v.target),
		spec: append([]byte(nil), spec...), created: t.now, deadline: v.deadline, leaseMs: v.lease,
		priority: v.priority, guarantee: v.guarantee, flags: v.related()}
	to := StateReady
	if v.notBefore > t.now {
		to, fresh.notBefore = StateSubmitted, v.notBefore
	} else {
		fresh.ready = t.now
	}
	i, e := t.keep(&fresh)
	t.rec = Record{Verb: VerbSubmit, Actor: t.names.intern(v.by), RequestDigest: request}
	t.move(i, e, to, false)
	return e.outcome(OK, false)
}

// replay answers a submit whose key (or ID) is known.
func replay(e *entry, request *[32]byte) Outcome {
	if e.request != *request {
		return e.outcome(KeyReused, false)
	}
	return e.outcome(OK, true)
}

// admissible checks what does not depend on the state.
func (t *Tasks) admissible(id TaskID, v *specView) Outcome {
	bad := ""
	switch {
	case id.Shard() != t.shard:
		bad = "the task ID names another shard"
	case len(v.fleet) == 0 || len(v.action) == 0 || len(v.target) == 0:
		bad = "fleet, action or target is missing"
	case max(len(v.fleet), len(v.action), len(v.target), len(v.session), len(v.by)) > maxNameBytes:
		bad = "a name is too long"
	case len(v.key) > maxKeyBytes:
		bad = "the idempotency key is too long"
	case len(v.description) > maxDescriptionBytes:
		bad = "the description is too long"
	case v.priority > PriorityCritical:
		bad = "no such priority"
	case v.guarantee < BestEffort || v.guarantee > ExactlyOnce:
		bad = "no such guarantee"
	case v.retry.Backoff > BackoffFixed:
		bad = "no such backoff"
	case v.retry.InitialDelayMillis < 0 || v.retry.MaxDelayMillis < 0:
		bad = "a delay is negative"
	case v.lease <= 0:
		bad = "the lease time is not positive"
	case v.deadline < 0 || v.notBefore < 0:
		bad = "a time is before 1970"
	}
	if bad != "" {
		return Outcome{Code: Invalid, ID: id, Detail: bad}
	}
	return Outcome{}
}

// claim is what complete and fail say of themselves.
type claim struct {
	verb        string
	agent, node string
	epoch       uint64
	as          ending
	result      []byte // complete
}

// claimed finds the task of a claim and says whether it stands. If e is nil
// the outcome answers the command.
func (t *Tasks) claimed(id TaskID, c claim) (uint32, *entry, Outcome) {
	if c.agent == "" || max(len(c.agent), len(c.node)) > maxNameBytes {
		return 0, nil, Outcome{Code: Invalid, ID: id, Detail: "the agent's name is missing, or a name is too long"}
	}
	i, e := t.find(id)
	switch {
	case e == nil:
		return 0, nil, Outcome{Code: NotFound, ID: id}
	case e.open() && e.epoch == c.epoch && e.agent == c.agent:
		return i, e, Outcome{}
	case c.as != endNone && e.ended == c.as && e.epoch == c.epoch && e.agent == c.agent:
		if e.x != nil && c.as == endCompleted && !bytes.Equal(e.result, c.result) {
			return 0, nil, t.refuse(e, ResultDiffers, c)
		}
		return 0, nil, e.outcome(OK, true)
	case e.x != nil && e.logged() && c.epoch > e.epoch:
		return 0, nil, t.refuse(e, StaleLease, c) // the log gives these epochs: nobody was given that one
	case e.x != nil && (e.state == StateAwaitingApproval || len(e.x.Waits) > 0):
		return 0, nil, t.refuse(e, BadState, c) // nobody can hold it yet
	case c.epoch <= e.epoch:
		return 0, nil, t.refuse(e, StaleLease, c)
	case e.state.Terminal():
		return 0, nil, t.refuse(e, BadState, c)
	}
	return i, e, Outcome{}
}

// refuse turns a claim down and records it.
func (t *Tasks) refuse(e *entry, code Code, c claim) Outcome {
	t.rec = Record{Verb: VerbRefused, Agent: c.agent, Actor: c.node, Epoch: c.epoch, Code: code, Detail: c.verb}
	t.record(e, e.state, e.state)
	return e.outcome(code, false)
}

func (t *Tasks) complete(c *Complete) Outcome {
	i, e, o := t.claimed(c.ID, claim{verb: VerbComplete, agent: c.Agent, node: c.Node, epoch: c.Epoch, as: endCompleted, result: c.Result})
	if e == nil {
		return o
	}
	if e.x != nil {
		t.settle(e)
	}
	t.endAttempt(e, c.Agent, c.Epoch, endCompleted)
	e.result, e.err, e.notBefore = clone(c.Result), "", 0
	t.rec = Record{Verb: VerbComplete, Agent: c.Agent, Actor: c.Node, Epoch: c.Epoch, AssignedMillis: c.AssignedMillis,
		StartedMillis: c.StartedMillis, StolenFrom: cut(c.StolenFrom, maxNameBytes), ResultDigest: digest(c.Result)}
	t.move(i, e, StateCompleted, true)
	if e.x != nil && e.x.Undo {
		t.undo(i, e, "", "its session is rolled back")
	}
	return e.outcome(OK, false)
}

func (t *Tasks) fail(c *Fail) Outcome {
	if len(c.Error) > maxErrorBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the error is too long"}
	}
	i, e, o := t.claimed(c.ID, claim{verb: VerbFail, agent: c.Agent, node: c.Node, epoch: c.Epoch, as: endFailed})
	if e == nil {
		return o
	}
	t.endAttempt(e, c.Agent, c.Epoch, endFailed)
	e.result, e.err = clone(c.Result), c.Error
	t.rec = Record{Verb: VerbFail, Agent: c.Agent, Actor: c.Node, Epoch: c.Epoch, AssignedMillis: c.AssignedMillis,
		StartedMillis: c.StartedMillis, StolenFrom: cut(c.StolenFrom, maxNameBytes), ResultDigest: digest(c.Result),
		Detail: t.errorDetail(c.Error)}
	t.failed(i, e, t.afterFailure(e, c.Retryable), true)
	return e.outcome(OK, false)
}

func (t *Tasks) expire(c *Expire) Outcome {
	i, e := t.find(c.ID)
	switch {
	case c.Reason > ReasonAgentLost || len(c.Agent) > maxNameBytes:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "no such reason, or the agent's name is too long"}
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case e.x != nil && e.logged():
		return t.expireLogged(i, e, c)
	case e.state.Terminal() || c.Epoch <= e.epoch:
		return e.outcome(NotDue, false)
	}
	t.endAttempt(e, c.Agent, c.Epoch, endExpired)
	e.err = c.Reason.String()
	t.rec = Record{Verb: VerbExpire, Agent: c.Agent, Epoch: c.Epoch, Detail: e.err}
	t.move(i, e, t.afterFailure(e, true), false)
	return e.outcome(OK, false)
}

func (t *Tasks) endAttempt(e *entry, agent string, epoch uint64, as ending) {
	e.agent, e.epoch, e.ended = agent, epoch, as
	if e.attempts++; e.attempts == 0 {
		e.attempts-- // 2^32 attempts: the count stays
	}
}

// afterFailure is where a task goes whose attempt failed, with its times set.
func (t *Tasks) afterFailure(e *entry, retryable bool) State {
	p := e.retryPolicy()
	e.notBefore = 0
	if !retryable || e.guarantee == BestEffort || e.attempts > p.MaxRetries {
		return StateFailed
	}
	if delay := p.delayMillis(e.attempts); delay > 0 {
		e.notBefore = t.now + delay
		return StateSubmitted
	}
	e.ready = t.now
	return StateReady
}

// maxDelayMillis keeps every sum of times far from overflow: ten years.
const maxDelayMillis = 10 * 365 * 24 * 3600 * 1000

// delayMillis is how long to wait after the n-th failed attempt.
func (p *RetryPolicy) delayMillis(n uint32) int64 {
	limit := int64(maxDelayMillis)
	if p.MaxDelayMillis > 0 {
		limit = min(limit, p.MaxDelayMillis)
	}
	d := min(p.InitialDelayMillis, limit)
	switch {
	case d == 0 || n <= 1:
	case p.Backoff == BackoffLinear:
		if d > limit/int64(n) {
			return limit
		}
		d *= int64(n)
	case p.Backoff == BackoffExponential:
		for ; n > 1 && d < limit; n-- {
			d *= 2
		}
	}
	return min(d, limit)
}

func (t *Tasks) due(id TaskID) Outcome {
	i, e := t.find(id)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: id}
	case e.state != StateSubmitted || e.notBefore > t.now || e.x != nil && len(e.x.Waits) > 0:
		return e.outcome(NotDue, false)
	}
	e.notBefore = 0
	to := t.gate(e)
	t.rec = Record{Verb: VerbDue}
	t.move(i, e, to, false)
	return e.outcome(OK, false)
}

func (t *Tasks) timeout(id TaskID) Outcome {
	i, e := t.find(id)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: id}
	case e.state.Terminal() || e.deadline == 0 || e.deadline > t.now || e.state == StateUnknown || e.state == StateRollingBack:
		return e.outcome(NotDue, false)
	case e.state == StateRunning && e.guarantee == ExactlyOnce:
		t.rec = Record{Verb: VerbTimeout, Agent: e.agent, Epoch: e.epoch}
		return t.doubt(i, e, "the deadline passed while it ran")
	}
	e.notBefore = 0
	e.close()
	t.rec = Record{Verb: VerbTimeout}
	if x := e.x; x != nil && e.epoch > 0 && x.Terms.Rollback.Declared() && (x.Terms.OnFailure || x.Undo) { // it was begun: what it did is undone
		e.err = "the deadline passed"
		t.undoBegun(i, e, false)
		return e.outcome(OK, false)
	}
	t.move(i, e, StateTimedOut, false)
	return e.outcome(OK, false)
}

func (t *Tasks) cancel(c *Cancel) Outcome {
	if len(c.By) > maxNameBytes || len(c.Reason) > maxErrorBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the reason or the name of who asks is too long"}
	}
	i, e := t.find(c.ID)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case e.state == StateCancelled:
		return e.outcome(OK, true)
	case e.state.Terminal() || e.state == StateUnknown || e.state == StateRollingBack:
		return e.outcome(BadState, false)
	case e.state == StateRunning && e.guarantee == ExactlyOnce:
		e.x.Cancel = true
		t.rec = Record{Verb: VerbCancel, Actor: c.By, Agent: e.agent, Epoch: e.epoch, Detail: t.words(c.Reason)}
		return t.doubt(i, e, "cancelled while it ran")
	}
	e.notBefore = 0
	e.close()
	if c.Reason != "" {
		e.err = c.Reason
	}
	t.rec = Record{Verb: VerbCancel, Actor: c.By, Detail: t.words(c.Reason)}
	if e.x != nil && e.x.Undo && e.perhaps() {
		t.undoBegun(i, e, false)
		return e.outcome(OK, false)
	}
	t.move(i, e, StateCancelled, false)
	return e.outcome(OK, false)
}

func (t *Tasks) retry(c *Retry) Outcome {
	if len(c.By) > maxNameBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the name of who asks is too long"}
	}
	i, e := t.find(c.ID)
	if e != nil && i == 0 { // awaited looks for another one
		own := *e
		e = &own
	}
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case e.ended == endErased, e.state != StateFailed && e.state != StateTimedOut && e.state != StateCancelled, e.x != nil && (e.x.Stuck || e.x.Role == RoleSaga), !t.awaited(e):
		return e.outcome(BadState, false)
	}
	if i == 0 { // it had left memory
		i, e = t.keep(e)
	}
	e.attempts, e.result, e.notBefore = 0, nil, 0
	if e.deadline <= t.now {
		e.deadline = 0
	}
	if e.x != nil {
		e.x.Approvals, e.x.Waits, e.x.Cancel, e.x.Undo = nil, nil, false, false // what was approved has ended
	}
	to := t.gate(e)
	t.rec = Record{Verb: VerbRetry, Actor: c.By}
	t.move(i, e, to, false)
	return e.outcome(OK, false)
}

func (t *Tasks) refused(c *Refused) Outcome {
	if c.Code == OK || c.Code.String() == "" || max(len(c.Verb), len(c.Agent)) > maxNameBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "no such refusal, or a name is too long"}
	}
	_, e := t.find(c.ID)
	if e == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	t.refuse(e, c.Code, claim{verb: c.Verb, agent: c.Agent, epoch: c.Epoch})
	return e.outcome(OK, false)
}

// retryPolicy reads it from the spec: it is wanted only when an attempt
// fails.
func (e *entry) retryPolicy() RetryPolicy {
	r := newReader(e.spec[4:])
	return RetryPolicy{Backoff: Backoff(e.spec[2]), MaxRetries: r.uint32(), InitialDelayMillis: r.int(), MaxDelayMillis: r.int()}
}

func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

// digest of nothing is nothing.
func digest(b []byte) [32]byte {
	if len(b) == 0 {
		return [32]byte{}
	}
	return sha256.Sum256(b)
}

// cut keeps the beginning of s, at most limit bytes of whole characters.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
