package chaos

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
)

// acted is a history of one action that ended in a state.
func acted(key, state string, effects ...Effect) *History {
	return &History{
		Submissions: []Submission{{Span: Span{1, 2}, Key: key, TaskID: "t1", Answer: Acked}},
		Sights:      []Sight{{NodeID: "n1", TaskID: "t1", State: state}},
		Effects:     effects,
	}
}

// TestEffectsAreJudged: what the counter may say, by how an action ended.
func TestEffectsAreJudged(t *testing.T) {
	one, undo := Effect{Key: "undo/1-1"}, Effect{Key: "undo/1-1", Undo: true}
	for name, c := range map[string]struct {
		h    *History
		want string // of the violation; empty: none
	}{
		"completed":                    {acted(one.Key, "completed", one), ""},
		"rolled back":                  {acted(one.Key, "rolled_back", one, undo), ""},
		"rolled back before it was":    {acted(one.Key, "rolled_back", undo, undo), ""},
		"failed without an effect":     {acted(one.Key, "failed"), ""},
		"twice":                        {acted(one.Key, "completed", one, one), "happened 2 times"},
		"completed without an effect":  {acted(one.Key, "completed"), "nothing happened"},
		"rolled back, never undone":    {acted(one.Key, "rolled_back", one), "nobody undid it"},
		"failed with an effect":        {acted(one.Key, "failed", one), "and it happened"},
		"an effect without a task":     {acted("undo/2-2", "failed", one), "no node shows its task"},
		"a task that is not an action": {acted("s1-1", "completed"), ""},
	} {
		found := Check(c.h)
		if c.want == "" && len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
		if c.want != "" && !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == RuleEffect && strings.Contains(v.Detail, c.want) }) {
			t.Errorf("%s: %v, want %q", name, found, c.want)
		}
	}
}

// TestLyingVerifierIsCaught plants the mistake the whole protocol is against:
// what is in doubt is repeated although it happened.
func TestLyingVerifierIsCaught(t *testing.T) {
	var out bytes.Buffer
	rep, err := Run(t.Context(), RunConfig{Binary: binary(t), Seed: 5, Duration: 4 * time.Second, Out: &out, lie: true})
	if err == nil || !slices.ContainsFunc(rep.Violations, func(v Violation) bool { return v.Rule == RuleEffect && strings.Contains(v.Detail, "happened 2 times") }) {
		t.Errorf("a verifier that lies was not caught: %v\n%s", err, out.String())
	}
}

// TestForgottenLease: a leader can't know what its predecessor gave without
// telling the log; the one that gave it does.
func TestForgottenLease(t *testing.T) {
	id := ledger.NewTaskID(1, 1, 1).String()
	epoch := func(term, n uint64) uint64 { return term<<ledger.EpochTermShift | n }
	h := func(next uint64) *History {
		return &History{
			Grants: []Grant{{Span: Span{1, 2}, TaskID: id, AgentID: "a", Epoch: epoch(3, 1)}, {Span: Span{3, 4}, TaskID: id, AgentID: "b", Epoch: epoch(4, 1)},
				{Span: Span{9, 10}, TaskID: ledger.NewTaskID(1, 1, 2).String(), AgentID: "b", Epoch: epoch(next, 1)}},
			Settlings: []Settling{{Span: Span{5, 6}, TaskID: id, AgentID: "a", Epoch: epoch(3, 1), Verdict: "complete", State: "completed", Answer: Acked}},
		}
	}
	if found := Check(h(5)); len(found) > 0 {
		t.Errorf("with a third leader: %v", found)
	}
	if found := Check(h(4)); !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == RuleStale }) {
		t.Errorf("accepted by the leader that gave it to somebody else: %v", found)
	}
}
