package chaos

import (
	"slices"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// sound is a history in which every rule holds: task t1 is submitted twice with
// one key, its first holder dies, the second completes it and hears so twice;
// t2 is completed at once; a third submission was never answered.
func sound() *History {
	h := &History{
		Submissions: []Submission{
			{Span: Span{1, 2}, Key: "a", TaskID: "t1", State: "ready", Answer: Acked},
			{Span: Span{3, 4}, Key: "b", TaskID: "t2", State: "ready", Answer: Acked},
			{Span: Span{5, 6}, Key: "c", Answer: Unknown},
			{Span: Span{40, 41}, Key: "a", TaskID: "t1", State: "completed", Replayed: true, Answer: Acked},
		},
		Grants: []Grant{
			{Span: Span{7, 8}, TaskID: "t1", AgentID: "w1", Epoch: 11},
			{Span: Span{9, 20}, TaskID: "t1", AgentID: "w2", Epoch: 12},
			{Span: Span{9, 20}, TaskID: "t2", AgentID: "w2", Epoch: 11},
		},
		Settlings: []Settling{
			{Span: Span{21, 22}, TaskID: "t1", AgentID: "w1", Epoch: 11, Verdict: "complete", Code: "stale_lease", Answer: Refused},
			{Span: Span{23, 24}, TaskID: "t1", AgentID: "w2", Epoch: 12, Verdict: "complete", Result: "2", Answer: Unknown},
			{Span: Span{25, 26}, TaskID: "t1", AgentID: "w2", Epoch: 12, Verdict: "complete", Result: "2", State: "completed", Replayed: true, Answer: Acked},
			{Span: Span{27, 28}, TaskID: "t2", AgentID: "w2", Epoch: 11, Verdict: "complete", Result: "2", State: "completed", Answer: Acked},
		},
	}
	records := []api.Record{
		{Shard: 1, Seq: 1, TaskID: "t1", To: "ready", Hash: "h1"},
		{Shard: 1, Seq: 2, TaskID: "t1", Verb: "refused", From: "ready", To: "ready", AgentID: "w1", Epoch: 11, Code: "stale_lease", Hash: "h2"},
		{Shard: 1, Seq: 3, TaskID: "t1", From: "ready", To: "completed", AgentID: "w2", Epoch: 12, Hash: "h3"},
		{Shard: 2, Seq: 1, TaskID: "t2", To: "ready", Hash: "h4"},
		{Shard: 2, Seq: 2, TaskID: "t2", From: "ready", To: "completed", AgentID: "w2", Epoch: 11, Hash: "h5"},
	}
	for _, n := range []string{"n1", "n2"} {
		h.Sights = append(h.Sights,
			Sight{NodeID: n, TaskID: "t1", State: "completed", AgentID: "w2", Epoch: 12, Result: "2"},
			Sight{NodeID: n, TaskID: "t2", State: "completed", AgentID: "w2", Epoch: 11, Result: "2"})
		h.Books = append(h.Books, Book{NodeID: n, Records: slices.Clone(records)})
	}
	h.Books[1].Records = append(h.Books[1].Records[:2:2], h.Books[1].Records[3:]...) // n2 is one record behind in shard 1
	return h
}

// onceLife is an exactly_once task whose holder disappears, by what it leaves
// running for, and where to.
func onceLife(verb, to string) []api.Record {
	var list []api.Record
	for i, r := range []api.Record{{Verb: "declare", To: "ready"}, {Verb: "lease", From: "ready", To: "running", Epoch: 11}, {Verb: verb, From: "running", To: to, Epoch: 11},
		{Verb: "verified", From: "unknown", To: "ready", Epoch: 11}, {Verb: "lease", From: "ready", To: "running", Epoch: 12},
		{Verb: "complete", From: "running", To: "completed", Epoch: 12}, {Verb: "rollback", From: "completed", To: "rolling_back", Epoch: 12},
		{Verb: "rolled_back", From: "rolling_back", To: "failed", Epoch: 12}, {Verb: "resolve", From: "failed", To: "rolled_back", Epoch: 12}} {
		r.Shard, r.Seq, r.TaskID, r.Guarantee, r.Hash = 3, uint64(i+1), "t3", "exactly_once", r.Verb
		list = append(list, r)
	}
	return list
}

// stolenLife is a task that was stolen with one epoch, and completed with
// another or the same.
func stolenLife(stolen, completed uint64) []api.Record {
	return []api.Record{{Shard: 4, Seq: 1, TaskID: "t4", To: "ready", Hash: "s1"},
		{Shard: 4, Seq: 2, TaskID: "t4", Verb: "stolen", From: "ready", To: "ready", AgentID: "w2", StolenFrom: "w1", Epoch: 12, Hash: "s2"},
		{Shard: 4, Seq: 3, TaskID: "t4", Verb: "stolen", From: "ready", To: "ready", AgentID: "w1", StolenFrom: "w2", Epoch: stolen, Hash: "s3"},
		{Shard: 4, Seq: 4, TaskID: "t4", Verb: "complete", From: "ready", To: "completed", AgentID: "w1", Epoch: completed, Hash: "s4"}}
}

func TestCheckAcceptsASoundHistory(t *testing.T) {
	h := sound()
	h.Books[0].Records = append(h.Books[0].Records, stolenLife(13, 13)...)
	h.Books[0].Records = append(h.Books[0].Records, onceLife("expire", "unknown")...)
	for _, v := range Check(h) {
		t.Error(v)
	}
	for _, v := range Check(sound()) {
		t.Error(v)
	}
	if v := Check(&History{}); v != nil {
		t.Errorf("empty history: %v", v)
	}
}

// TestCheckFindsPlantedViolations breaks one thing at a time: the checker must
// name the rule, and the task where there is one.
func TestCheckFindsPlantedViolations(t *testing.T) {
	for _, tc := range []struct {
		name, rule, task string
		plant            func(h *History)
	}{
		{"lost task", RuleLost, "t2", func(h *History) {
			h.Sights = slices.DeleteFunc(h.Sights, func(s Sight) bool { return s.TaskID == "t2" })
		}},
		{"task that never ends", RuleLost, "t2", func(h *History) { h.Sights[1].State = "ready" }},
		{"two terminal states on two nodes", RuleTerminal, "t2", func(h *History) { h.Sights[1].State = "failed" }},
		{"two terminal states in answers", RuleTerminal, "t1", func(h *History) { h.Submissions[3].State = "cancelled" }},
		{"two ends in one ledger", RuleTerminal, "t2", func(h *History) {
			h.Books[0].Records = append(h.Books[0].Records,
				api.Record{Shard: 2, Seq: 3, TaskID: "t2", From: "completed", To: "failed", AgentID: "w2", Epoch: 12})
		}},
		{"completion by another", RuleCompletion, "t2", func(h *History) { h.Sights[1].AgentID = "w9" }},
		{"completion with another result", RuleCompletion, "t2", func(h *History) { h.Sights[3].Result = "0" }},
		{"two completions", RuleCompletion, "t2", func(h *History) {
			h.Settlings = append(h.Settlings, Settling{Span: Span{29, 30}, TaskID: "t2", AgentID: "w1", Epoch: 11, Verdict: "complete", Result: "2", State: "completed", Answer: Acked})
		}},
		{"repeated epoch", RuleEpoch, "t1", func(h *History) { h.Grants[1].Epoch = 11 }},
		{"decreasing epoch", RuleEpoch, "t1", func(h *History) { h.Grants[0].Epoch, h.Grants[1].Epoch = 12, 11 }},
		{"decreasing epoch in the ledger", RuleEpoch, "t1", func(h *History) {
			h.Books[0].Records[0].Epoch = 13
		}},
		{"stolen twice with one epoch", RuleEpoch, "t4", func(h *History) { h.Books[0].Records = append(h.Books[0].Records, stolenLife(12, 13)...) }},
		{"ended with an epoch that was stolen", RuleEpoch, "t4", func(h *History) { h.Books[0].Records = append(h.Books[0].Records, stolenLife(13, 12)...) }},
		{"stale epoch accepted", RuleStale, "t1", func(h *History) {
			h.Settlings[0].Answer, h.Settlings[0].State = Acked, "completed"
		}},
		{"handed out after the end", RuleAfterEnd, "t2", func(h *History) {
			h.Grants = append(h.Grants, Grant{Span: Span{31, 32}, TaskID: "t2", AgentID: "w1", Epoch: 12})
		}},
		{"one key, two tasks", RuleKey, "t1", func(h *History) { h.Submissions[1].Key = "a" }},
		{"one task, two keys", RuleKey, "t1", func(h *History) { h.Submissions[3].Key = "z" }},
		{"ledger that does not verify", RuleLedger, "", func(h *History) {
			h.Books[0].Bad = []api.BadRecord{{Shard: 1, Seq: 2, Reason: "altered"}}
		}},
		{"ledger with a hole", RuleLedger, "", func(h *History) {
			h.Books[0].Records = slices.Delete(h.Books[0].Records, 1, 2)
		}},
		{"ledgers that differ", RuleLedger, "", func(h *History) { h.Books[1].Records[1].Hash = "other" }},
		{"submission not recorded", RuleUnrecorded, "t2", func(h *History) {
			h.Books[0].Records, h.Books[1].Records = h.Books[0].Records[:3], h.Books[1].Records[:2]
		}},
		{"completion not recorded", RuleUnrecorded, "t2", func(h *History) {
			h.Books[0].Records, h.Books[1].Records = h.Books[0].Records[:4], h.Books[1].Records[:3]
		}},
		{"exactly_once run again after its lease ended", RuleOnce, "t3", func(h *History) {
			h.Books[0].Records = append(h.Books[0].Records, onceLife("expire", "ready")...)
		}},
		{"impossible step", RuleSteps, "t2", func(h *History) { h.Books[0].Records[4].From = "submitted" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := sound()
			tc.plant(h)
			found := Check(h)
			if !slices.ContainsFunc(found, func(v Violation) bool {
				return v.Rule == tc.rule && (tc.task == "" || strings.Contains(v.String(), tc.task))
			}) {
				t.Errorf("want rule %q for task %q, found %v", tc.rule, tc.task, found)
			}
		})
	}
}
