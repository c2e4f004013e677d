package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
	"testing"
)

// memCold is a checkpoint in memory. It counts reads, and fails when told to.
type memCold struct {
	keys []string // sorted
	rows map[string][]byte
	gets atomic.Int64
	fail error
}

func newMemCold() *memCold { return &memCold{rows: map[string][]byte{}} }

func (c *memCold) Get(key []byte) ([]byte, bool, error) {
	c.gets.Add(1)
	v, ok := c.rows[string(key)]
	return bytes.Clone(v), ok, c.fail
}

func (c *memCold) Scan(from, to []byte, fn func(key, value []byte) bool) error {
	if c.fail != nil {
		return c.fail
	}
	for i := sort.SearchStrings(c.keys, string(from)); i < len(c.keys) && (to == nil || c.keys[i] < string(to)); i++ {
		v := bytes.Clone(c.rows[c.keys[i]]) // a copy that is scribbled over, as a store may do
		ok := fn([]byte(c.keys[i]), v)
		for k := range v {
			v[k] = 0xee
		}
		if !ok {
			return nil
		}
	}
	return nil
}

// write is what the store does between Freeze and Thaw.
func (c *memCold) write(puts []KV, deletes [][]byte) {
	for _, kv := range puts {
		c.rows[string(kv.Key)] = bytes.Clone(kv.Value)
	}
	for _, k := range deletes {
		delete(c.rows, string(k))
	}
	c.keys = c.keys[:0]
	for k := range c.rows {
		c.keys = append(c.keys, k)
	}
	slices.Sort(c.keys)
}

// uniqueKeys fails when a key is written twice or both written and deleted.
func uniqueKeys(puts []KV, deletes [][]byte) error {
	seen := map[string]bool{}
	for _, kv := range puts {
		deletes = append(deletes, kv.Key)
	}
	for _, k := range deletes {
		if seen[string(k)] {
			return fmt.Errorf("key %q twice in one Freeze", k)
		}
		seen[string(k)] = true
	}
	return nil
}

var errDisk = errors.New("disk on fire")

// memJournal collects journal records.
type memJournal struct{ records [][]byte }

func (j *memJournal) append(b []byte) { j.records = append(j.records, bytes.Clone(b)) }

// checkChain verifies a whole journal against a head.
func checkChain(t testing.TB, shard uint32, records [][]byte, head Head) []*Record {
	t.Helper()
	h := NewChain(shard)
	var out []*Record
	for _, b := range records {
		next, r, body, err := VerifyChain(shard, h, b)
		if err != nil {
			t.Fatal(err)
		}
		if again := appendAs(body[0], r); !bytes.Equal(again, body) {
			t.Fatalf("record %d does not encode to its own bytes", r.Seq)
		}
		h = next
		out = append(out, r)
	}
	if err := h.Reaches(shard, head); err != nil {
		t.Fatal(err)
	}
	return out
}

// appendAs encodes a record in a version.
func appendAs(version byte, r *Record) []byte {
	if version == recordVersion1 {
		return r.appendV1(nil)
	}
	return r.Append(nil)
}

func newTestTasks(t testing.TB, shard uint32, cold Cold) (*Tasks, *memJournal) {
	t.Helper()
	j := new(memJournal)
	s := NewTasks(shard, cold, j.append)
	if err := s.Restore(nil); err != nil {
		t.Fatal(err)
	}
	return s, j
}

func testSpec() Spec {
	return Spec{Fleet: "default", Action: "vet", Target: "go", Priority: PriorityNormal, Guarantee: AtLeastOnce, LeaseMillis: 60_000,
		Retry: RetryPolicy{MaxRetries: 3, InitialDelayMillis: 1000, MaxDelayMillis: 60_000}}
}

func submitOf(id TaskID, s Spec) *Submit {
	return &Submit{ID: id, RequestHash: RequestHash(&s), Spec: s}
}

// checkInvariants walks the whole of a Tasks' memory.
func checkInvariants(t testing.TB, s *Tasks) {
	t.Helper()
	var last TaskID
	var open [NumStates]uint64
	n, keys, specs := 0, 0, 0
	for w := s.order.from(TaskID{}); ; w.next() {
		it, ok := w.peek()
		if !ok {
			break
		}
		e := s.slab.at(it.place)
		if e.id != it.id || last.Compare(it.id) >= 0 {
			t.Fatalf("order: %s after %s, entry says %s", it.id, last, e.id)
		}
		if got := s.byID.find((*[16]byte)(&e.id)); got != it.place {
			t.Fatalf("task %s is at %d, its table says %d", e.id, it.place, got)
		}
		if e.key != ([16]byte{}) {
			keys++
			if got := s.byKey.find(&e.key); got != it.place {
				t.Fatalf("the key of %s is at %d, its table says %d", e.id, it.place, got)
			}
		}
		if e.state.Terminal() != (e.completed != 0) && e.updated != 0 {
			t.Fatalf("task %s is %s, completed at %d", e.id, e.state, e.completed)
		}
		last = it.id
		specs += len(e.spec)
		if !e.evicted() {
			open[e.state]++
		}
		n++
	}
	if n != s.slab.used || n != s.byID.count() || keys != s.byKey.count() {
		t.Fatalf("%d listed, %d in slab, %d by ID; %d keys, %d by key", n, s.slab.used, s.byID.count(), keys, s.byKey.count())
	}
	if tasks, bytes := s.InMemory(); tasks != n || bytes != specs {
		t.Fatalf("%d tasks with specs of %d bytes in memory, counted %d and %d", n, specs, tasks, bytes)
	}
	for st, k := range open {
		if c := s.counts[st]; !State(st).Terminal() && c != k || c < k {
			t.Fatalf("%d tasks %s in memory, counted %d", k, State(st), c)
		}
	}
}
