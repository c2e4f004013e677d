package ledger

import "testing"

// TestColdHooks: erasing a task and trying a hook again look for another task each; both may have left memory.
func TestColdHooks(t *testing.T) {
	cold := newMemCold()
	s, _ := newTestTasks(t, 1, cold)
	apply := func(c Command) Outcome {
		t.Helper()
		o, _ := s.Apply(At{Index: 1, TimeMillis: 1000}, c.Append(nil), nil)
		return o
	}
	checkpoint := func() {
		puts, deletes, _ := s.Freeze()
		cold.write(puts, deletes)
		s.Thaw()
	}
	spec := testSpec()
	spec.Guarantee, spec.Key, spec.Input = ExactlyOnce, "k", []byte(`"secret"`)
	terms := Terms{Self: true, Rollback: Hook{Action: "undo", Target: "it"}}
	id := NewTaskID(1, 1, 1)
	if o := apply(&Declare{ID: id, RequestHash: DeclareHash(&spec, &terms), Spec: spec, Terms: terms, Agent: "w", Node: "n"}); o.Code != OK {
		t.Fatal(o)
	}
	x, _, _ := s.Task(id)
	if o := apply(&Complete{ID: id, Agent: "w", Epoch: x.Epoch, Result: []byte(`"made"`)}); o.Code != OK {
		t.Fatal(o)
	}
	if o := apply(&Rollback{ID: id, By: "someone"}); o.Code != OK {
		t.Fatal(o)
	}
	x, _, _ = s.Task(id)
	hook := x.Txn.Rollback
	if o := apply(&Complete{ID: hook, Agent: "w", Epoch: 1 << 32}); o.Code != OK {
		t.Fatal(o)
	}
	checkpoint()
	if o := apply(&Retry{ID: hook, By: "someone"}); o.Code != BadState || o.ID != hook {
		t.Errorf("a hook that nothing waits for is tried again: %+v", o)
	}
	if o := apply(&Erase{ID: id, By: "someone"}); o.Code != OK || o.ID != id {
		t.Fatalf("erased: %+v", o)
	}
	for _, id := range []TaskID{id, hook} {
		x, ok, err := s.Task(id)
		if !ok || err != nil || x.ID != id || len(x.Spec.Input)+len(x.Spec.Context)+len(x.Result) > 0 {
			t.Errorf("%s: %v %v: input %s, context %s, result %s", id, ok, err, x.Spec.Input, x.Spec.Context, x.Result)
		}
	}
	checkInvariants(t, s)
}
