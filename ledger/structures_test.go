package ledger

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// TestTableAndOrder drives the hash tables and the order against plain maps
// and slices.
func TestTableAndOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s slab
	byID := newTable(&s, false)
	var o order
	model := map[TaskID]uint32{}
	var ids []TaskID
	for round := range 60 {
		for range r.IntN(400) {
			id := NewTaskID(1, int64(round*100)+r.Int64N(500), r.Uint64())
			i, e := s.take()
			e.id = id
			byID.add(i)
			o.add(id, i)
			model[id] = i
			ids = append(ids, id)
		}
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		drop := r.IntN(len(ids) + 1)
		if round%7 == 0 {
			drop = len(ids)
		}
		for _, id := range ids[:drop] {
			i := byID.find((*[16]byte)(&id))
			if i != model[id] {
				t.Fatalf("%s at %d, want %d", id, i, model[id])
			}
			byID.remove(i)
			o.drop(id)
			s.put(i)
			delete(model, id)
		}
		o.sweep(func(place uint32, _ TaskID) bool { return s.at(place).flags&flagUnused == 0 })
		gone := ids[:drop]
		ids = ids[drop:]
		for _, id := range gone {
			if byID.find((*[16]byte)(&id)) != 0 {
				t.Fatalf("%s is still there", id)
			}
		}
		want := slices.Clone(ids)
		slices.SortFunc(want, TaskID.Compare)
		for _, from := range append([]TaskID{{}, NewTaskID(1, int64(round*100), 1<<63)}, want...) {
			k, _ := slices.BinarySearchFunc(want, from, func(a, b TaskID) int {
				if a.Compare(b) <= 0 {
					return -1
				}
				return 1
			})
			w := o.from(from)
			for n := 0; n < 5; n++ {
				it, ok := w.peek()
				if ok != (k+n < len(want)) || ok && (it.id != want[k+n] || it.place != model[it.id]) {
					t.Fatalf("round %d: item %d behind %s: %v %v", round, n, from, it, ok)
				}
				w.next()
			}
		}
		if byID.count() != len(model) || s.used != len(model) {
			t.Fatalf("%d in the table, %d in the slab, want %d", byID.count(), s.used, len(model))
		}
	}
}

// TestBloom: nothing that was entered is denied; of the rest few are not.
func TestBloom(t *testing.T) {
	var f bloom
	name := func(i uint64) *[16]byte {
		id := NewTaskID(1, int64(i/100), mix(i, 77))
		return (*[16]byte)(&id)
	}
	const n = 3 * bloomFirstNames
	if f.mayHave(name(1)) {
		t.Fatal("an empty filter has a name")
	}
	for i := range uint64(n) {
		f.add(name(i))
	}
	for i := range uint64(n) {
		if !f.mayHave(name(i)) {
			t.Fatalf("name %d was entered", i)
		}
	}
	wrong := 0
	for i := range uint64(n) {
		if f.mayHave(name(n + i)) {
			wrong++
		}
	}
	if limit := n * 5 / 1000; wrong > limit {
		t.Errorf("%d of %d absent names seem there, want at most %d", wrong, n, limit)
	}
	if len(f.layers) != 2 {
		t.Errorf("%d layers", len(f.layers))
	}
	// The name that begins a layer of megabytes takes no more memory than others.
	grown := bloom{layers: []bloomLayer{{mask: 1<<19 - 1}}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	grown.add(new([16]byte))
	if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 256<<10 || grown.layers[1].room < 4*bloomBlockNames<<19-1 {
		t.Errorf("%d bytes for a name; the next layer has room for %d", after.TotalAlloc-before.TotalAlloc, grown.layers[1].room)
	}
}

func TestTaskIDs(t *testing.T) {
	id := NewTaskID(0xfffe, 1<<48-1, 1)
	if id.Shard() != 0xfffe || id.Millis() != 1<<48-1 || id.IsZero() || NewTaskID(0, 0, 0) != (TaskID{}) {
		t.Error("parts of an ID")
	}
	s := id.String()
	if len(s) != 27 || s[0] != 't' {
		t.Errorf("%q", s)
	}
	if got, err := ParseTaskID(s); got != id || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "t", s[:26], s + "0", "x" + s[1:], "T" + s[1:], s[:26] + "1", s[:26] + "w", s[:5] + "\n" + s[6:], s[:5] + "A" + s[6:]} {
		if got, err := ParseTaskID(bad); err == nil || got != (TaskID{}) {
			t.Errorf("%q: %v", bad, got)
		}
	}
	b, err := id.MarshalText()
	var again TaskID
	if err != nil || again.UnmarshalText(b) != nil || again != id {
		t.Errorf("%s: %v", b, err)
	}
	if NewTaskID(1, 5, 9).Compare(NewTaskID(1, 6, 0)) >= 0 || NewTaskID(2, 0, 0).Compare(NewTaskID(1, 1<<47, 0)) <= 0 {
		t.Error("order")
	}
}

