package ledger

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

// Limits of terms.
const (
	MaxAfter           = 64             // tasks one task waits for
	MaxApprovers       = 16             // people who must approve
	MaxAllowed         = 64             // people who may
	MaxRegulations     = maxRegulations // references
	MaxSnapshotBytes   = 64 << 10       // of the target's state before
	MaxCheckpointBytes = 256 << 10      // of a task checkpoint
	maxWatchers        = 10_000         // tasks that wait for one
)

// EpochTermShift places the raft term in an epoch: 2^20 leases a task and
// term, and 2^33 terms within the 53 bits that JSON numbers carry exactly.
const EpochTermShift = 20

// DeclareHash is RequestHash for a declared task: over the terms its submitter
// chose too, where they say more than the spec.
func DeclareHash(s *Spec, m *Terms) [32]byte {
	if !m.Self && !m.SkipDependents && len(m.Snapshot) == 0 {
		return RequestHash(s)
	}
	b := appendBool(appendBool(s.append(nil, "", ""), m.Self), m.SkipDependents)
	d := digest(m.Snapshot)
	return sha256.Sum256(appendHash(b, &d))
}

func (t *Tasks) decideTxn(k kind, r *reader) Outcome {
	if k == kindDeclare {
		return t.declare(r)
	}
	c, own := newCommand(k), *r // the caller's stays off the heap
	c.read(&own)
	t.whole(&own)
	switch c := c.(type) {
	case *Ruled:
		return t.ruled(c)
	case *Lease:
		return t.lease(c)
	case *Recall:
		return t.recall(c)
	case *Release:
		return t.release(c)
	case *Steal:
		return t.steal(c)
	case *Decide:
		return t.judge(c)
	case *Hold:
		return t.hold(c)
	case *Resolve:
		return t.resolve(c)
	case *Doubt:
		return t.doubted(c)
	case *Attach:
		return t.attach(c)
	case *Rollback:
		return t.rollback(c)
	case *Saga:
		return t.saga(c)
	case *StepEnded:
		return t.stepEnded(c.Saga, c.Step, c.State, c.Stuck)
	case *Watch:
		return t.watch(c)
	case *Dependency:
		return t.dependency(c.ID, c.On, c.State)
	case *Ack:
		return t.ack(c)
	}
	return Outcome{Code: Invalid, Detail: "not a command that a shard decides"}
}

func (t *Tasks) declare(r *reader) Outcome {
	var c Declare
	var v specView
	r.fixed(c.ID[:])
	r.fixed(c.RequestHash[:])
	spec := r.b
	v.read(r)
	if r.err == nil {
		spec = spec[:len(spec)-len(r.b)]
	}
	c.Terms.read(r)
	c.Agent, c.Node, c.Instance = r.string(), r.string(), r.string()
	t.whole(r)
	o := t.admissible(c.ID, &v)
	if o.Code == OK {
		o = t.terms(&c, &v)
	}
	if o.Code != OK {
		return o
	}
	if known := t.known(&c, &v); known != nil {
		return t.declaredAgain(known.id, &c)
	}
	if _, e := t.find(c.ID); e != nil {
		return Outcome{Code: Exists, ID: c.ID, State: e.state, Epoch: e.epoch, Detail: "the task ID belongs to another task"}
	}
	if v.deadline > 0 && v.deadline <= t.now {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the deadline has passed"}
	}
	x := &Txn{Terms: c.Terms}
	for b := v.after; len(b) > 0; b = b[len(TaskID{}):] {
		if id := TaskID(b[:len(TaskID{})]); !slices.Contains(x.Waits, id) {
			x.Waits = append(x.Waits, id)
		}
	}
	if o := t.dependable(c.ID, x.Waits); o.Code != OK {
		return o
	}
	return t.enter(&c, &v, clone(spec), x)
}

// known is the task that a declaration repeats, by its key or, without one,
// its ID.
func (t *Tasks) known(c *Declare, v *specView) *entry {
	if len(v.key) > 0 {
		key := keyHash(v.fleet, v.key)
		return t.named(v.fleet, v.key, &key)
	}
	if _, e := t.find(c.ID); e != nil && e.key == ([16]byte{}) {
		return e
	}
	return nil
}

