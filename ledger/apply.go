package ledger

import "fmt"

// Event says that a task changed state.
type Event struct {
	Brief
	From    State
	Index   uint64
	Agent   string
	Settled bool // its holder completed or failed it
}

// Apply decides one command: what it does, which record is chained, which
// event goes out. It depends on the state, the command and at alone. A command
// that does not decode was never proposed by a correct node: that panics.
func (s *Tasks) Apply(at At, cmd []byte, events []Event) (Outcome, []Event) {
	c, err := DecodeCommand(cmd)
	if err != nil {
		panic(fmt.Sprintf("ledger: shard %d: entry %d: %v", s.shard, at.Index, err))
	}
	s.now = max(s.now, at.TimeMillis)
	a := apply{Tasks: s, at: at, events: events}
	var o Outcome
	switch c := c.(type) {
	case *Submit:
		o = a.submit(c)
	case *Complete:
		o = a.complete(c)
	case *Fail:
		o = a.fail(c)
	case *Expire:
		o = a.expire(c)
	case *Due:
		o = a.due(c)
	case *Timeout:
		o = a.timeout(c)
	case *Cancel:
		o = a.cancel(c)
	case *Retry:
		o = a.retry(c)
	case *Refused:
		o = a.refused(c)
	default:
		panic(fmt.Sprintf("ledger: shard %d: entry %d: %T belongs to the control shard", s.shard, at.Index, c))
	}
	return o, a.events
}

// apply is one command under decision.
type apply struct {
	*Tasks
	at     At
	events []Event
}

func (a *apply) submit(c *Submit) Outcome {
	sp := &c.Spec
	if sp.Key == "" {
		sp.Key = c.ID.String()
	}
	k := idemHash(sp.Fleet, sp.Key)
	if r := a.known(k); r != nil {
		o := Outcome{ID: r.id, State: r.state, Epoch: r.epoch, Replayed: true}
		if r.request != c.RequestHash {
			o.Code, o.Replayed = KeyReused, false
		}
		return o
	}
	switch {
	case sp.DeadlineMillis != 0 && sp.DeadlineMillis <= a.now:
		return Outcome{Code: Invalid, ID: c.ID, Detail: "the deadline has passed"}
	case sp.Guarantee == ExactlyOnce:
		return Outcome{Code: NotYetSupported, ID: c.ID, Detail: "guarantee exactly_once"}
	case len(sp.After) > 0:
		return Outcome{Code: NotYetSupported, ID: c.ID, Detail: "dependencies"}
	}
	// IDs are random: one that is taken has come with another key, which no
	// node does. Looking in Cold as well would cost every submit a miss there.
	if i, ok := a.ids[c.ID]; ok {
		return Outcome{Code: Exists, ID: c.ID, State: a.row(i).state, Detail: "the task ID is taken"}
	}
	r := row{id: c.ID, idem: k, request: c.RequestHash, created: a.now, notBefore: sp.NotBeforeMillis, deadline: sp.DeadlineMillis,
		spec: sp.append(make([]byte, 0, 128+len(sp.Input)+len(sp.Context)))}
	r.fromSpec(sp)
	i := a.insert(r)
	to := StateReady
	if sp.NotBeforeMillis > a.now {
		to = StateSubmitted
	}
	rec := Record{Verb: "submit", Actor: sp.SubmittedBy, RequestDigest: c.RequestHash}
	a.move(i, to, rec, "", false)
	return Outcome{ID: c.ID, State: to}
}

// known finds the task that has an idempotency key.
func (a *apply) known(k idemKey) *row {
	if i, ok := a.idem[k]; ok {
		return a.row(i)
	}
	if !a.oldKey.mayHave(k) {
		return nil
	}
	v, ok, err := a.cold.Get(append([]byte{keyIdem}, k[:]...))
	must(err)
	if !ok {
		return nil
	}
	r, _, err := a.find(TaskID(v[:16]))
	must(err)
	if r == nil {
		panic(fmt.Sprintf("ledger: shard %d: key of a task that is not there", a.shard))
	}
	return r
}