// TestWords: every word parses back, and none is empty.
func TestWords(t *testing.T) {
	l5 := "SUBMITTED SUBMITTED SUBMITTED ASSIGNED IN_PROGRESS COMPLETED FAILED CANCELLED TIMED_OUT IN_PROGRESS FAILED FAILED "
	l7 := "INTENDED INTENDED APPROVED APPROVED EXECUTING COMPLETED FAILED FAILED FAILED EXECUTING ROLLING_BACK ROLLED_BACK "
	got5, got7, terminal := "", "", ""
	for s := StateSubmitted; s.String() != ""; s++ {
		if p, err := ParseState(s.String()); p != s || err != nil {
			t.Errorf("%v, %v", p, err)
		}
		got5, got7 = got5+s.L5()+" ", got7+s.L7()+" "
		if s.Terminal() {
			terminal += s.String() + " "
		}
	}
	if got5 != l5 || got7 != l7 || terminal != "completed failed cancelled timed_out rolled_back " {
		t.Errorf("\n%s\n%s\n%s", got5, got7, terminal)
	}
	for p := PriorityLow; p <= PriorityCritical; p++ {
		if x, err := ParsePriority(p.String()); x != p || err != nil {
			t.Errorf("%v, %v", x, err)
		}
	}
	for i, alias := range []string{"atp-1", "atp-2", "atp-3"} {
		g := BestEffort + Guarantee(i)
		x, err := ParseGuarantee(g.String())
		y, err2 := ParseGuarantee(alias)
		if x != g || y != g || err != nil || err2 != nil {
			t.Errorf("%v %v %v", g, x, y)
		}
	}
	for b := BackoffExponential; b <= BackoffFixed; b++ {
		if x, err := ParseBackoff(b.String()); x != b || err != nil {
			t.Errorf("%v, %v", x, err)
		}
	}
	_, e1 := ParseState("")
	_, e2 := ParsePriority("urgent")
	_, e3 := ParseGuarantee("")
	_, e4 := ParseBackoff("none")
	if e1 == nil || e2 == nil || e3 == nil || e4 == nil {
		t.Error("a word that is none was taken")
	}
	if StateCompleted.Terminal() && State(200).String()+State(200).L5()+Priority(9).String()+Code(200).String()+AgentStatus(9).String()+Reason(9).String() != "" {
		t.Error("a number that is no word has a name")
	}
}

// TestDelays: the whole range, without overflow.
func TestDelays(t *testing.T) {
	for _, c := range []struct {
		p    RetryPolicy
		n    uint32
		want int64
	}{
		{RetryPolicy{InitialDelayMillis: 1000, MaxDelayMillis: 60_000}, 1, 1000},
		{RetryPolicy{InitialDelayMillis: 1000, MaxDelayMillis: 60_000}, 6, 32_000},
		{RetryPolicy{InitialDelayMillis: 1000, MaxDelayMillis: 60_000}, 7, 60_000},
		{RetryPolicy{InitialDelayMillis: 1000, MaxDelayMillis: 60_000}, 1 << 31, 60_000},
		{RetryPolicy{InitialDelayMillis: 5000, MaxDelayMillis: 1000}, 1, 1000},
		{RetryPolicy{InitialDelayMillis: 1}, 1 << 31, maxDelayMillis},
		{RetryPolicy{InitialDelayMillis: 1 << 62}, 2, maxDelayMillis},
		{RetryPolicy{InitialDelayMillis: 0, MaxDelayMillis: 5}, 9, 0},
		{RetryPolicy{Backoff: BackoffLinear, InitialDelayMillis: 1000}, 7, 7000},
		{RetryPolicy{Backoff: BackoffLinear, InitialDelayMillis: 1 << 40}, 1<<32 - 1, maxDelayMillis},
		{RetryPolicy{Backoff: BackoffFixed, InitialDelayMillis: 1000, MaxDelayMillis: 60_000}, 50, 1000},
	} {
		if got := c.p.delayMillis(c.n); got != c.want {
			t.Errorf("%+v after %d: %d ms, want %d", c.p, c.n, got, c.want)
		}
	}
}
