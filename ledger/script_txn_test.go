package ledger

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// fullTxnCommands has one of each command of transactions, with every field
// set.
func fullTxnCommands(id, parent TaskID, spec Spec) []Command {
	terms := Terms{Self: true, Approvers: 2, Allowed: []string{"ann", "ben"}, Rule: "r1", Pack: "p@3", SkipDependents: true,
		Verify:    Hook{Action: "check", Target: "t", Input: []byte(`{"v":1}`), MaxRetries: 3, LeaseMillis: 1000},
		Rollback:  Hook{Action: "undo", Target: "t", Input: []byte(`{"u":1}`), MaxRetries: 300, LeaseMillis: 2000},
		OnUnknown: true, OnFailure: true, OnFailureAll: true, Snapshot: []byte(`{"was":1}`), Regulations: []string{"gdpr:17"}, Classification: "personal"}
	return []Command{
		&Declare{ID: id, RequestHash: DeclareHash(&spec, &terms), Spec: spec, Terms: terms, Agent: "w1", Node: "n1", Instance: "i1"},
		&Lease{ID: id, Agent: "w1", Node: "n1", Instance: "i1"},
		&Release{ID: id, Agent: "w1", Epoch: 1<<53 + 1},
		&Decide{ID: id, By: "ann", Digest: [32]byte{1, 31: 2}, Reject: true, Reason: "not now"},
		&Hold{ID: id, Approvers: 3, Rule: "r2", Pack: "p@4"},
		&Resolve{ID: id, By: "ann", As: ResolveNotDone, Evidence: "looked", Result: []byte(`{}`)},
		&Doubt{ID: id, Agent: "w1", Epoch: 7, Reason: "killed", Node: "n1"},
		&Attach{ID: id, Agent: "w1", Epoch: 7, Snapshot: true, Version: 300, State: []byte(`[1]`), Node: "n1"},
		&Rollback{ID: id, By: "ann", Reason: "wrong", Saga: parent},
		&Saga{ID: id, Fleet: "f", Session: "s1", Steps: []TaskID{parent, id}, By: "ann", Reason: "wrong", Cause: parent},
		&SagaAsk{Fleet: "f", Session: "s1", Cause: parent},
		&StepEnded{Saga: id, Step: parent, State: StateRolledBack, Stuck: true},
		&Watch{ID: id, Dependent: parent},
		&Dependency{ID: id, On: parent, State: StateCompleted},
		&Ack{Seqs: []uint64{1, 300, 1 << 40}},
		&Steal{ID: id, From: "w1", FromEpoch: 1 << 53, Agent: "w2", Node: "n2", Epoch: 1<<53 + 1, FromLoad: 930, ToLoad: 120},
	}
}

// ids reads labels joined by plus signs.
func (s *script) ids(v string) (list []TaskID) {
	for _, l := range strings.Split(v, "+") {
		list = append(list, s.idOf(l))
	}
	return list
}

func (s *script) hookOf(name string) Hook {
	v := s.text(name, "")
	if v == "" {
		return Hook{}
	}
	action, target, _ := strings.Cut(v, ":")
	return Hook{Action: action, Target: target, Input: []byte(`{"hook":1}`), MaxRetries: uint32(s.num("hook-retries", 0))}
}

func (s *script) terms() Terms {
	m := Terms{Self: s.has("self"), Approvers: uint32(s.num("approvers", 0)), Rule: s.text("rule", ""), SkipDependents: s.has("skip"),
		Verify: s.hookOf("verify"), Rollback: s.hookOf("rollback"), OnUnknown: s.has("on-unknown"), OnFailure: s.has("on-failure"),
		OnFailureAll: s.has("on-failure-all"), Snapshot: []byte(s.text("snapshot", ""))}
	if v := s.text("allowed", ""); v != "" {
		m.Allowed = strings.Split(v, "+")
	}
	if len(m.Snapshot) == 0 {
		m.Snapshot = nil
	}
	return m
}