// keep copies what the command's buffer holds; nil stays nil.
func keep(b []byte) []byte { return append([]byte(nil), b...) }

// must stops the node on a failure to read its own checkpoint: going on would
// let replicas differ.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("ledger: reading checkpointed state: %v", err))
	}
}

// open finds a task that has not ended; otherwise the outcome that says so.
func (a *apply) open(id TaskID) (uint32, *row, Outcome) {
	r, i, err := a.find(id)
	must(err)
	if r == nil {
		return 0, nil, Outcome{Code: NotFound, ID: id}
	}
	o := Outcome{ID: id, State: r.state, Epoch: r.epoch}
	if r.state.Terminal() {
		o.Code = BadState
	}
	return uint32(max(i, 0)), r, o
}

func (a *apply) complete(c *Complete) Outcome {
	i, r, o := a.open(c.ID)
	if o, done := a.claim(r, o, c.ID, c.Agent, c.Epoch, "complete", StateCompleted); done {
		return o
	}
	r.attempts++
	r.epoch, r.agent, r.result, r.err, r.ended = c.Epoch, c.Agent, keep(c.Result), "", a.now
	a.move(i, StateCompleted, Record{Verb: "complete", Agent: c.Agent, Epoch: c.Epoch, AssignedMillis: c.AssignedMillis,
		StartedMillis: c.StartedMillis, StolenFrom: c.StolenFrom, Actor: c.Node, ResultDigest: digest(c.Result)}, c.Agent, true)
	return Outcome{ID: c.ID, State: StateCompleted, Epoch: c.Epoch}
}

// claim decides whether a holder's claim on a task stands; done means that o
// is the answer.
func (a *apply) claim(r *row, o Outcome, id TaskID, agent string, epoch uint64, verb string, replay State) (Outcome, bool) {
	switch {
	case r == nil:
		return o, true
	case epoch == r.epoch && agent == r.agent && (r.state == replay || verb == "fail" && !r.state.Terminal()):
		o.Code, o.Replayed = OK, true
		return o, true
	case epoch <= r.epoch:
		o.Code = StaleLease
	case o.Code == OK:
		return o, false
	}
	a.record(r, Record{Verb: "refused", Agent: agent, Epoch: epoch, Code: o.Code, Detail: verb}, r.state, r.state)
	return o, true
}

func (a *apply) fail(c *Fail) Outcome {
	i, r, o := a.open(c.ID)
	if o, done := a.claim(r, o, c.ID, c.Agent, c.Epoch, "fail", StateFailed); done {
		return o
	}
	r.result = keep(c.Result)
	rec := Record{Verb: "fail", Agent: c.Agent, Epoch: c.Epoch, AssignedMillis: c.AssignedMillis, StartedMillis: c.StartedMillis,
		StolenFrom: c.StolenFrom, Actor: c.Node, Detail: c.Error, ResultDigest: digest(c.Result)}
	return a.attemptFailed(i, rec, c.Error, c.Retryable, true)
}

func (a *apply) expire(c *Expire) Outcome {
	i, r, o := a.open(c.ID)
	if r == nil || o.Code != OK || c.Epoch <= r.epoch {
		if r != nil {
			o.Code = NotDue
		}
		return o
	}
	return a.attemptFailed(i, Record{Verb: "expire", Agent: c.Agent, Epoch: c.Epoch, Detail: c.Reason}, c.Reason, true, false)
}

// attemptFailed ends an attempt: another one follows while the policy allows
// it, otherwise the task has failed for good.
func (a *apply) attemptFailed(i uint32, rec Record, why string, retryable, settled bool) Outcome {
	r := a.row(i)
	r.attempts++
	r.epoch, r.agent, r.err = rec.Epoch, rec.Agent, why
	to := StateFailed
	if retryable && r.guarantee != BestEffort && r.attempts <= r.retries {
		to = StateReady
		if d := backoff(r); d > 0 {
			to, r.notBefore = StateSubmitted, a.now+d
		}
	} else {
		r.ended = a.now
	}
	a.move(i, to, rec, rec.Agent, settled)
	return Outcome{ID: r.id, State: to, Epoch: r.epoch}
}