// enter makes a declared task and takes it as far as it can go at once.
func (t *Tasks) enter(c *Declare, v *specView, spec []byte, x *Txn) Outcome {
	fresh := entry{id: c.ID, request: c.RequestHash, class: t.names.class(v.fleet, v.action, v.target), spec: spec, x: x,
		created: t.now, deadline: v.deadline, notBefore: v.notBefore, leaseMs: v.lease, priority: v.priority, guarantee: v.guarantee,
		flags: v.related()}
	if len(v.key) > 0 {
		fresh.key = keyHash(v.fleet, v.key)
	}
	if x.Terms.Self {
		fresh.agent = c.Agent
	}
	to := t.gate(&fresh)
	t.rec = Record{Verb: VerbDeclare, Actor: t.names.intern(v.by), RequestDigest: c.RequestHash, Detail: cut(x.Terms.Rule, maxDetailBytes)}
	if t.journal.format != recordVersion1 {
		t.rec.ParamsDigest = digest(v.input)
	}
	if to == StateReady && x.Terms.Self {
		t.grant(&fresh, c.Agent, c.Node, c.Instance)
		to, t.rec.Agent, t.rec.Epoch = StateRunning, fresh.agent, fresh.epoch
	}
	i, e := t.keep(&fresh)
	t.move(i, e, to, false)
	for _, id := range slices.Clone(x.Waits) {
		t.await(e, id)
	}
	return e.outcome(OK, false)
}

// terms checks what does not depend on the state.
func (t *Tasks) terms(c *Declare, v *specView) Outcome {
	m := &c.Terms
	bad := ""
	long := func(names ...string) bool {
		return slices.ContainsFunc(names, func(s string) bool { return len(s) > maxNameBytes })
	}
	badHook := func(h *Hook) bool {
		return (h.Action == "") != (h.Target == "") || long(h.Action, h.Target) || h.LeaseMillis < 0
	}
	switch {
	case m.Approvers > MaxApprovers || len(m.Allowed) > MaxAllowed || long(m.Allowed...):
		bad = "too many approvers, or a name is too long"
	case len(m.Allowed) > 0 && int(m.Approvers) > len(m.Allowed):
		bad = "more approvals are asked for than people may give"
	case badHook(&m.Verify) || badHook(&m.Rollback):
		bad = "a hook's action or target is missing or too long, or its lease time is negative"
	case len(m.Snapshot) > MaxSnapshotBytes:
		bad = "the snapshot is too large"
	case len(m.Regulations) > MaxRegulations || long(m.Regulations...) || long(m.Rule, m.Pack, m.Classification):
		bad = "too many regulations, or a name is too long"
	case long(c.Agent, c.Node, c.Instance) || m.Self && c.Agent == "":
		bad = "the agent's name is missing, or a name is too long"
	case len(v.after)/len(TaskID{}) > MaxAfter:
		bad = "it waits for too many tasks"
	case (m.OnUnknown || m.OnFailure) && !m.Rollback.Declared():
		bad = "it is to be rolled back, and no rollback is declared"
	case m.OnFailureAll && len(v.session) == 0:
		bad = "its session is to be rolled back, and it has none"
	case v.guarantee == ExactlyOnce && len(v.key) == 0:
		bad = "exactly_once needs an idempotency key"
	case v.guarantee == ExactlyOnce && !m.Verify.Declared() && !m.Rollback.Declared():
		bad = "exactly_once needs verify or rollback"
	}
	if bad != "" {
		return Outcome{Code: Invalid, ID: c.ID, Detail: bad}
	}
	return Outcome{}
}

// declaredAgain answers a declaration whose key (or ID) is known: who declares
// an action again learns how it stands, and gets the go if nobody has it.
func (t *Tasks) declaredAgain(id TaskID, c *Declare) Outcome {
	i, e := t.find(id)
	switch {
	case e.request != c.RequestHash:
		return e.outcome(KeyReused, false)
	case e.x == nil || !e.x.Terms.Self:
		return e.outcome(OK, true)
	case e.state == StateReady:
		return t.give(i, e, c.Agent, c.Node, c.Instance)
	case e.state == StateRunning && (e.agent != c.Agent || e.x.Instance != c.Instance):
		return e.outcome(InProgress, false)
	}
	return e.outcome(OK, true)
}

// gate is where a task goes that nothing has to end for any more.
func (t *Tasks) gate(e *entry) State {
	switch {
	case e.x != nil && len(e.x.Waits) > 0:
		return StateSubmitted
	case e.notBefore > t.now:
		return StateSubmitted
	}
	e.notBefore = 0
	if e.x != nil && int(e.x.Terms.Approvers) > len(e.x.Approvals) {
		return StateAwaitingApproval
	}
	e.ready = t.now
	return StateReady
}

