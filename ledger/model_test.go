package ledger

import (
	"flag"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the simple reference of one task whose leases are in the log: what
// the table of states promises, without shards, rows, records or indexes.
type model struct {
	once                        bool // exactly_once; otherwise at_least_once
	verify, rollback, onUnknown bool
	need, retries               int
	deadline                    bool // there is one

	state            State
	epoch            uint64
	agent            string
	by               []string
	attempts         int
	asked, child     bool // verify was asked in this doubt; it is open
	undoing          bool // a rollback task is open
	cancelled, stuck bool
	wanted           bool // undone: its session is rolled back
	late             bool // the deadline's time has come
	erased           bool
	sagas            int
}

// Before and after the deadline, where there is one.
const modelEarly, modelDeadline, modelLate = 1000, 5000, 6000

func (m *model) over() bool { return m.deadline && m.late }

func (m *model) ended() bool {
	return slices.Contains([]State{StateCompleted, StateFailed, StateCancelled, StateTimedOut, StateRolledBack}, m.state)
}

// perhaps: an attempt that did not complete may have done something.
func (m *model) perhaps() bool { return !m.once && m.epoch > 0 && m.rollback && !m.erased }

func (m *model) broken() bool {
	return m.epoch > 0 && (m.state == StateFailed || m.state == StateTimedOut || m.state == StateCancelled)
}

func (m *model) gate() {
	m.state = StateReady
	if m.need > len(m.by) {
		m.state = StateAwaitingApproval
	}
}

func (m *model) holds(agent string, epoch uint64) bool {
	return (m.state == StateRunning || m.state == StateUnknown) && agent == m.agent && epoch == m.epoch
}

func (m *model) settle() { m.asked, m.child = false, false }

func (m *model) notDone() {
	m.settle()
	m.attempts++
	switch {
	case m.wanted && m.perhaps():
		m.undo()
	case m.cancelled || m.wanted:
		m.state = StateCancelled
	case m.attempts > m.retries:
		m.state = StateFailed
	default:
		m.state = StateReady
	}
}

func (m *model) done() {
	m.settle()
	if m.state = StateCompleted; m.wanted && m.rollback {
		m.undo()
	}
}

func (m *model) undo() {
	m.settle()
	m.state, m.undoing, m.wanted = StateRollingBack, true, false
}

func (m *model) doubt() {
	m.state = StateUnknown
	m.inquire()
}

func (m *model) inquire() {
	switch {
	case m.verify && !m.asked:
		m.asked, m.child = true, true
	case m.rollback && m.onUnknown:
		m.undo()
	}
}

// step is one command: what is sent, and what the model makes of it; ok says
// that it is not refused.
func (m *model) step(t *rapid.T, s *Tasks, id TaskID) (c Command, ok bool) {
	agent := rapid.SampledFrom([]string{"w1", "w2", "ann"}).Draw(t, "agent")
	epoch := m.epoch
	if rapid.IntRange(0, 5).Draw(t, "stale") == 0 {
		epoch = uint64(rapid.IntRange(1, 9).Draw(t, "epoch"))
	}
	if m.agent != "" && rapid.IntRange(0, 3).Draw(t, "holder") > 0 {
		agent = m.agent
	}
	by := rapid.SampledFrom([]string{"ann", "ben", "sue"}).Draw(t, "by")
	held := m.holds(agent, epoch)
	switch k := rapid.IntRange(0, 17).Draw(t, "command"); k {
	case 0:
		if ok = m.state == StateAwaitingApproval && !m.over() && by != "sue" && !slices.Contains(m.by, by); ok {
			m.by = append(m.by, by)
			m.gate()
		}
		return &Decide{ID: id, By: by}, ok
	case 1:
		if ok = m.state == StateAwaitingApproval && !m.over(); ok {
			m.state = StateCancelled
		}
		return &Decide{ID: id, By: by, Reject: true}, ok
	case 2, 3:
		if ok = m.state == StateReady && !m.over() && !slices.Contains(m.by, agent); ok {
			m.state, m.agent, m.epoch = StateRunning, agent, m.epoch+1
		}
		return &Lease{ID: id, Agent: agent}, ok
	case 4:
		if held {
			m.attempts++
			m.done()
		}
		return &Complete{ID: id, Agent: agent, Epoch: epoch, Result: []byte(fmt.Sprint(m.epoch))}, held
	case 5:
		if held {
			m.notDone()
		}
		return &Fail{ID: id, Agent: agent, Epoch: epoch, Retryable: true}, held
	case 6, 7:
		if ok = held && m.state == StateRunning; ok && m.once {
			m.doubt()
		} else if ok {
			m.notDone()
		}
		return &Expire{ID: id, Agent: agent, Epoch: epoch}, ok
	case 8, 9:
		return m.hooks(t, s, id, k == 8)
	case 10:
		thief := rapid.SampledFrom([]string{"w1", "w2", "ann"}).Draw(t, "thief")
		if ok = held && m.state == StateRunning && thief != agent && !slices.Contains(m.by, thief); ok {
			m.agent, m.epoch = thief, m.epoch+1
		}
		return &Steal{ID: id, From: agent, FromEpoch: epoch, Agent: thief, Node: "n2", FromLoad: 900}, ok
	}
	if k := rapid.IntRange(0, 9).Draw(t, "rare"); k < 4 {
		return m.rare(t, id, by, k)
	}
	return m.person(t, id, by)
}

// rare is what happens to few tasks.
func (m *model) rare(t *rapid.T, id TaskID, by string, k int) (c Command, ok bool) {
	switch k {
	case 0:
		m.late = true
		switch {
		case m.ended() || !m.deadline || m.state == StateUnknown || m.state == StateRollingBack:
			return &Timeout{ID: id}, false
		case m.state == StateRunning && m.once:
			m.doubt()
		case m.epoch > 0 && m.rollback && m.wanted:
			m.undo()
		default:
			m.state = StateTimedOut
		}
		return &Timeout{ID: id}, true
	case 1:
		if ok = m.ended(); ok {
			m.erased = true
		}
		return &Erase{ID: id, By: by}, ok
	case 2:
		release := &Release{ID: id, Agent: m.agent, Epoch: m.epoch}
		if ok = m.state == StateRunning; ok {
			switch {
			case !m.wanted:
				m.state = StateReady
			case m.attempts > 0 && m.perhaps():
				m.undo()
			default:
				m.state = StateCancelled
			}
		}
		return release, ok
	}
	m.session()
	m.sagas++
	return &Saga{ID: NewTaskID(1, modelEarly, 1000+uint64(m.sagas)), Fleet: "default", Session: "s", Steps: []TaskID{id}, By: by}, true
}

// session is rolled back, of which the task is a step.
func (m *model) session() {
	switch {
	case m.stuck || m.state == StateRollingBack:
	case (m.state == StateCompleted || m.state == StateUnknown) && m.rollback && !m.erased:
		m.undo()
	case m.state == StateUnknown || m.state == StateRunning:
		m.wanted = true
	case m.broken() && m.perhaps():
		m.undo()
	case m.ended():
	case m.perhaps():
		m.undo()
	default:
		m.state = StateCancelled
	}
}

// hooks ends the open verify or rollback task; nil when there is none.
func (m *model) hooks(t *rapid.T, s *Tasks, id TaskID, verify bool) (c Command, ok bool) {
	now, _, _ := s.Task(id)
	if !verify {
		if !m.undoing {
			return nil, false
		}
		m.undoing = false
		if rapid.Bool().Draw(t, "undone") {
			m.state = StateRolledBack
			return &Complete{ID: now.Txn.Rollback, Agent: "u", Epoch: 1}, true
		}
		m.state, m.stuck = StateFailed, true
		return &Fail{ID: now.Txn.Rollback, Agent: "u", Epoch: 1}, true
	}
	says := rapid.SampledFrom([]string{"true", "false", "null", `"partial"`}).Draw(t, "says")
	if !m.child || m.state != StateUnknown {
		return nil, false
	}
	m.child = false
	switch says {
	case "true":
		m.attempts++
		m.done()
	case "false":
		m.notDone()
	case `"partial"`:
		if m.rollback {
			m.undo()
			break
		}
		m.inquire()
	default:
		m.inquire()
	}
	return &Complete{ID: now.Txn.Verify, Agent: "v", Epoch: 1, Result: []byte(says)}, true
}

// person is what people ask for.
func (m *model) person(t *rapid.T, id TaskID, by string) (c Command, ok bool) {
	switch rapid.IntRange(0, 3).Draw(t, "person") {
	case 0:
		as := Resolution(rapid.IntRange(1, 3).Draw(t, "as"))
		ok = m.state == StateUnknown || m.stuck && as != ResolveNotDone
		switch {
		case !ok:
		case as == ResolveCompleted:
			m.stuck = false
			m.done()
		case as == ResolveNotDone:
			m.notDone()
		default:
			m.stuck = false
			m.settle()
			m.state = StateRolledBack
		}
		return &Resolve{ID: id, By: by, As: as, Evidence: "e"}, ok
	case 1:
		switch m.state {
		case StateAwaitingApproval, StateReady:
			m.state, ok = StateCancelled, true
		case StateCancelled:
			ok = true // repeated
		case StateRunning:
			switch ok = true; {
			case m.once:
				m.cancelled = true
				m.doubt()
			case m.wanted && m.perhaps():
				m.undo()
			default:
				m.state = StateCancelled
			}
		}
		return &Cancel{ID: id, By: by}, ok
	case 2:
		if ok = (m.state == StateFailed || m.state == StateCancelled || m.state == StateTimedOut) && !m.stuck && !m.erased; ok {
			m.by, m.cancelled, m.wanted, m.attempts = nil, false, false, 0
			m.deadline = m.deadline && !m.late
			m.gate()
		}
		return &Retry{ID: id, By: by}, ok
	}
	switch {
	case m.state == StateRollingBack || m.state == StateRolledBack:
		ok = true // repeated
	case !m.rollback || m.stuck || m.erased:
	case m.state == StateCompleted || m.state == StateUnknown || m.broken():
		m.undo()
		ok = true
	}
	return &Rollback{ID: id, By: by}, ok
}

// TestModel runs random commands against the ledger and the reference. A
// failure is shrunk, and names its seed. Planted faults that need five right
// commands in a row were found within 60,000 checks (-rapid.checks=60000).
func TestModel(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue { // a tenth of a millisecond each
		if err := f.Value.Set("10000"); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Value.Set(f.DefValue) }()
	}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{once: rapid.Bool().Draw(t, "once"), deadline: rapid.Bool().Draw(t, "deadline"), verify: rapid.Bool().Draw(t, "verify"), onUnknown: rapid.Bool().Draw(t, "on-unknown"),
			need: rapid.IntRange(0, 2).Draw(t, "approvers"), retries: rapid.IntRange(0, 2).Draw(t, "retries")}
		m.rollback = !m.verify || !m.once || rapid.Bool().Draw(t, "rollback")
		m.onUnknown = m.onUnknown && m.rollback
		id := NewTaskID(1, 1000, 1)
		spec := testSpec()
		spec.Guarantee, spec.Key, spec.SubmittedBy, spec.Retry = ExactlyOnce, "k", "sue", RetryPolicy{MaxRetries: uint32(m.retries)}
		if !m.once {
			spec.Guarantee = AtLeastOnce
		}
		if m.deadline {
			spec.DeadlineMillis = modelDeadline
		}
		terms := Terms{Approvers: uint32(m.need), OnUnknown: m.onUnknown}
		if m.verify {
			terms.Verify = Hook{Action: "check", Target: "x"}
		}
		if m.rollback {
			terms.Rollback = Hook{Action: "undo", Target: "x"}
		}
		s := NewTasks(1, newMemCold(), func([]byte) {})
		if err := s.Restore(nil); err != nil {
			t.Fatal(err)
		}
		apply := func(c Command) Outcome {
			at := int64(modelEarly)
			if m.late {
				at = modelLate
			}
			o, _ := s.Apply(At{Index: 1, TimeMillis: at}, c.Append(nil), nil)
			return o
		}
		if o := apply(&Declare{ID: id, RequestHash: DeclareHash(&spec, &terms), Spec: spec, Terms: terms}); o.Code != OK {
			t.Fatal(o)
		}
		m.gate()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before := m.state
			c, ok := m.step(t, s, id)
			if c == nil {
				continue
			}
			o := apply(c)
			now, _, _ := s.Task(id)
			repeated := o.Replayed && now.State == before && m.state == before
			if (o.Code == OK) != ok && !repeated {
				t.Fatalf("%T %+v in %s: %s, the model says ok=%v", c, c, before, o.Code, ok)
			}
			if now.State != m.state || now.Epoch != m.epoch || now.Txn.Stuck != m.stuck {
				t.Fatalf("%T %+v in %s: now %s at epoch %d stuck=%v, the model says %s at %d stuck=%v", c, c, before, now.State, now.Epoch, now.Txn.Stuck, m.state, m.epoch, m.stuck)
			}
		}
	})
}
