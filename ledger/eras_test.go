package ledger

import (
	"fmt"
	"os"
	"testing"
)

// TestMain has eras of 16 records, so that every test goes through many.
func TestMain(m *testing.M) {
	eraRecordsBits = 4
	os.Exit(m.Run())
}

// withoutEra makes the rows of an ended task what they were before there were eras.
func withoutEra(t *testing.T, cold *memCold, id TaskID) {
	t.Helper()
	var w row
	name := string(endedKey(id))
	if err := w.decode(id, cold.rows[name]); err != nil {
		t.Fatal(err)
	}
	e := w.entry(new(names))
	era := e.era
	e.era = 0
	cold.rows[name] = e.appendRow(nil)
	cold.write([]KV{{appendKeyKey(nil, 0, &e.key), id[:]}}, [][]byte{appendKeyKey(nil, era, &e.key)})
}

// TestKeysOfAllEras: a key is found in whatever era its row is, also one that was written before there were eras, and its
// row goes when its task is evicted.
func TestKeysOfAllEras(t *testing.T) {
	cold := newMemCold()
	s, _ := newTestTasks(t, 1, cold)
	apply := func(c Command) Outcome {
		o, _ := s.Apply(At{Index: 1, TimeMillis: 1000}, c.Append(nil), nil)
		return o
	}
	checkpoint := func() (meta []byte) {
		meta = s.BeginFreeze()
		puts, deletes, _ := s.FreezeSome(1 << 20)
		if err := uniqueKeys(puts, deletes); err != nil {
			t.Fatal(err)
		}
		cold.write(puts, deletes)
		s.Thaw()
		return meta
	}
	const n = 100
	key := func(i int) Spec {
		sp := testSpec()
		sp.Key = fmt.Sprint("key", i)
		return sp
	}
	id := func(i int) TaskID { return NewTaskID(1, int64(1+i), uint64(i)) }
	var meta []byte
	for i := range n {
		apply(submitOf(id(i), key(i)))
		if o := apply(&Complete{ID: id(i), Agent: "w", Epoch: 1}); o.Code != OK {
			t.Fatal(o)
		}
		if i%10 == 9 {
			meta = checkpoint()
		}
	}
	if len(s.eras) < n/16 {
		t.Fatalf("%d eras", len(s.eras))
	}
	for i := range 10 {
		withoutEra(t, cold, id(i))
	}
	if err := s.Restore(meta); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if o := apply(submitOf(NewTaskID(1, 5000, uint64(i)), key(i))); !o.Replayed || o.ID != id(i) {
			t.Fatalf("key %d: %+v", i, o)
		}
	}
	for i := range n {
		apply(&Evict{BeforeMillis: 2000, IDs: []TaskID{id(i)}})
		if i%3 == 0 { // used again at once, in a later era or the same
			if o := apply(submitOf(NewTaskID(1, 6000, uint64(i)), key(i))); o.Replayed {
				t.Fatalf("key %d is still known: %+v", i, o)
			}
		}
	}
	meta = checkpoint()
	if rows, want := keyRows(cold), (n+2)/3; rows != want {
		t.Errorf("%d rows of keys are left, want %d", rows, want)
	}
	if err := s.Restore(meta); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if o := apply(submitOf(NewTaskID(1, 7000, uint64(i)), key(i))); o.Replayed != (i%3 == 0) {
			t.Errorf("key %d: %+v", i, o)
		}
	}
}

func keyRows(cold *memCold) (n int) {
	for name := range cold.rows {
		if name[0] == prefixKey || name[0] == prefixOldKey {
			n++
		}
	}
	return n
}