// backoff is the delay before the next attempt, in milliseconds.
func backoff(r *row) int64 {
	d := r.delay
	switch r.backoff {
	case BackoffExponential:
		for n := uint32(1); n < r.attempts && d < r.maxDelay; n++ {
			d *= 2
		}
	case BackoffLinear:
		d *= int64(r.attempts)
	}
	return min(d, r.maxDelay)
}

func (a *apply) due(c *Due) Outcome {
	i, r, o := a.open(c.ID)
	if r == nil {
		return o
	}
	if r.state != StateSubmitted || r.notBefore > a.now {
		o.Code = NotDue
		return o
	}
	a.move(i, StateReady, Record{Verb: "due"}, "", false)
	return Outcome{ID: c.ID, State: StateReady, Epoch: r.epoch}
}

func (a *apply) timeout(c *Timeout) Outcome {
	i, r, o := a.open(c.ID)
	if r == nil {
		return o
	}
	if o.Code != OK || r.deadline == 0 || r.deadline > a.now {
		o.Code = NotDue
		return o
	}
	r.ended, r.err = a.now, "deadline passed"
	a.move(i, StateTimedOut, Record{Verb: "timeout"}, "", false)
	return Outcome{ID: c.ID, State: StateTimedOut, Epoch: r.epoch}
}

func (a *apply) cancel(c *Cancel) Outcome {
	i, r, o := a.open(c.ID)
	if r != nil && r.state == StateCancelled {
		o.Code, o.Replayed = OK, true
	}
	if r == nil || o.Code != OK || o.Replayed {
		return o
	}
	r.ended, r.err = a.now, c.Reason
	a.move(i, StateCancelled, Record{Verb: "cancel", Actor: c.By, Detail: c.Reason}, "", false)
	return Outcome{ID: c.ID, State: StateCancelled, Epoch: r.epoch}
}

func (a *apply) retry(c *Retry) Outcome {
	r, i, err := a.find(c.ID)
	must(err)
	if r == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	switch r.state {
	case StateFailed, StateTimedOut, StateCancelled:
	default:
		return Outcome{Code: BadState, ID: c.ID, State: r.state, Epoch: r.epoch}
	}
	if i < 0 {
		i = int(a.insert(*r))
		r = a.row(uint32(i))
	}
	r.attempts, r.ended, r.notBefore = 0, 0, 0
	if r.deadline <= a.now {
		r.deadline = 0
	}
	a.move(uint32(i), StateReady, Record{Verb: "retry", Actor: c.By}, "", false)
	return Outcome{ID: c.ID, State: StateReady, Epoch: r.epoch}
}

func (a *apply) refused(c *Refused) Outcome {
	r, _, err := a.find(c.ID)
	must(err)
	if r == nil {
		return Outcome{Code: NotFound, ID: c.ID}
	}
	a.record(r, Record{Verb: "refused", Agent: c.Agent, Epoch: c.Epoch, Code: c.Code, Detail: c.Verb}, r.state, r.state)
	return Outcome{ID: c.ID, State: r.state, Epoch: r.epoch}
}

// move takes a task to a state: the row, the counts, the record, the event.
func (a *apply) move(i uint32, to State, rec Record, agent string, settled bool) {
	r := a.row(i)
	from := r.state
	if from != 0 {
		a.counts[from]--
	}
	a.counts[to]++
	r.state, r.updated = to, a.now
	if to == StateReady {
		r.readyAt = a.now
	}
	a.touch(i)
	a.record(r, rec, from, to)
	a.events = append(a.events, Event{Brief: r.brief(), From: from, Index: a.at.Index, Agent: agent, Settled: settled})
}

func (a *apply) record(r *row, rec Record, from, to State) {
	rec.Shard, rec.Index, rec.TimeMillis, rec.Task = a.shard, a.at.Index, a.now, r.id
	rec.Fleet, rec.Capability, rec.Guarantee, rec.Attempt = r.fleet, r.capa, r.guarantee, r.attempts
	rec.From, rec.To = from, to
	a.chain.add(&rec)
}
