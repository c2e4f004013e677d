package ledger

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

var (
	seedFlag = flag.Uint64("seed", 0, "run the replay test with this seed only")
	opsFlag  = flag.Int("ops", 4000, "commands a replay test applies")
)

// randomLog makes commands about a few dozen tasks, most of them sensible:
// some meet ended, some meet unknown tasks, some are malformed.
func randomLog(r *rand.Rand, n int) (log [][]byte, at []At) {
	var ids []TaskID
	now := int64(1_000_000)
	pick := func() TaskID {
		if len(ids) == 0 || r.IntN(50) == 0 {
			return NewTaskID(1, now, r.Uint64())
		}
		if r.IntN(4) > 0 {
			return ids[max(0, len(ids)-1-r.IntN(20))]
		}
		return ids[r.IntN(len(ids))]
	}
	for i := range n {
		if now += r.Int64N(300); r.IntN(20) == 0 {
			now -= 1000 // a proposer whose clock is behind
		}
		var c Command
		agent, epoch := fmt.Sprintf("w%d", r.IntN(3)), uint64(r.IntN(6))
		switch k := r.IntN(26); k {
		case 0, 1, 2, 3:
			s := testSpec()
			s.Fleet, s.Action, s.Priority = fmt.Sprintf("f%d", r.IntN(2)), []string{"vet", "lint"}[r.IntN(2)], Priority(r.IntN(5))
			s.Guarantee = []Guarantee{AtLeastOnce, AtLeastOnce, BestEffort, ExactlyOnce}[r.IntN(4)]
			s.Session = []string{"", "s1"}[r.IntN(2)]
			s.Retry.MaxRetries, s.Retry.InitialDelayMillis = uint32(r.IntN(3)), r.Int64N(3)*200
			if r.IntN(2) == 0 {
				s.Key = fmt.Sprintf("k%d", r.IntN(n/8+1))
			}
			if r.IntN(3) == 0 {
				s.DeadlineMillis = now + r.Int64N(3000) - 100
			}
			if r.IntN(3) == 0 {
				s.NotBeforeMillis = now + r.Int64N(1000)
			}
			id := NewTaskID(1, now-r.Int64N(2000), r.Uint64())
			if r.IntN(10) == 0 && len(ids) > 0 {
				id = ids[r.IntN(len(ids))]
			}
			ids = append(ids, id)
			c = submitOf(id, s)
		case 4, 5, 6, 7:
			c = &Complete{ID: pick(), Agent: agent, Epoch: epoch, Result: []byte(fmt.Sprintf(`{"n":%d}`, i)), Node: "n1"}
		case 8, 9:
			c = &Fail{ID: pick(), Agent: agent, Epoch: epoch, Error: fmt.Sprintf("error %d", i), Retryable: r.IntN(4) > 0}
		case 10:
			c = &Expire{ID: pick(), Agent: agent, Epoch: epoch}
		case 11:
			c = &Due{ID: pick()}
		case 12:
			c = &Timeout{ID: pick()}
		case 13:
			four := Evict{BeforeMillis: now - r.Int64N(2000), IDs: []TaskID{pick(), pick(), pick(), pick()}}
			c = []Command{&Cancel{ID: pick(), By: "someone"}, &Erase{ID: pick(), By: "someone", Reason: "asked to"}, &four, (*EvictSettled)(&four)}[r.IntN(4)]
		case 14:
			c = &Retry{ID: pick(), By: "someone"}
		case 15:
			c = &Refused{ID: pick(), Agent: agent, Epoch: epoch, Verb: "renew", Code: StaleLease}
		default:
			c = randomTxn(r, pick, agent, now)
			if d, ok := c.(*Declare); ok {
				ids = append(ids, d.ID)
			}
		}
		if i == n/2 {
			c = &AuditFormat{Version: AuditFormatNow} // half of the records are of version 1
		}
		log, at = append(log, c.Append(nil)), append(at, At{Index: uint64(i/3 + 1), Term: 1, TimeMillis: now})
	}
	return log, at
}

// replica is one run of a log, with what a store keeps beside it.
type replica struct {
	s       *Tasks
	cold    *memCold
	journal *memJournal
	// The last durable checkpoint.
	meta    []byte
	applied int
	records int
	pending func() // makes the last Freeze durable; nil: none is open
	take    func(n int)
	more    bool // the last Freeze is not taken whole
	thawing bool
}

func newReplica(t *testing.T) *replica {
	p := &replica{cold: newMemCold()}
	p.s, p.journal = newTestTasks(t, 1, p.cold)
	return p
}

