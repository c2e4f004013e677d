package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// panics returns what fn panicked with.
func panics(fn func()) (what string) {
	defer func() {
		if r := recover(); r != nil {
			what = fmt.Sprint(r)
		}
	}()
	fn()
	return ""
}

// TestApplyRefusesToGuess: a log that can't be decoded stops the replica.
func TestApplyRefusesToGuess(t *testing.T) {
	good := (&Due{ID: NewTaskID(1, 1, 1)}).Append(nil)
	for name, b := range map[string][]byte{"nothing": {}, "version": append([]byte{2}, good[1:]...), "kind": append([]byte{1, 99}, good[2:]...),
		"truncated": good[:9], "trailing": append(bytes.Clone(good), 0)} {
		s, j := newTestTasks(t, 1, newMemCold())
		if what := panics(func() { s.Apply(At{Index: 7}, b, nil) }); !strings.Contains(what, "shard 1 entry 7") {
			t.Errorf("%s: a task shard panics with %q", name, what)
		}
		c := NewControl(newMemCold(), j.append)
		if what := panics(func() { c.Apply(At{Index: 7}, b, nil) }); !strings.Contains(what, "control shard entry 7") {
			t.Errorf("%s: the control shard panics with %q", name, what)
		}
	}
	s, _ := newTestTasks(t, 1, newMemCold())
	if what := panics(func() { s.Apply(At{}, append((&Submit{}).Append(nil), 0), nil) }); what == "" {
		t.Error("a submit with a byte behind it was applied")
	}
}

// checkpointed is a shard with a task of each kind in its checkpoint.
func checkpointed(t *testing.T) (*Tasks, *memCold, []byte, []TaskID) {
	cold := newMemCold()
	s, _ := newTestTasks(t, 1, cold)
	var ids []TaskID
	for i := range 3 {
		id := NewTaskID(1, int64(i+1), 9)
		sp := testSpec()
		sp.Key = fmt.Sprint("key", i)
		s.Apply(At{Index: 1, TimeMillis: 5}, submitOf(id, sp).Append(nil), nil)
		ids = append(ids, id)
	}
	s.Apply(At{Index: 2, TimeMillis: 6}, (&Complete{ID: ids[0], Agent: "w", Epoch: 1, Result: []byte("{}")}).Append(nil), nil)
	puts, deletes, meta := s.Freeze()
	cold.write(puts, deletes)
	s.Thaw()
	return s, cold, meta, ids
}