// logged says that leases of the task are in the log: whoever undoes it, or
// approved it, must know whether and by whom it was begun.
func (e *entry) logged() bool {
	m := &e.x.Terms
	return m.Self || e.guarantee == ExactlyOnce || m.Approvers > 0 || m.Rollback.Declared()
}

// open says that the log has a lease on the task that nothing has ended:
// e.agent holds it, at e.epoch.
func (e *entry) open() bool {
	return e.x != nil && (e.state == StateRunning || e.state == StateUnknown)
}

// close ends an open lease without its holder.
func (e *entry) close() {
	if e.open() {
		e.ended = endSettled
	}
	if e.x != nil {
		e.x.Waits = nil
	}
}

// grant makes a lease.
func (t *Tasks) grant(e *entry, agent, node, instance string) {
	e.epoch = max(e.epoch+1, t.term<<EpochTermShift|1)
	e.agent, e.ended, e.err = agent, endNone, ""
	e.x.Node, e.x.Instance, e.x.Leased = node, instance, t.now
}

// give gives a ready task to an agent.
func (t *Tasks) give(i uint32, e *entry, agent, node, instance string) Outcome {
	t.rec = Record{Verb: VerbRefused, Agent: agent, Actor: node, Detail: VerbLease}
	switch {
	case e.deadline > 0 && e.deadline <= t.now:
		return t.turnDown(e, DeadlinePassed)
	case slices.ContainsFunc(e.x.Approvals, func(a Approval) bool { return a.By == agent }):
		return t.turnDown(e, SelfApproval)
	}
	t.grant(e, agent, node, instance)
	t.rec = Record{Verb: VerbLease, Agent: agent, Actor: node, Epoch: e.epoch}
	t.move(i, e, StateRunning, false)
	return e.outcome(OK, false)
}

// turnDown records the refusal that rec describes.
func (t *Tasks) turnDown(e *entry, code Code) Outcome {
	t.rec.Verb, t.rec.Code = VerbRefused, code
	t.record(e, e.state, e.state)
	return e.outcome(code, false)
}

func (t *Tasks) lease(c *Lease) Outcome {
	if c.Agent == "" || max(len(c.Agent), len(c.Node), len(c.Instance)) > maxNameBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the agent's name is missing, or a name is too long"}
	}
	i, e := t.find(c.ID)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case e.x == nil || !e.logged():
		return Outcome{Code: Invalid, ID: c.ID, Detail: "leases of this task are not in the log"}
	case e.state != StateReady:
		return e.outcome(BadState, false)
	}
	return t.give(i, e, c.Agent, c.Node, c.Instance)
}

func (t *Tasks) release(c *Release) Outcome {
	i, e := t.find(c.ID)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case !e.open() || e.state != StateRunning || e.epoch != c.Epoch || e.agent != c.Agent:
		return e.outcome(NotDue, false)
	}
	e.ended, e.ready = endSettled, t.now
	t.rec = Record{Verb: VerbRelease, Agent: c.Agent, Epoch: c.Epoch}
	switch {
	case e.x == nil || !e.x.Undo:
		t.move(i, e, StateReady, false)
	case e.attempts > 0 && e.perhaps(): // not by this attempt, perhaps by one before
		t.undoBegun(i, e, false)
	default: // its session is rolled back
		t.move(i, e, StateCancelled, false)
	}
	return e.outcome(OK, false)
}