// disturb does at random what a store does between two commands. It returns
// where to go on in the log: a crash goes back to the last checkpoint.
func (p *replica) disturb(t *testing.T, r *rand.Rand, applied int) int {
	switch r.IntN(12) {
	case 0:
		if p.pending != nil || p.thawing {
			break
		}
		meta, records := p.s.BeginFreeze(), len(p.journal.records)
		p.more = true
		var puts []KV
		var deletes [][]byte
		p.pending = func() {
			if err := uniqueKeys(puts, deletes); err != nil {
				t.Fatal(err)
			}
			p.cold.write(puts, deletes)
			p.meta, p.applied, p.records = meta, applied, records
		}
		p.take = func(n int) {
			some, gone, more := p.s.FreezeSome(n)
			puts, deletes, p.more = append(puts, some...), append(deletes, gone...), more
		}
	case 1, 2:
		switch {
		case p.more: // commands come between two parts, and between the last one and the write
			p.take(1 + r.IntN(20))
		case p.thawing:
			p.thawing = p.s.ThawSome(1 + r.IntN(20))
			checkInvariants(t, p.s)
		case p.pending != nil: // durable, and visible before Thaw hears of it
			p.pending()
			checkEras(t, p)
			if r.IntN(3) == 0 {
				checkList(t, p.s, Query{})
			}
			p.pending, p.thawing = nil, p.s.ThawSome(1+r.IntN(20))
		}
	case 3:
		if r.IntN(8) > 0 {
			break
		}
		if p.pending != nil && !p.more && r.IntN(2) == 0 { // the crash may come behind the write
			p.pending()
		}
		p.pending, p.more, p.thawing = nil, false, false
		s := NewTasks(1, p.cold, p.journal.append)
		if r.IntN(2) == 0 { // or the same process installs a snapshot
			s = p.s
		}
		p.s, p.journal.records = s, p.journal.records[:p.records]
		if err := p.s.Restore(p.meta); err != nil {
			t.Fatal(err)
		}
		return p.applied
	}
	return applied
}

// checkEras holds that the rows of keys are counted.
func checkEras(t *testing.T, p *replica) {
	t.Helper()
	var have eras
	for key := range p.cold.rows {
		if key[0] == prefixKey {
			have.add(binary.BigEndian.Uint32([]byte(key[1:])), 1)
		}
	}
	if !slices.Equal(have, p.s.eras) {
		t.Fatalf("rows of keys by era: counted %v, there are %v", p.s.eras, have)
	}
}

// checkList holds that List shows what Scan steps show, and Task agrees.
func checkList(t *testing.T, s *Tasks, q Query) []Task {
	t.Helper()
	all, err := s.List(q)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if i > 0 && all[i-1].ID.Compare(all[i].ID) >= 0 {
			t.Fatalf("%s behind %s", all[i].ID, all[i-1].ID)
		}
		one, ok, err := s.Task(all[i].ID)
		if !ok || err != nil || !reflect.DeepEqual(one, all[i]) {
			t.Fatalf("listed  %+v\nread as %+v, %v, %v", all[i], one, ok, err)
		}
	}
	return all
}

// TestReplay applies one log twice: straight through, and through checkpoints,
// crashes and replays at random points. Outcomes, events, journal bytes,
// digests and every task are the same.
func TestReplay(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("replay: go test ./ledger -run TestReplay -seed %d -ops %d", seed, *opsFlag)
				}
			}()
			testReplay(t, rand.New(rand.NewPCG(seed, 0)), *opsFlag)
		})
	}
}

func testReplay(t *testing.T, r *rand.Rand, ops int) {
	log, at := randomLog(r, ops)
	straight, rough := newReplica(t), newReplica(t)
	outcomes, told, digests, changed := make([]Outcome, ops), make([][]Event, ops), make([]uint64, ops), make([]uint64, ops)
	lives := map[TaskID]*life{}
	for i := range log {
		outcomes[i], told[i] = straight.s.Apply(at[i], log[i], nil)
		changed[i] = straight.s.Changed()
		for _, e := range told[i] {
			follow(t, lives, e)
		}
		if i%16 == 0 {
			digests[i] = straight.s.Digest()
		}
	}
	checkInvariants(t, straight.s)
	checkEndedSum(t, straight.s)
	if straight.cold.gets.Load() != 0 {
		t.Fatal("a shard without a checkpoint read it")
	}
	for i := 0; i < ops; i++ {
		o, events := rough.s.Apply(at[i], log[i], nil)
		if o != outcomes[i] || !reflect.DeepEqual(events, told[i]) {
			t.Fatalf("command %d: %+v %+v, want %+v %+v", i, o, events, outcomes[i], told[i])
		}
		if rough.s.Changed() != changed[i] {
			t.Fatalf("command %d: the digests of what it changed differ", i)
		}
		if i%16 == 0 && rough.s.Digest() != digests[i] {
			t.Fatalf("command %d: the digests differ", i)
		}
		i = rough.disturb(t, r, i+1) - 1
	}
	checkInvariants(t, rough.s)
	checkEndedSum(t, rough.s)
	same(t, straight, rough)
	checkChain(t, 1, rough.journal.records, rough.s.Head())
}