// TestRestoreNoticesDamage: whichever byte of the checkpoint is wrong in form,
// Restore or the reader says so, and never panics or drops a task silently.
func TestRestoreNoticesDamage(t *testing.T) {
	s, cold, meta, ids := checkpointed(t)
	if err := s.Restore(meta); err != nil {
		t.Fatal(err)
	}
	want := s.Digest()
	for i := range meta {
		if err := s.Restore(meta[:i]); err == nil {
			t.Errorf("meta cut to %d bytes is taken", i)
		}
	}
	if err := s.Restore(append(bytes.Clone(meta), 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("meta with a byte behind it: %v", err)
	}
	other := NewTasks(2, cold, func([]byte) {})
	if err := other.Restore(meta); err == nil || !strings.Contains(err.Error(), "shard 1") {
		t.Errorf("another shard's checkpoint: %v", err)
	}
	for key, value := range cold.rows {
		if key[0] != prefixOpen {
			continue
		}
		for i := range value {
			cold.rows[key] = value[:i]
			if err := s.Restore(meta); !errors.Is(err, ErrMalformed) {
				t.Errorf("row cut to %d bytes: %v", i, err)
			}
		}
		cold.rows[key] = append([]byte{9}, value[1:]...)
		if err := s.Restore(meta); err == nil || !strings.Contains(err.Error(), "version 9") {
			t.Errorf("row of version 9: %v", err)
		}
		cold.rows[key] = value
	}
	lost := string(appendRowKey(nil, prefixOpen, (*[16]byte)(&ids[1])))
	row := cold.rows[lost]
	cold.write(nil, [][]byte{[]byte(lost)})
	if err := s.Restore(meta); err == nil || !strings.Contains(err.Error(), "1 tasks are ready, meta says 2") {
		t.Errorf("a row is missing: %v", err)
	}
	cold.write([]KV{{[]byte(lost), row}, {[]byte("o"), nil}}, nil)
	if err := s.Restore(meta); !errors.Is(err, ErrMalformed) {
		t.Errorf("a row's key is short: %v", err)
	}
	cold.write([]KV{{[]byte("kx"), nil}}, [][]byte{[]byte("o")})
	if err := s.Restore(meta); !errors.Is(err, ErrMalformed) {
		t.Errorf("a key's key is short: %v", err)
	}
	cold.write([]KV{{[]byte("nx"), nil}}, [][]byte{[]byte("kx")})
	if err := s.Restore(meta); !errors.Is(err, ErrMalformed) {
		t.Errorf("a key's key with an era is short: %v", err)
	}
	cold.write(nil, [][]byte{[]byte("nx")})
	cold.fail = errDisk
	if err := s.Restore(meta); !errors.Is(err, errDisk) {
		t.Errorf("a disk that fails: %v", err)
	}
	cold.fail = nil
	if err := s.Restore(meta); err != nil || s.Digest() != want {
		t.Errorf("mended: %v", err)
	}
}

// TestColdDamage: readers get an error, Apply stops the replica.
func TestColdDamage(t *testing.T) {
	s, cold, _, ids := checkpointed(t)
	ended := string(endedKey(ids[0]))
	row := cold.rows[ended]
	late := (&Complete{ID: ids[0], Agent: "w", Epoch: 1}).Append(nil)
	sp := testSpec()
	sp.Key = "key0"
	again := submitOf(NewTaskID(1, 99, 1), sp).Append(nil)
	for name, harm := range map[string]func(){
		"disk": func() { cold.fail = errDisk },
		"row":  func() { cold.rows[ended] = row[:10] },
		"a key": func() {
			cold.rows[string(appendKeyKey(nil, 1, new(keyHash([]byte("default"), []byte("key0")))))] = []byte("short")
		},
		"no row":   func() { delete(cold.rows, ended) },
		"bad spec": func() { cold.rows[ended] = append(bytes.Clone(row[:len(row)-1]), 1) },
	} {
		keep := map[string][]byte{}
		for k, v := range cold.rows {
			keep[k] = v
		}
		harm()
		_, ok, err := s.Task(ids[0])
		_, lerr := s.List(Query{})
		switch name {
		case "no row":
			if ok || err != nil {
				t.Errorf("%s: %v %v", name, ok, err)
			}
		case "a key":
			if !ok || err != nil {
				t.Errorf("%s: %v %v", name, ok, err)
			}
		default:
			if err == nil || lerr == nil {
				t.Errorf("%s: Task says %v, List %v", name, err, lerr)
			}
			if what := panics(func() { s.Apply(At{}, late, nil) }); !strings.HasPrefix(what, "ledger: shard 1") {
				t.Errorf("%s: Apply panics with %q", name, what)
			}
		}
		if what := panics(func() { s.Apply(At{}, again, nil) }); !strings.HasPrefix(what, "ledger: shard 1") {
			t.Errorf("%s: Apply of a known key panics with %q", name, what)
		}
		cold.rows, cold.fail = keep, nil
	}
}

// TestControlRestoreNoticesDamage does the same to the control shard.
func TestControlRestoreNoticesDamage(t *testing.T) {
	cold := newMemCold()
	c := NewControl(cold, func([]byte) {})
	for _, x := range fullCommands()[9:13] {
		c.Apply(At{Index: 1}, x.Append(nil), nil)
	}
	c.Apply(At{}, (&NodeRemove{RaftID: 2}).Append(nil), nil)
	puts, deletes, meta := c.Freeze()
	cold.write(puts, deletes)
	if err := c.Restore(meta); err != nil || len(cold.rows) != 4 {
		t.Fatalf("%v, %d rows", err, len(cold.rows))
	}
	for i := range meta {
		if c.Restore(meta[:i]) == nil {
			t.Errorf("meta cut to %d bytes is taken", i)
		}
	}
	for key, value := range cold.rows {
		for i := range value {
			cold.rows[key] = value[:i]
			if err := c.Restore(meta); !errors.Is(err, ErrMalformed) {
				t.Errorf("row %q cut to %d bytes: %v", key, i, err)
			}
		}
		cold.rows[key] = value
	}
	cold.write([]KV{{[]byte("z"), []byte{rowVersion}}}, nil)
	if err := c.Restore(meta); !errors.Is(err, ErrMalformed) {
		t.Errorf("an unknown row: %v", err)
	}
	if len(c.Nodes())+len(c.Agents()) != 0 || c.Head() != NewChain(ControlShard) {
		t.Error("a failed Restore left state behind")
	}
	cold.write([]KV{{[]byte("az"), cold.rows["aw1"]}}, [][]byte{[]byte("z")})
	if err := c.Restore(meta); !errors.Is(err, ErrMalformed) {
		t.Errorf("a row under another's key: %v", err)
	}
}

// TestReadersAreConcurrent runs every reading method beside each other, and
// beside Apply under the callers' lock. It is for the race detector.
func TestReadersAreConcurrent(t *testing.T) {
	s, _, _, ids := checkpointed(t)
	var mu sync.RWMutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				mu.RLock()
				for _, id := range ids {
					if _, ok, err := s.Task(id); !ok || err != nil {
						t.Error(ok, err)
					}
				}
				if l, err := s.List(Query{Agent: "w", Session: ""}); len(l) < 1 || err != nil {
					t.Error(len(l), err)
				}
				s.Live(func(Brief) bool { return true })
				s.Digest()
				_, _, _ = s.Counts(), s.Head(), s.NowMillis()
				mu.RUnlock()
			}
		})
	}
	for i := range 200 {
		mu.Lock()
		id := NewTaskID(1, int64(1000+i), uint64(i))
		s.Apply(At{Index: uint64(i)}, submitOf(id, testSpec()).Append(nil), nil)
		s.Apply(At{Index: uint64(i)}, (&Complete{ID: id, Agent: "w", Epoch: 1}).Append(nil), nil)
		mu.Unlock()
	}
	wg.Wait()
}

