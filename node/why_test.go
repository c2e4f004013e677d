package node

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// Why, asked of any node, tells what the holder was chosen by, and what a
// waiting task waits for.
func TestWhy(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	n := c.nodes[0]
	rate := func(x float64) *float64 { return &x }
	for id, m := range map[string]api.Manifest{
		"a": {Capabilities: []api.Capability{{Action: "deploy", Target: "sharepoint", Confidence: rate(.95)}}},
		"b": {Capabilities: []api.Capability{{Action: "deploy", Target: "*", Confidence: rate(.95)}}},
		"c": {Capabilities: []api.Capability{{Action: "audit", Target: "dtac"}}},
	} {
		m.AgentID = id
		if _, err := n.Register(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Heartbeat(t.Context(), "b", api.Heartbeat{Load: .9}); err != nil {
		t.Fatal(err)
	}
	first := c.submit(n, api.TaskSpec{Action: "deploy", Target: "sharepoint", IdempotencyKey: "k1"})
	time.Sleep(2 * time.Millisecond) // within one millisecond the IDs would decide which is first
	second := c.submit(n, api.TaskSpec{Action: "deploy", Target: "sharepoint", IdempotencyKey: "k1b"})
	why := func(of *Node, id, want string) {
		t.Helper()
		var got api.Why
		c.eventually("why says "+want, func() error {
			var err error
			if got, err = of.Why(t.Context(), id); err == nil && !strings.Contains(got.Summary, want) {
				return errNoTask(got.Summary)
			}
			return err
		})
	}
	for _, of := range c.nodes {
		why(of, first, "waits: the next of its class, for 2 healthy workers")
	}
	l := c.lease(n, "a", 5)
	other := first
	if l.TaskID == first {
		other = second
	}
	for _, of := range c.nodes {
		why(of, l.TaskID, "given to a: success .95, load .00, trust .50; b lost on load; c lacks deploy:sharepoint")
	}
	c.settle(n, "a", l, "complete")
	why(n, l.TaskID, "ended: completed")
	why(n, other, "waits: the next of its class")
	lone := c.submit(n, api.TaskSpec{Action: "nobody", Target: "does"})
	why(n, lone, "waits: no worker can do nobody:does")
	if _, err := n.Heartbeat(t.Context(), "c", api.Heartbeat{State: api.AgentDraining}); err != nil {
		t.Fatal(err)
	}
	drained := c.submit(n, api.TaskSpec{Action: "audit", Target: "dtac"})
	why(n, drained, "waits: no worker can do audit:dtac (1 could, draining)")
}

// What keeps a task waiting is told by whichever node is asked: the limits of
// who could do it, the other fleets, its delay, its dependencies, an approval.
func TestWhyLimits(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	m := manifest("one", 0, "vet:*", "sum:x")
	m.Capabilities[0].MaxConcurrent = 1
	if _, err := c.nodes[0].Register(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	m = manifest("few", 1, "sum:x")
	if _, err := c.nodes[0].Register(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	why := func(id, want string, details ...string) {
		t.Helper()
		for _, n := range c.nodes {
			c.eventually("why says "+want, func() error {
				got, err := n.Why(t.Context(), id)
				if err != nil {
					return err
				}
				text := strings.Join(got.Details, "\n")
				for _, d := range details {
					if !strings.Contains(text, d) {
						return errNoTask(got.Summary + "\n" + text)
					}
				}
				if !strings.HasPrefix(got.Summary, want) {
					return errNoTask(got.Summary)
				}
				return nil
			})
		}
	}
	c.submit(c.nodes[0], api.TaskSpec{Action: "vet", Target: "a"})
	l := c.lease(c.nodes[2], "one", 10)
	next := c.submit(c.nodes[0], api.TaskSpec{Action: "vet", Target: "b"})
	why(next, "waits: the next of its class, for 1 healthy worker at the limit of what may be held at once", "one could, but holds 1 task of vet:*, its max_concurrent")
	sum := c.submit(c.nodes[0], api.TaskSpec{Action: "sum", Target: "x"})
	c.lease(c.nodes[1], "few", 10)
	why(sum, "given to few: ")
	second := c.submit(c.nodes[0], api.TaskSpec{Action: "sum", Target: "x"})
	why(second, "waits: the next of its class, for 2 healthy workers", "few could, but holds 1 task, its max_concurrent_tasks")
	c.settle(c.nodes[2], "one", l, "complete")
	why(next, "waits: the next of its class, for 1 healthy worker")

	later := time.Now().Add(time.Hour)
	why(c.submit(c.nodes[0], api.TaskSpec{Action: "sum", Target: "x", NotBefore: &later}), "waits until "+later.UTC().Format("2006-01-02T15:04"))
	why(c.submit(c.nodes[0], api.TaskSpec{Action: "sum", Target: "x", After: []string{second}}), "waits for 1 task to complete", second)
	why(c.submit(c.nodes[0], api.TaskSpec{Action: "sum", Target: "x", Approval: []byte(`{"approvers":1}`)}), "waits for approval: 0 of 1", "quorate task approve ")

	specs := make([]api.TaskSpec, 64)
	for i := range specs {
		specs[i] = api.TaskSpec{Action: "none", Target: "x", FleetID: "flood"}
	}
	if _, err := c.nodes[0].Submit(t.Context(), specs, "test"); err != nil {
		t.Fatal(err)
	}
	why(c.submit(c.nodes[0], api.TaskSpec{Action: "none", Target: "x"}), "waits: no worker can do none:x")
	c.register(c.nodes[0], "able", "none:*")
	behind := make([]api.TaskSpec, 64)
	for i := range behind {
		behind[i] = api.TaskSpec{Action: "none", Target: "x"}
	}
	vs, err := c.nodes[0].Submit(t.Context(), behind, "test")
	if err != nil {
		t.Fatal(err)
	}
	why(vs[len(vs)-1].TaskID, "waits: behind ", "other fleets have ")
}

// behind n of its class: the place among the shard's tasks nobody holds.
func TestAhead(t *testing.T) {
	d := newDesk(1, func([]ready) {})
	d.lead(1, func(func(ledger.Brief) bool) {})
	d.open(1, nil, 1)
	for i := range 20 {
		b := ledger.Brief{ID: ledger.NewTaskID(1, 1000+int64(i), uint64(i)), Capability: "a:x", State: ledger.StateReady, Priority: ledger.PriorityNormal, ReadyMillis: 1000 + int64(i)}
		if i%2 == 1 {
			b.Capability = "b:x"
		}
		d.applied([]ledger.Event{{Brief: b}})
	}
	if n := d.ahead(ledger.NewTaskID(1, 1018, 18), 2000).count; n != 9 {
		t.Errorf("behind %d of its class, want 9", n)
	}
}

// A low task whose deadline is near is before the normal ones that came earlier,
// and they are behind it.
func TestAheadRaised(t *testing.T) {
	now := int64(1_000_000)
	d := newDesk(1, func([]ready) {})
	d.now = func() int64 { return now }
	d.lead(1, func(func(ledger.Brief) bool) {})
	d.open(1, nil, now)
	id := func(i int) ledger.TaskID { return ledger.NewTaskID(1, 1_000_000, uint64(i)) }
	for i := range 6 {
		b := ledger.Brief{ID: id(i), Fleet: "f", Capability: "a:x", State: ledger.StateReady, Priority: ledger.PriorityNormal, CreatedMillis: now, ReadyMillis: now}
		if i == 5 {
			b.Priority, b.DeadlineMillis = ledger.PriorityLow, now+8000
		}
		d.applied([]ledger.Event{{Brief: b}})
	}
	for _, x := range []struct {
		after        int64
		raised, last int // behind so many: the low one, the last normal one
	}{{0, 5, 4}, {4000 + wheelTickMillis, 5, 4}, {6000 + wheelTickMillis, 0, 5}, {7000 + wheelTickMillis, 0, 5}} {
		now = 1_000_000 + x.after
		d.due(now)
		if low, last := d.ahead(id(5), now).count, d.ahead(id(4), now).count; low != x.raised || last != x.last {
			t.Errorf("after %d ms: behind %d and %d, want %d and %d", x.after, low, last, x.raised, x.last)
		}
	}
}

// What why counts is what the scheduler does: of tasks of all priorities, some
// long ready, each is taken after as many as it was said to be behind.
func TestAheadAsTaken(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		now := int64(1_000_000)
		var d *desk
		s := sched.New(sched.Config{NowMillis: func() int64 { return now }})
		d = newDesk(1, func(list []ready) {
			for _, r := range list {
				c, err := s.ClassOf(r.fleet, r.capability)
				if err != nil {
					t.Fatal(err)
				}
				s.Push(r.handle, c, r.band, r.millis)
			}
		})
		d.now = func() int64 { return now }
		d.lead(1, func(func(ledger.Brief) bool) {})
		d.open(1, nil, now)
		const tasks = 40
		for i := range tasks {
			b := ledger.Brief{ID: ledger.NewTaskID(1, now, uint64(i)), Fleet: "f", Capability: "a:x", State: ledger.StateReady,
				Priority: ledger.Priority(rnd.IntN(4)), CreatedMillis: now, ReadyMillis: now - rnd.Int64N(2)*rnd.Int64N(30_000)}
			d.applied([]ledger.Event{{Brief: b}})
			now += rnd.Int64N(2000)
		}
		want := map[ledger.TaskID]int{}
		for id := range d.mu.byID {
			want[id] = d.ahead(id, now).count
		}
		buf := make([]sched.Handle, 1)
		taken := 0
		for s.TakeFor([]string{"a:x"}, buf) == 1 {
			i, ok := d.slotOf(buf[0])
			if id := d.mu.slots[i].brief.ID; !ok || want[id] != taken {
				t.Errorf("seed %d: %s taken after %d, was said to be behind %d", seed, id, taken, want[id])
			}
			taken++
		}
		if taken != tasks {
			t.Errorf("seed %d: %d of %d taken", seed, taken, tasks)
		}
	}
}

// The declared rate is a prior: attempts outweigh it; losing leases costs
// trust. A loser is told what it lost by.
func TestRatings(t *testing.T) {
	if got := (tally{}).success(.9); got != .9 {
		t.Errorf("nothing measured: %g", got)
	}
	if got := (tally{completed: 2, failed: 2}).success(.9); got < .69 || got > .71 {
		t.Errorf("half of priorAttempts and half measured: %g", got)
	}
	if got := (tally{failed: 400}).success(1); got > .01 {
		t.Errorf("400 failures: %g", got)
	}
	if got := (tally{completed: 8, lost: 9}).trust(); got < .47 || got > .48 {
		t.Errorf("trust %g", got)
	}
	caps := []ledger.CapabilitySpec{{Action: "x", Target: "*", ConfidenceMillis: 900}}
	r := &rater{weights: rankWeights{1, .3, .3}, now: func() int64 { return 1 }, view: func() []ratedAgent {
		return []ratedAgent{{id: "a", caps: caps, well: true}, {id: "b", caps: caps, well: true, t: tally{failed: 9}},
			{id: "c", caps: caps, well: true, t: tally{completed: 50}}, {id: "d", well: true}, {id: "e", caps: caps}}
	}}
	r.refresh()
	got := r.choose("x:y", "a").say("a", "n1")
	if want := "given to a: success .90, load .00, trust .50; c ranked higher and did not wait at n1, which gave it; b lost on success; d lacks x:y"; got != want {
		t.Errorf("%s", got)
	}
	two := []ledger.CapabilitySpec{{Action: "x", Target: "y", ConfidenceMillis: 900}, {Action: "z", Target: "y", ConfidenceMillis: 100}}
	r = &rater{weights: rankWeights{1, .3, .3}, now: func() int64 { return 1 }, view: func() []ratedAgent { return []ratedAgent{{id: "two", caps: two, well: true}} }}
	r.refresh()
	rate := func(x float64) *float64 { return &x }
	shown := declared([]api.Capability{{Confidence: rate(.9)}, {Confidence: rate(.1)}})
	if told := r.choose("x:y", "two").success; told != priorOf(two) || told != shown || told != .5 || priorOf(nil) != declared(nil) {
		t.Errorf("told of a prior of %g, shown %g, ranked by %g", told, shown, priorOf(two))
	}
	if r.choose("x:y", "nobody") != nil {
		t.Error("a choice of an agent that is not registered")
	}
}