// checkEndedSum adds the digests of ended tasks up anew.
func checkEndedSum(t *testing.T, s *Tasks) {
	t.Helper()
	var sum uint64
	for _, x := range checkList(t, s, Query{}) {
		if x.State.Terminal() {
			e := entry{id: x.ID, state: x.State, epoch: x.Epoch, completed: x.CompletedMillis}
			sum += e.sum()
		}
	}
	if sum != s.endedSum {
		t.Fatalf("the sum over ended tasks is %x, kept as %x", sum, s.endedSum)
	}
}

// TestChanged plants a fault that no record tells of: the digest of the next
// command that changes the task has it.
func TestChanged(t *testing.T) {
	for what, plant := range map[string]func(*entry){
		"none":     func(*entry) {},
		"ready":    func(e *entry) { e.ready++ },
		"deadline": func(e *entry) { e.deadline++ },
		"priority": func(e *entry) { e.priority = PriorityCritical },
		"terms":    func(e *entry) { e.x.Terms.OnUnknown = true },
	} {
		t.Run(what, func(t *testing.T) {
			right, wrong := newReplica(t), newReplica(t)
			id := NewTaskID(1, 5, 7)
			apply := func(index uint64, cmd Command) {
				for _, p := range []*replica{right, wrong} {
					if o, _ := p.s.Apply(At{Index: index, TimeMillis: 5}, cmd.Append(nil), nil); o.Code != OK {
						t.Fatalf("%T: %+v", cmd, o)
					}
				}
			}
			apply(1, submitOf(id, Spec{Fleet: "f", Action: "lint", Target: "code", Guarantee: AtLeastOnce, LeaseMillis: 1000, SubmittedBy: "me"}))
			apply(2, &Watch{ID: id, Dependent: NewTaskID(2, 5, 9)})
			if a, b := right.s.Changed(), wrong.s.Changed(); a != b || a == 0 {
				t.Fatalf("equal states: %x and %x", a, b)
			}
			_, e := wrong.s.find(id)
			plant(e)
			apply(3, &Cancel{ID: id, By: "me"})
			if right.s.Summary() != wrong.s.Summary() {
				t.Fatal("the summary has it: nothing is shown")
			}
			if a, b := right.s.Changed(), wrong.s.Changed(); (a == b) != (what == "none") {
				t.Fatalf("changed: %x and %x", a, b)
			}
		})
	}
}

// same holds that two replicas show the same.
func same(t *testing.T, a, b *replica) {
	t.Helper()
	if a.s.Digest() != b.s.Digest() || a.s.Head() != b.s.Head() || a.s.Counts() != b.s.Counts() || a.s.NowMillis() != b.s.NowMillis() {
		t.Fatalf("digest, head, counts or time differ:\n%+v\n%+v", a.s.Counts(), b.s.Counts())
	}
	if !bytes.Equal(bytes.Join(a.journal.records, nil), bytes.Join(b.journal.records, nil)) {
		t.Fatal("the journals differ")
	}
	for _, q := range []Query{{}, {Fleet: "f1", States: []State{StateCompleted, StateReady}}, {Action: "lint", Agent: "w1"}} {
		if x, y := checkList(t, a.s, q), checkList(t, b.s, q); !reflect.DeepEqual(x, y) {
			t.Fatalf("lists of %+v differ: %d and %d tasks", q, len(x), len(y))
		}
	}
	var x, y []Brief
	a.s.Live(func(v Brief) bool { x = append(x, v); return true })
	b.s.Live(func(v Brief) bool { y = append(y, v); return true })
	if !reflect.DeepEqual(x, y) {
		t.Fatalf("%d and %d live tasks differ", len(x), len(y))
	}
}

// life is what the events told of one task so far.
type life struct {
	state State
	epoch uint64
}

// follow holds the invariants of a task's life, from its events alone.
func follow(t *testing.T, lives map[TaskID]*life, e Event) {
	t.Helper()
	l := lives[e.ID]
	if l == nil {
		l = &life{}
		lives[e.ID] = l
	}
	if e.From == 0 && l.state.Terminal() { // evicted, and its ID comes again
		*l = life{}
	}
	switch {
	case e.From != l.state:
		t.Fatalf("%s: leaves %s, was in %s", e.ID, e.From, l.state)
	case l.state.Terminal() && !follows(l.state, &e):
		t.Fatalf("%s: from %s to %s", e.ID, l.state, e.State)
	case e.Agent != "" && e.Epoch <= l.epoch && !e.Logged && (l.state == StateReady || l.state == StateSubmitted) || e.Epoch < l.epoch:
		t.Fatalf("%s: epoch %d after %d", e.ID, e.Epoch, l.epoch)
	}
	l.state, l.epoch = e.State, e.Epoch
}