func (s *script) txnCommand(name string, id TaskID, agent string, epoch uint64) Command {
	switch name {
	case "declare":
		p, m := s.spec(), s.terms()
		c := &Declare{ID: id, RequestHash: DeclareHash(&p, &m), Spec: p, Terms: m, Node: "n1", Instance: s.text("instance", "")}
		if m.Self {
			c.Agent = agent
		}
		return c
	case "lease":
		return &Lease{ID: id, Agent: agent, Node: "n1"}
	case "release":
		return &Release{ID: id, Agent: agent, Epoch: epoch}
	case "steal":
		return &Steal{ID: id, From: s.text("from", "w1"), FromEpoch: uint64(s.num("from-epoch", 0)), Agent: agent, Node: s.text("node", "n2"), Epoch: epoch,
			FromLoad: uint32(s.num("from-load", 900)), ToLoad: uint32(s.num("to-load", 100))}
	case "approve", "reject":
		c := &Decide{ID: id, By: s.text("by", ""), Reject: name == "reject", Reason: s.text("reason", "")}
		if s.has("digest") {
			c.Digest = [32]byte{byte(s.num("digest", 0))}
		} else if t, ok, _ := s.tasks.Task(id); ok {
			c.Digest = t.RequestHash
		}
		return c
	case "hold":
		return &Hold{ID: id, Approvers: uint32(s.num("approvers", 1)), Rule: s.text("rule", "")}
	case "recall":
		p, m := s.spec(), s.terms()
		return &Recall{Fleet: p.Fleet, Key: p.Key, Agent: s.text("agent", "w1"), Node: "n1", Instance: s.text("instance", ""),
			RequestHash: DeclareHash(&p, &m)}
	case "resolve":
		as, _ := ParseResolution(s.text("as", "completed"))
		return &Resolve{ID: id, By: s.text("by", ""), As: as, Evidence: s.text("evidence", ""), Result: []byte(s.text("result", ""))}
	case "doubt":
		return &Doubt{ID: id, Agent: agent, Epoch: epoch, Reason: s.text("reason", "")}
	case "checkpoint-task", "snapshot-task":
		return &Attach{ID: id, Agent: agent, Epoch: epoch, Snapshot: name == "snapshot-task", Version: uint64(s.num("version", 0)), State: []byte(s.text("state", ""))}
	case "rollback":
		c := &Rollback{ID: id, By: s.text("by", ""), Reason: s.text("reason", "")}
		if s.has("saga") {
			c.Saga = s.idOf(s.args["saga"])
		}
		return c
	case "saga":
		c := &Saga{ID: id, Fleet: "default", Session: "s1", By: s.text("by", ""), Reason: s.text("reason", "")}
		if v := s.text("steps", ""); v != "" {
			c.Steps = s.ids(v)
		}
		return c
	case "step-ended":
		return &StepEnded{Saga: id, Step: s.idOf(s.args["step"]), State: must(ParseState(s.args["state"])), Stuck: s.has("stuck")}
	case "watch":
		return &Watch{ID: id, Dependent: s.idOf(s.args["dependent"])}
	case "dependency":
		state, _ := ParseState(s.text("state", ""))
		return &Dependency{ID: id, On: s.idOf(s.args["on"]), State: state}
	case "ack":
		return &Ack{Seqs: []uint64{uint64(s.num("seq", 0))}}
	case "saga-ask":
		return &SagaAsk{Fleet: "default", Session: "s1", Cause: id}
	}
	return nil
}

func (s *script) letters() string {
	var b strings.Builder
	for _, l := range s.tasks.Outbox(100) {
		c := must(DecodeCommand(l.Command))
		fmt.Fprintf(&b, "letter %d to shard %d: ", l.Seq, l.Shard)
		switch c := c.(type) {
		case *Watch:
			fmt.Fprintf(&b, "watch %s for %s\n", s.label(c.ID), s.label(c.Dependent))
		case *Dependency:
			fmt.Fprintf(&b, "dependency of %s on %s is %s\n", s.label(c.ID), s.label(c.On), orNone(c.State.String()))
		case *Rollback:
			fmt.Fprintf(&b, "rollback of %s by saga %s\n", s.label(c.ID), s.label(c.Saga))
		case *StepEnded:
			fmt.Fprintf(&b, "step %s of saga %s is %s stuck=%v\n", s.label(c.Step), s.label(c.Saga), c.State, c.Stuck)
		default:
			fmt.Fprintf(&b, "%T %+v\n", c, c)
		}
	}
	return s.named(b.String())
}

