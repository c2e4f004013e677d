package ledger

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// graph is the simple reference of tasks that wait for one another, over
// shards: what becomes of them, and whose a key is.
type graph struct {
	shards map[uint32]*Tasks
	cold   map[uint32]*memCold
	index  uint64
	now    int64
	tasks  []*vertex
}

// vertex is a task of the reference.
type vertex struct {
	id    TaskID
	key   string
	work  string // two declarations of one key are the same request if this and the rest are
	waits []*vertex
	skip  bool
	state State
	gone  bool // evicted
}

func (g *graph) apply(shard uint32, c Command) Outcome {
	g.index++
	o, _ := g.shards[shard].Apply(At{Index: g.index, TimeMillis: g.now}, c.Append(nil), nil)
	return o
}

// deliver carries letters until there are none. Some arrive twice.
func (g *graph) deliver(t *rapid.T) {
	for moved := true; moved; {
		moved = false
		for from := range uint32(2) {
			for _, l := range g.shards[from+1].Outbox(3) {
				c, err := DecodeCommand(l.Command)
				if err != nil {
					t.Fatal(err)
				}
				for range 1 + rapid.IntRange(0, 1).Draw(t, "again") {
					g.apply(l.Shard, c)
				}
				g.apply(from+1, &Ack{Seqs: []uint64{l.Seq}})
				moved = true
			}
		}
	}
}

// restart writes a checkpoint and reads it back.
func (g *graph) restart(t *rapid.T, shard uint32) {
	s := g.shards[shard]
	puts, deletes, meta := s.Freeze()
	g.cold[shard].write(puts, deletes)
	s.Thaw()
	again := NewTasks(shard, g.cold[shard], func([]byte) {})
	if err := again.Restore(meta); err != nil {
		t.Fatal(err)
	}
	g.shards[shard] = again
}

// settle is what the end of tasks means for those that wait.
func (g *graph) settle() {
	for changed := true; changed; {
		changed = false
		for _, v := range g.tasks {
			if v.state != StateSubmitted {
				continue
			}
			lost := slices.ContainsFunc(v.waits, func(w *vertex) bool { return w.gone || w.state.Terminal() && w.state != StateCompleted })
			v.waits = slices.DeleteFunc(v.waits, func(w *vertex) bool { return !w.gone && w.state == StateCompleted })
			switch {
			case lost && v.skip:
				v.state, changed = StateCancelled, true
			case lost:
				v.state, changed = StateFailed, true
			case len(v.waits) == 0:
				v.state, changed = StateReady, true
			}
		}
	}
}

// declare declares a task that waits for some of those before it; its key may
// be another's.
func (g *graph) declare(t *rapid.T) {
	v := &vertex{key: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "key"), work: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "work"), state: StateSubmitted}
	shard := uint32(1)
	if v.key == "b" || v.key == "" && rapid.Bool().Draw(t, "shard") {
		shard = 2
	}
	v.id = NewTaskID(shard, g.now, uint64(len(g.tasks)+1))
	s := testSpec()
	s.Key, s.Input, s.Retry = v.key, []byte(v.work), RetryPolicy{}
	missing := false
	if len(g.tasks) > 0 && v.key == "" {
		for range rapid.IntRange(0, 3).Draw(t, "waits") {
			w := rapid.SampledFrom(g.tasks).Draw(t, "for")
			v.waits = append(v.waits, w)
			s.After = append(s.After, w.id)
			missing = missing || w.gone && w.id.Shard() == shard
		}
		v.skip = rapid.Bool().Draw(t, "skip")
	}
	terms := Terms{SkipDependents: v.skip}
	o := g.apply(shard, &Declare{ID: v.id, RequestHash: DeclareHash(&s, &terms), Spec: s, Terms: terms})
	at := slices.IndexFunc(g.tasks, func(w *vertex) bool { return v.key != "" && w.key == v.key && !w.gone })
	switch {
	case at >= 0 && g.tasks[at].work != v.work:
		if o.Code != KeyReused {
			t.Fatalf("key %s for another request: %+v", v.key, o)
		}
	case at >= 0:
		if o.Code != OK || !o.Replayed || o.ID != g.tasks[at].id || o.State != g.tasks[at].state {
			t.Fatalf("key %s again: %+v, want task %s, %s", v.key, o, g.tasks[at].id, g.tasks[at].state)
		}
	case missing:
		if o.Code != DependencyMissing {
			t.Fatalf("after a task that is not there: %+v", o)
		}
	default:
		if o.Code != OK || o.Replayed {
			t.Fatalf("declared: %+v", o)
		}
		g.tasks = append(g.tasks, v)
	}
}

// end ends a task, or tries to.
func (g *graph) end(t *rapid.T) {
	v := rapid.SampledFrom(g.tasks).Draw(t, "task")
	want, to := OK, StateCompleted
	var c Command = &Complete{ID: v.id, Agent: "w", Epoch: 1, Result: []byte("1")}
	switch rapid.IntRange(0, 3).Draw(t, "how") {
	case 0:
		c, to = &Fail{ID: v.id, Agent: "w", Epoch: 1}, StateFailed
	case 1:
		c, to = &Cancel{ID: v.id, By: "ann"}, StateCancelled
	}
	_, cancel := c.(*Cancel)
	switch {
	case v.gone:
		want = NotFound
	case cancel && v.state == StateSubmitted, v.state == StateReady:
		defer func() { v.state = to }()
	default:
		want = ^OK // refused, or repeated: its state says
	}
	before := v.state
	o := g.apply(v.id.Shard(), c)
	if want != ^OK && o.Code != want || want == ^OK && o.Code == OK && !o.Replayed {
		t.Fatalf("%T of a task that is %s (gone %v): %+v", c, before, v.gone, o)
	}
}

func (g *graph) evict(t *rapid.T) {
	v := rapid.SampledFrom(g.tasks).Draw(t, "task")
	g.apply(v.id.Shard(), &EvictSettled{BeforeMillis: g.now + 1, IDs: []TaskID{v.id}})
	v.gone = v.gone || v.state.Terminal()
}

// TestGraphModel runs random commands over two shards that lose letters to
// nobody but may get them twice, and are restarted, beside the reference.
func TestGraphModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &graph{shards: map[uint32]*Tasks{}, cold: map[uint32]*memCold{}, now: 1000}
		for shard := range uint32(2) {
			g.cold[shard+1] = newMemCold()
			g.shards[shard+1] = NewTasks(shard+1, g.cold[shard+1], func([]byte) {})
			if err := g.shards[shard+1].Restore(nil); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			g.now++
			switch k := rapid.IntRange(0, 9).Draw(t, "command"); {
			case k < 4 || len(g.tasks) == 0:
				g.declare(t)
			case k < 8:
				g.end(t)
			case k == 8:
				g.evict(t)
			default:
				g.restart(t, 1+uint32(rapid.IntRange(0, 1).Draw(t, "restarted")))
			}
			g.deliver(t)
			g.settle()
			for _, v := range g.tasks {
				now, ok, err := g.shards[v.id.Shard()].Task(v.id)
				if err != nil || ok == v.gone || ok && now.State != v.state {
					t.Fatalf("task %s: %s there=%v (%v), the model says %s gone=%v", v.id, now.State, ok, err, v.state, v.gone)
				}
			}
		}
	})
}
