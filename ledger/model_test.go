package ledger

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the simple reference of one exactly_once task: what the table of
// states promises, without shards, rows, records or indexes.
type model struct {
	verify, rollback, onUnknown bool
	need, retries               int

	state            State
	epoch            uint64
	agent            string
	by               []string
	attempts         int
	asked, child     bool // verify was asked in this doubt; it is open
	undoing          bool // a rollback task is open
	cancelled, stuck bool
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
	case m.cancelled:
		m.state = StateCancelled
	case m.attempts > m.retries:
		m.state = StateFailed
	default:
		m.state = StateReady
	}
}

func (m *model) done() {
	m.settle()
	m.state = StateCompleted
}

func (m *model) undo() {
	m.settle()
	m.state, m.undoing = StateRollingBack, true
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
	switch k := rapid.IntRange(0, 13).Draw(t, "command"); k {
	case 0:
		if ok = m.state == StateAwaitingApproval && by != "sue" && !slices.Contains(m.by, by); ok {
			m.by = append(m.by, by)
			m.gate()
		}
		return &Decide{ID: id, By: by}, ok
	case 1:
		if ok = m.state == StateAwaitingApproval; ok {
			m.state = StateCancelled
		}
		return &Decide{ID: id, By: by, Reject: true}, ok
	case 2, 3:
		if ok = m.state == StateReady && !slices.Contains(m.by, agent); ok {
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
		if ok = held && m.state == StateRunning; ok {
			m.doubt()
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
	return m.person(t, id, by)
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
			m.cancelled, ok = true, true
			m.doubt()
		}
		return &Cancel{ID: id, By: by}, ok
	case 2:
		if ok = (m.state == StateFailed || m.state == StateCancelled) && !m.stuck; ok {
			m.by, m.cancelled, m.attempts = nil, false, 0
			m.gate()
		}
		return &Retry{ID: id, By: by}, ok
	}
	switch {
	case m.state == StateRollingBack || m.state == StateRolledBack:
		ok = true // repeated
	case !m.rollback || m.stuck:
	case m.state == StateCompleted || m.state == StateUnknown || (m.state == StateFailed || m.state == StateCancelled) && m.epoch > 0:
		m.undo()
		ok = true
	}
	return &Rollback{ID: id, By: by}, ok
}

// TestModel runs random commands against the ledger and the reference. A
// failure is shrunk, and names its seed.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{verify: rapid.Bool().Draw(t, "verify"), onUnknown: rapid.Bool().Draw(t, "on-unknown"),
			need: rapid.IntRange(0, 2).Draw(t, "approvers"), retries: rapid.IntRange(0, 2).Draw(t, "retries")}
		m.rollback = !m.verify || rapid.Bool().Draw(t, "rollback")
		m.onUnknown = m.onUnknown && m.rollback
		id := NewTaskID(1, 1000, 1)
		spec := testSpec()
		spec.Guarantee, spec.Key, spec.SubmittedBy, spec.Retry = ExactlyOnce, "k", "sue", RetryPolicy{MaxRetries: uint32(m.retries)}
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
			o, _ := s.Apply(At{Index: 1, TimeMillis: 1000}, c.Append(nil), nil)
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
