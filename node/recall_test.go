package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

func TestPickVictim(t *testing.T) {
	for _, c := range []struct {
		name string
		list []spare
		want string
	}{
		{"the most loaded", []spare{{agent: "a", load: .2, waiting: 9}, {agent: "b", load: .7, waiting: 1}}, "b"},
		{"over 80 % first", []spare{{agent: "a", load: .8, waiting: 9}, {agent: "b", load: .81, waiting: 1}}, "b"},
		{"the longer queue of equals", []spare{{agent: "a", load: 1, waiting: 2}, {agent: "b", load: 1, waiting: 3}}, "b"},
		{"ties by name", []spare{{agent: "b", load: 1, waiting: 2}, {agent: "a", load: 1, waiting: 2}}, "a"},
		{"nobody", nil, ""},
	} {
		got := ""
		if i := pickVictim(c.list); i >= 0 {
			got = c.list[i].agent
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	crowd := func(n int) (list []spare) {
		for i := range n {
			list = append(list, spare{agent: fmt.Sprint(i), load: .81 + float64(i)/1000, waiting: 1})
		}
		return append(list, spare{agent: "light", load: .5, waiting: 100})
	}
	picked := map[int]int{}
	for range 500 {
		if i := pickVictim(crowd(exactVictims)); i != exactVictims-1 {
			t.Fatalf("of %d the %d. was picked", exactVictims, i)
		}
		picked[pickVictim(crowd(exactVictims+1))]++
	}
	// The better of two different ones: never the least, mostly the upper half.
	if picked[0] > 0 || picked[exactVictims+1] > 0 || len(picked) < exactVictims/2 {
		t.Errorf("of %d were picked: %v", exactVictims+1, picked)
	}
}

func TestShareOfVictim(t *testing.T) {
	for waiting, want := range map[int]int{1: 1, 2: 1, 3: 2, 10: 5, 2 * stealBatch: stealBatch, 2*stealBatch + 1: stealBatch, 1000: stealBatch} {
		if got := (&spare{waiting: waiting}).share(MaxLeases); got != want {
			t.Errorf("of %d: %d, want %d", waiting, got, want)
		}
	}
	if got := (&spare{waiting: 10}).share(3); got != 3 {
		t.Errorf("with room for 3: %d", got)
	}
}

// The oldest come first, and only what has been there for a while, was not
// begun with, and the thief can do.
func TestRecallOrder(t *testing.T) {
	h := newHolds(time.Now)
	id := func(n uint64) ledger.TaskID { return ledger.NewTaskID(1, 1000, n) }
	for n := range uint64(6) {
		g := &grant{id: id(n), epoch: 7, leaseMillis: 1000, action: "do", target: "it"}
		if n == 3 {
			g.target = "other"
		}
		h.admit(g, "a", "", int64(100-n)*10)
	}
	h.begin(id(5), 7)
	h.begin(id(4), 6) // an older epoch: nothing
	h.add(id(9), "a", "", 7, 1000, 0)
	if w := h.waiting(); len(w) != 1 || w[0].waiting != 6 || w[0].held != 7 {
		t.Fatalf("%+v", w)
	}
	now := int64(1000) + stealResidence
	names := func(list []grant) (s string) {
		for _, g := range list {
			s += fmt.Sprint(g.id[15]&7, " ")
		}
		return s
	}
	if got := names(h.recall("a", []string{"do:it"}, 2, now-20)); got != "4 2 " {
		t.Errorf("recalled %s", got)
	}
	if got := names(h.recall("a", []string{"do:*"}, 9, now)); got != "3 1 0 " {
		t.Errorf("then %s", got)
	}
	if got := names(h.recall("a", []string{"*:*"}, 9, now+recallAgain-21)); got != "" {
		t.Errorf("again, too soon: %s", got)
	}
	if got := names(h.recall("a", []string{"*:*"}, 9, now+recallAgain-20)); got != "4 2 " {
		t.Errorf("again %s", got)
	}
	if caps, next := h.ripe(map[string]struct{}{"a": {}}, now+recallAgain-20); len(caps) != 0 || next != now+recallAgain {
		t.Errorf("ripe %v, next %d", caps, next)
	}
	h.begin(id(4), 7)
	h.dropAgent("a")
	if len(h.mu.begun) != 0 || len(h.mu.byAgent) != 0 || h.busy("a") {
		t.Errorf("after everything is gone: %v %v", h.mu.begun, h.mu.byAgent)
	}
}

func TestRecallAnswers(t *testing.T) {
	var r recalls
	id := func(n uint64) ledger.TaskID { return ledger.NewTaskID(1, 1000, n) }
	if r.answered(id(1), 1, true) {
		t.Error("nobody asked")
	}
	o := r.place([]grant{{id: id(1), epoch: 1}, {id: id(2), epoch: 1}, {id: id(3), epoch: 1}})
	if r.answered(id(1), 2, true) {
		t.Error("another epoch")
	}
	if !r.answered(id(1), 1, true) || !r.answered(id(2), 1, false) || r.answered(id(1), 1, true) {
		t.Error("an answer is taken once")
	}
	select {
	case <-o.done:
		t.Error("one is not answered for")
	default:
	}
	if got := r.end(o); len(got) != 1 || got[0].id != id(1) || r.open.Load() != 0 || r.answered(id(3), 1, true) {
		t.Errorf("returned %v", got)
	}
	o = r.place([]grant{{id: id(3), epoch: 2}})
	r.answered(id(3), 2, true)
	<-o.done
}

// A lease moves only while it is the holder's, unstarted, and of what the
// thief can do; then the old epoch is over.
func TestDeskTransfer(t *testing.T) {
	var pushed []sched.Handle
	d := newDesk(1, func(list []ready) {
		for _, r := range list {
			pushed = append(pushed, r.handle)
		}
	})
	ids := map[string]ledger.TaskID{}
	var events []ledger.Event
	for _, n := range []string{"a", "b", "c", "d"} {
		ids[n] = taskNamed(n)
		b := ledger.Brief{ID: ids[n], Capability: "do:it", State: ledger.StateReady, LeaseMillis: 60_000, ReadyMillis: scriptStart}
		if n == "d" {
			b.Capability = "do:other"
		}
		events = append(events, ledger.Event{Brief: b})
	}
	q := transferRequest{From: "v", To: "t", Node: 7, FromLoad: .9, ToLoad: .1, Caps: []string{"do:it"}}
	if _, _, ok := d.transfer(&q, "n2", scriptStart); ok {
		t.Fatal("a desk that leads nothing moved a lease")
	}
	d.lead(2, func(func(ledger.Brief) bool) {})
	d.open(2, nil, scriptStart)
	d.applied(events)
	got := map[ledger.TaskID]uint64{}
	for _, g := range d.leaseTo(pushed, "v", 6, scriptStart, nil) {
		got[g.id] = g.epoch
		q.Tasks = append(q.Tasks, stolen{ID: g.id, Epoch: g.epoch})
	}
	d.renew(ids["b"], "v", 6, got[ids["b"]], true, nil, scriptStart) // begun
	d.settling(ids["c"], "v", got[ids["c"]], scriptStart)            // ending
	moved, cmds, ok := d.transfer(&q, "n2", scriptStart+500)
	if !ok || len(moved) != 1 || moved[0].ID != ids["a"] || moved[0].Epoch <= got[ids["a"]] || len(cmds) != 1 {
		t.Fatalf("moved %+v, %v", moved, ok)
	}
	if s := *cmds[0].(*ledger.Steal); s != (ledger.Steal{ID: ids["a"], From: "v", FromEpoch: got[ids["a"]], Agent: "t", Node: "n2", Epoch: moved[0].Epoch, FromLoad: 900, ToLoad: 100}) {
		t.Errorf("%+v", s)
	}
	if _, v := d.renew(ids["a"], "v", 6, got[ids["a"]], false, nil, scriptStart+600); v != claimStale {
		t.Errorf("the old holder's renewal: %s", verdictNames[v])
	}
	if again, _, _ := d.transfer(&q, "n2", scriptStart+700); len(again) != 0 {
		t.Errorf("moved again: %+v", again)
	}
	if l, _, _ := d.overlay(ids["a"]); l.agent != "t" || l.node != 7 || l.from() != "v" || l.confirmed || l.say() == "" {
		t.Errorf("%+v", l)
	}
	if _, _, from, v := d.settling(ids["a"], "t", moved[0].Epoch, scriptStart+800); v != claimHolds || from != "v" {
		t.Errorf("the thief's end: from %q, %s", from, verdictNames[v])
	}
}