var taskIDs = regexp.MustCompile(`\bt[0-9a-v]{26}\b`)

// named replaces task IDs in text by their labels.
func (s *script) named(text string) string {
	return taskIDs.ReplaceAllStringFunc(text, func(m string) string {
		id, err := ParseTaskID(m)
		if err != nil {
			return m
		}
		return s.label(id)
	})
}

func (s *script) txn(x *Txn) string {
	if x == nil {
		return ""
	}
	var b strings.Builder
	for _, a := range x.Approvals {
		fmt.Fprintf(&b, "  approved by %s at %d\n", a.By, a.Millis)
	}
	for _, l := range []struct {
		name string
		ids  []TaskID
	}{{"waits for", x.Waits}, {"waited for by", x.Watchers}, {"steps", x.Steps}} {
		for _, id := range l.ids {
			fmt.Fprintf(&b, "  %s %s\n", l.name, s.label(id))
		}
	}
	if x.Saved.Version > 0 {
		fmt.Fprintf(&b, "  checkpoint %d by %s at epoch %d: %s\n", x.Saved.Version, x.Saved.Agent, x.Saved.Epoch, x.Saved.State)
	}
	for _, f := range []struct {
		name string
		on   bool
	}{{"stuck", x.Stuck}, {"cancel", x.Cancel}, {"undo", x.Undo}, {"asked", x.Asked}} {
		if f.on {
			fmt.Fprintf(&b, "  %s\n", f.name)
		}
	}
	return b.String()
}

// TestTxnRoundTrip: the rows of transactions keep every field.
func TestTxnRoundTrip(t *testing.T) {
	id, other := NewTaskID(3, 5, 7), NewTaskID(4, 6, 8)
	d := fullTxnCommands(id, other, testSpec())[0].(*Declare)
	for _, x := range []*Txn{new(Txn), {Terms: d.Terms, Approvals: []Approval{{By: "ann", Millis: 5}}, Waits: []TaskID{id}, Watchers: []TaskID{other, id},
		Node: "n1", Instance: "i", Leased: 9, Role: RoleSaga, Of: id, Verify: other, Rollback: id, Saga: other, Steps: []TaskID{id, other}, Next: 1,
		Rounds: 3, Asked: true, Cancel: true, Undo: true, Stuck: true, Saved: Saved{Version: 2, Epoch: 3, Agent: "w", Millis: 4, State: []byte(`1`)}, Snapshot: []byte(`2`)}} {
		b := x.append(nil)
		got, err := decodeTxn(b)
		if err != nil || !bytes.Equal(got.append(nil), b) || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", x) {
			t.Errorf("%v\n%+v\n%+v", err, got, x)
		}
		for i := range b {
			if _, err := decodeTxn(b[:i]); err == nil {
				t.Errorf("cut to %d of %d bytes: accepted", i, len(b))
			}
		}
	}
}

func TestReadAnswer(t *testing.T) {
	for in, want := range map[string]answer{``: answerCantTell, `null`: answerCantTell, `true`: answerYes, ` "yes" `: answerYes, `false`: answerNo, `"no"`: answerNo,
		`{"happened":true}`: answerYes, `{"x":{"happened":true},"happened" : false , "y":[1,"}"]}`: answerNo, `{"happened":"partial"}`: answerPartly, `{"happened":1}`: answerCantTell,
		`{"a\"happened":true}`: answerCantTell, `{}`: answerCantTell, `{"happened":null}`: answerCantTell, `[true]`: answerCantTell, `{"happened"`: answerCantTell, `{"happened":`: answerCantTell, `{"a":"`: answerCantTell} {
		if got, _ := readAnswer([]byte(in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if _, r := readAnswer([]byte(`{"result": {"a":[1,2,"\"]"]}, "happened": true}`)); string(r) != `{"a":[1,2,"\"]"]}` {
		t.Errorf("result %s", r)
	}
	if got := string(appendQuoted(nil, "a\"\\\n\xffü")); got != "\"a\\\"\\\\\\u000a\uFFFDü\"" {
		t.Errorf("quoted %s", got)
	}
}