// follows says whether a task may leave a terminal state that way: by a retry,
// or because it is rolled back, or its failed rollback is settled.
func follows(from State, e *Event) bool {
	switch from {
	case StateCompleted:
		return e.State == StateRollingBack
	case StateFailed:
		return e.State == StateReady || e.State == StateAwaitingApproval || e.State == StateRollingBack || e.State == StateRolledBack || e.State == StateCompleted
	case StateCancelled, StateTimedOut:
		return e.State == StateReady || e.State == StateAwaitingApproval || e.State == StateRollingBack && e.Epoch > 0
	}
	return false
}

// randomTxn makes a command of transactions.
func randomTxn(r *rand.Rand, pick func() TaskID, agent string, now int64) Command {
	by := fmt.Sprintf("p%d", r.IntN(4))
	epoch := uint64(1<<EpochTermShift + 1 + r.IntN(4))
	switch r.IntN(14) {
	case 0, 1, 2, 3:
		s := testSpec()
		s.Guarantee, s.Key, s.Session = []Guarantee{AtLeastOnce, ExactlyOnce, ExactlyOnce}[r.IntN(3)], fmt.Sprintf("x%d", r.Uint64()%100_000), fmt.Sprintf("s%d", r.IntN(5))
		s.Retry = RetryPolicy{MaxRetries: uint32(r.IntN(2))}
		m := Terms{Self: r.IntN(2) == 0, Approvers: uint32(max(r.IntN(4)-2, 0)), Verify: Hook{Action: "check", Target: "x"}, SkipDependents: r.IntN(2) == 0}
		if r.IntN(2) == 0 {
			m.Rollback = Hook{Action: "undo", Target: "x", MaxRetries: 1}
			m.OnUnknown, m.OnFailure, m.OnFailureAll = r.IntN(2) == 0, r.IntN(3) == 0, r.IntN(3) == 0
		}
		if r.IntN(3) == 0 {
			s.After = []TaskID{pick(), NewTaskID(2, now, r.Uint64())}[r.IntN(2):]
		}
		if r.IntN(4) == 0 {
			s.DeadlineMillis = now + r.Int64N(3000)
		}
		d := &Declare{ID: NewTaskID(1, now-r.Int64N(2000), r.Uint64()), RequestHash: DeclareHash(&s, &m), Spec: s, Terms: m, Agent: agent, Instance: fmt.Sprint(r.IntN(2))}
		return d
	case 4:
		return &Lease{ID: pick(), Agent: agent, Node: "n1"}
	case 5:
		return &Complete{ID: pick(), Agent: agent, Epoch: epoch, Result: []byte([]string{`true`, `false`, `null`}[r.IntN(3)])}
	case 6:
		return &Expire{ID: pick(), Agent: agent, Epoch: epoch}
	case 7:
		return &Decide{ID: pick(), By: by, Reject: r.IntN(6) == 0, Reason: "r"}
	case 8:
		return &Resolve{ID: pick(), By: by, As: Resolution(1 + r.IntN(3)), Evidence: "e"}
	case 9:
		return &Attach{ID: pick(), Agent: agent, Epoch: epoch, State: []byte(`{}`), Snapshot: r.IntN(2) == 0}
	case 10:
		return &Rollback{ID: pick(), By: by}
	case 11:
		return &Saga{ID: NewTaskID(1, now, r.Uint64()), Fleet: "default", Session: "s1", Steps: []TaskID{pick(), pick(), NewTaskID(2, now, 1), pick()}[r.IntN(3):], By: by}
	case 12:
		return []Command{&Ack{Seqs: []uint64{uint64(r.IntN(50))}}, &Doubt{ID: pick(), Agent: agent, Epoch: epoch}, &Watch{ID: pick(), Dependent: NewTaskID(2, now, 5)},
			&Release{ID: pick(), Agent: agent, Epoch: epoch}, &Hold{ID: pick(), Approvers: 1},
			&Steal{ID: pick(), From: agent, FromEpoch: epoch, Agent: fmt.Sprintf("w%d", r.IntN(3)), Node: "n1", Epoch: uint64(r.IntN(7)), FromLoad: 950}}[r.IntN(6)]
	}
	return &Fail{ID: pick(), Agent: agent, Epoch: epoch, Retryable: r.IntN(2) == 0}
}