// judge takes one person's word on a task that waits for approval.
func (t *Tasks) judge(c *Decide) Outcome {
	if c.By == "" || len(c.By) > maxNameBytes || len(c.Reason) > maxErrorBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: "who decides is missing, or the name or the reason is too long"}
	}
	i, e := t.find(c.ID)
	if e == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	verb := VerbApprove
	if c.Reject {
		verb = VerbReject
	}
	t.rec = Record{Actor: c.By, Approver: c.By, RequestDigest: c.Digest, Detail: verb}
	switch {
	case e.x == nil || e.state != StateAwaitingApproval:
		return t.turnDown(e, BadState)
	case e.deadline > 0 && e.deadline <= t.now:
		return t.turnDown(e, DeadlinePassed)
	case c.Digest != [32]byte{} && c.Digest != e.request:
		return t.turnDown(e, DigestMismatch)
	case len(e.x.Terms.Allowed) > 0 && !slices.Contains(e.x.Terms.Allowed, c.By):
		return t.turnDown(e, NotApprover)
	case !c.Reject && (c.By == e.submitter() || e.x.Terms.Self && c.By == e.agent):
		return t.turnDown(e, SelfApproval)
	case slices.ContainsFunc(e.x.Approvals, func(a Approval) bool { return a.By == c.By }) && !c.Reject:
		return t.turnDown(e, AlreadyApproved)
	}
	t.rec = Record{Verb: verb, Actor: c.By, Approver: c.By, RequestDigest: e.request, Detail: t.words(c.Reason)}
	if c.Reject {
		e.err = "rejected by " + c.By
		if c.Reason != "" {
			e.err += ": " + c.Reason
		}
		t.move(i, e, StateCancelled, false)
		return e.outcome(OK, false)
	}
	e.x.Approvals = append(e.x.Approvals, Approval{By: c.By, Millis: t.now})
	t.move(i, e, t.gate(e), false)
	return e.outcome(OK, false)
}

// submitter reads it from the spec.
func (e *entry) submitter() string {
	var v specView
	r := newReader(e.spec)
	v.read(&r)
	return string(v.by)
}

func (t *Tasks) hold(c *Hold) Outcome {
	if c.Approvers == 0 || c.Approvers > MaxApprovers || max(len(c.Rule), len(c.Pack)) > maxNameBytes {
		return Outcome{Code: Invalid, ID: c.ID, Detail: fmt.Sprintf("approvers are 1 to %d, and names short", MaxApprovers)}
	}
	i, e := t.find(c.ID)
	switch {
	case e == nil:
		return Outcome{Code: NotFound, ID: c.ID}
	case e.x == nil || int(c.Approvers) <= len(e.x.Approvals):
		return e.outcome(NotDue, false)
	}
	waits := e.state == StateAwaitingApproval || e.state == StateSubmitted
	if e.state != StateReady && (!waits || c.Approvers <= e.x.Terms.Approvers) {
		return e.outcome(NotDue, false)
	}
	e.x.Terms.Approvers, e.x.Terms.Rule, e.x.Terms.Pack = max(c.Approvers, e.x.Terms.Approvers), c.Rule, c.Pack
	t.rec = Record{Verb: VerbHold, Detail: cut(c.Rule, maxDetailBytes)}
	if waits { // for one more
		e.updated = t.now
		t.touch(i, e)
		t.record(e, e.state, e.state)
		return e.outcome(OK, false)
	}
	t.move(i, e, t.gate(e), false)
	return e.outcome(OK, false)
}

// attach keeps what the holder of a task hands in.
func (t *Tasks) attach(c *Attach) Outcome {
	verb, limit := VerbCheckpoint, MaxCheckpointBytes
	if c.Snapshot {
		verb, limit = VerbSnapshot, MaxSnapshotBytes
	}
	if len(c.State) == 0 || len(c.State) > limit {
		return Outcome{Code: Invalid, ID: c.ID, Detail: fmt.Sprintf("a %s has 1 to %d bytes", verb, limit)}
	}
	i, e, o := t.claimed(c.ID, claim{verb: verb, agent: c.Agent, node: c.Node, epoch: c.Epoch})
	if e == nil {
		return o
	}
	if e.x == nil {
		e.x = new(Txn)
	}
	x := e.x
	t.rec = Record{Verb: verb, Agent: c.Agent, Actor: c.Node, Epoch: c.Epoch, ResultDigest: digest(c.State)}
	switch {
	case c.Snapshot:
		x.Snapshot = clone(c.State)
	case c.Version == x.Saved.Version && c.Version > 0 && c.Epoch == x.Saved.Epoch && digest(c.State) == digest(x.Saved.State):
		return e.outcome(OK, true)
	case c.Epoch < x.Saved.Epoch, c.Version != 0 && c.Version <= x.Saved.Version:
		t.rec.Detail = verb
		return t.turnDown(e, CheckpointStale)
	default:
		x.Saved = Saved{Version: max(c.Version, x.Saved.Version+1), Epoch: c.Epoch, Agent: c.Agent, Millis: t.now, State: clone(c.State)}
		t.rec.Detail = fmt.Sprintf("version %d", x.Saved.Version)
	}
	e.updated = t.now
	t.touch(i, e)
	t.record(e, e.state, e.state)
	o = e.outcome(OK, false)
	o.Detail = t.rec.Detail
	return o
}
