package ledger

import (
	"strings"
	"testing"
)

// TestWatcherLimit: as many tasks as may be wait for one. The next is refused
// by name: at once by the task's own shard, and when its letter comes if it is
// in another one.
func TestWatcherLimit(t *testing.T) {
	shards := map[uint32]*Tasks{}
	for shard := range uint32(2) {
		shards[shard+1], _ = newTestTasks(t, shard+1, newMemCold())
	}
	index := uint64(0)
	apply := func(shard uint32, c Command) Outcome {
		index++
		o, _ := shards[shard].Apply(At{Index: index, TimeMillis: 1000}, c.Append(nil), nil)
		return o
	}
	declare := func(id TaskID, after ...TaskID) Outcome {
		s := Spec{Fleet: "default", Action: "vet", Target: "go", Guarantee: AtLeastOnce, LeaseMillis: 1000, After: after}
		return apply(id.Shard(), &Declare{ID: id, RequestHash: DeclareHash(&s, &Terms{}), Spec: s})
	}
	on := NewTaskID(1, 1000, 1)
	if o := declare(on); o.Code != OK {
		t.Fatalf("%+v", o)
	}
	for i := range maxWatchers - 1 {
		if o := apply(1, &Watch{ID: on, Dependent: NewTaskID(2, 1000, uint64(i)+10)}); o.Code != OK {
			t.Fatalf("%d: %+v", i, o)
		}
	}
	last, over, away := NewTaskID(1, 1000, 2), NewTaskID(1, 1000, 3), NewTaskID(2, 1000, 4)
	if o := declare(last, on); o.Code != OK || o.State != StateSubmitted {
		t.Fatalf("at the limit: %+v", o)
	}
	if o := declare(over, on); o.Code != TooManyDependents || !strings.Contains(o.Detail, "10000") {
		t.Errorf("one over: %+v", o)
	}
	declare(away, on)
	for _, from := range []uint32{2, 1} { // its letter, and the answer
		for _, l := range shards[from].Outbox(10) {
			c, err := DecodeCommand(l.Command)
			if err != nil {
				t.Fatal(err)
			}
			apply(l.Shard, c)
		}
	}
	if x, _, _ := shards[2].Task(away); x.State != StateFailed || !strings.HasPrefix(x.Error, "too_many_dependents: ") {
		t.Errorf("one over, of another shard: %s %q", x.State, x.Error)
	}
	if x, _, _ := shards[1].Task(last); x.State != StateSubmitted {
		t.Errorf("the one at the limit is %s", x.State)
	}
}

// TestStepLimit: a saga of as many steps as may be ends; one more is refused.
func TestStepLimit(t *testing.T) {
	tasks, _ := newTestTasks(t, 1, newMemCold())
	saga := &Saga{ID: NewTaskID(1, 1000, 1), Fleet: "default", Session: "s", By: "ann", Steps: make([]TaskID, MaxSteps+1)}
	for i := range saga.Steps {
		saga.Steps[i] = NewTaskID(1, 1000, uint64(i)+10)
	}
	if o, _ := tasks.Apply(At{Index: 1, TimeMillis: 1000}, saga.Append(nil), nil); o.Code != Invalid || !strings.Contains(o.Detail, "steps") {
		t.Errorf("one over: %+v", o)
	}
	saga.Steps = saga.Steps[:MaxSteps]
	if o, _ := tasks.Apply(At{Index: 2, TimeMillis: 1000}, saga.Append(nil), nil); o.Code != OK || o.State != StateRolledBack {
		t.Errorf("at the limit: %+v", o)
	}
}