// TestScanIsBounded: one step looks at a bounded number of tasks, wherever
// they are, and steps together show everything once.
func TestScanIsBounded(t *testing.T) {
	cold := newMemCold()
	s, _ := newTestTasks(t, 1, cold)
	const n = 3*scanTasks + 5
	for i := range n {
		id := NewTaskID(1, int64(i), uint64(i))
		s.Apply(At{Index: 1}, submitOf(id, testSpec()).Append(nil), nil)
		if i%3 > 0 {
			s.Apply(At{Index: 1}, (&Complete{ID: id, Agent: "w", Epoch: 1}).Append(nil), nil)
		}
		if i == n/2 {
			puts, deletes, _ := s.Freeze()
			cold.write(puts, deletes)
			s.Thaw()
		}
	}
	seen, steps := 0, 0
	for q := (Query{States: []State{StateCompleted}}); ; steps++ {
		p, err := s.Scan(q)
		if err != nil || len(p.Tasks) > scanTasks {
			t.Fatal(len(p.Tasks), err)
		}
		seen += len(p.Tasks)
		if !p.More {
			break
		}
		if p.Next.Compare(q.After) <= 0 {
			t.Fatal("a step did not get on")
		}
		q.After = p.Next
	}
	if want := n - (n+2)/3; seen != want || steps != 3 {
		t.Errorf("%d tasks in %d steps, want %d in 3", seen, steps, want)
	}
	p, err := s.Scan(Query{Agent: "nobody"})
	if err != nil || len(p.Tasks) != 0 || !p.More {
		t.Errorf("a step that finds nothing: %+v, %v", p, err)
	}
	for _, limit := range []int{1, scanTasks, scanTasks + 1, n, n + 1} {
		if l, err := s.List(Query{Limit: limit}); len(l) != min(limit, n) || err != nil {
			t.Errorf("limit %d: %d tasks, %v", limit, len(l), err)
		}
	}
}

// TestFreezeTwice: a Freeze whose Thaw never came loses nothing.
func TestFreezeTwice(t *testing.T) {
	cold := newMemCold()
	s, _ := newTestTasks(t, 1, cold)
	for i := range 4 {
		id := NewTaskID(1, int64(i), 1)
		s.Apply(At{Index: 1}, submitOf(id, testSpec()).Append(nil), nil)
		s.Apply(At{Index: 1}, (&Complete{ID: id, Agent: "w", Epoch: 1}).Append(nil), nil)
		s.Apply(At{Index: 1}, (&Refused{ID: id, Agent: "w", Epoch: 1, Code: StaleLease}).Append(nil), nil)
		puts, deletes, _ := s.Freeze()
		cold.write(puts, deletes)
		checkInvariants(t, s)
	}
	s.Thaw()
	s.Thaw()
	checkInvariants(t, s)
	if l := checkList(t, s, Query{}); len(l) != 4 || s.slab.used != 0 {
		t.Errorf("%d tasks, %d in memory", len(l), s.slab.used)
	}
}

// TestAllocations holds what a lifecycle allocates: the spec and the result.
func TestAllocations(t *testing.T) {
	log := benchLog(2000, true)
	s, _ := newTestTasks(t, 1, newMemCold())
	s.journal.sink = func([]byte) {}
	events := make([]Event, 0, 4)
	i := 0
	got := testing.AllocsPerRun(1500, func() {
		for range 2 {
			_, events = s.Apply(At{Index: 1, TimeMillis: 1}, log[i], events[:0])
			i++
		}
	})
	if got > 2.5 {
		t.Errorf("%.1f allocations a lifecycle, want 2", got)
	}
}
