package node

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// limited counts what an agent holds, as the agent sees it: from the answer of
// a lease call to the call that settles.
type limited struct {
	t    *testing.T
	most map[string]int
	mu   struct {
		sync.Mutex
		held map[string]int
		high map[string]int
		done int
	}
}

func (l *limited) keys(x api.Lease) []string {
	keys := []string{"all", x.Action + ":*"}
	if x.Target == "prod" {
		keys = append(keys, x.Action+":prod")
	}
	return keys
}

func (l *limited) count(x api.Lease, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.keys(x) {
		l.mu.held[k] += by
		if n := l.mu.held[k]; n > l.mu.high[k] {
			if l.mu.high[k] = n; l.most[k] > 0 && n > l.most[k] {
				l.t.Errorf("%d of %s held at once, the limit is %d", n, k, l.most[k])
			}
		}
	}
}

// An agent that leases through three nodes at once, several calls at each,
// never holds more than its manifest allows: in all, of a capability, or of two
// capabilities that cover the same task; and everything gets done.
func TestAllowance(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, nil)
	const tasks, callers = 240, 9
	m := manifest("a", 5, "vet:*", "deploy:*", "deploy:prod")
	for i, most := range []int{0, 3, 1} {
		m.Capabilities[i].MaxConcurrent = most
	}
	if _, err := c.nodes[0].Register(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	specs := make([]api.TaskSpec, tasks)
	for i := range specs {
		specs[i] = api.TaskSpec{Action: []string{"vet", "deploy", "deploy"}[i%3], Target: []string{"x", "y", "prod"}[i%3]}
	}
	if _, err := c.nodes[1].Submit(t.Context(), specs, "test"); err != nil {
		t.Fatal(err)
	}
	l := &limited{t: t, most: map[string]int{"all": 5, "deploy:*": 3, "deploy:prod": 1}}
	l.mu.held, l.mu.high = map[string]int{}, map[string]int{}
	finished := make(chan struct{})
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { l.call(c.nodes[i%3], 1+i%4, tasks, finished) })
	}
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("held at once, at most: %v", l.mu.high)
	if l.mu.done != tasks || l.mu.high["deploy:prod"] != 1 {
		t.Errorf("%d of %d done", l.mu.done, tasks)
	}
}

func (l *limited) call(n *Node, most, tasks int, finished chan struct{}) {
	for {
		select {
		case <-finished:
			return
		default:
		}
		ls, err := n.Lease(l.t.Context(), api.LeaseRequest{AgentID: "a", Max: most, WaitSeconds: 0.3})
		if err != nil {
			l.t.Error(err)
			return
		}
		for _, x := range ls.Tasks {
			l.count(x, 1)
		}
		for _, x := range ls.Tasks {
			l.count(x, -1)
			vs, err := n.Settle(l.t.Context(), "a", []api.Settlement{{TaskID: x.TaskID, Epoch: x.Epoch, Verdict: "complete"}})
			if err != nil || vs[0].Error != nil {
				l.t.Error(err, vs)
				return
			}
			l.mu.Lock()
			if l.mu.done++; l.mu.done == tasks {
				close(finished)
			}
			l.mu.Unlock()
		}
	}
}

// Limits of capabilities: what is open, for how many at once, and what fits.
func TestCapabilityLimits(t *testing.T) {
	h := newHolds(time.Now)
	woken := 0
	caps := []string{"vet:*", "deploy:*", "deploy:prod"}
	h.limit("a", allowance{all: 9, caps: []capLimit{{"deploy:*", 3}, {"deploy:prod", 1}}}, func() { woken++ })
	id := func(i byte) *grant { return &grant{id: taskNamed(string(rune('a' + i))), epoch: 1} }
	for i, x := range []struct {
		capability string
		admitted   bool
		open       string
		room       int
	}{
		{"deploy:prod", true, "[vet:* deploy:*]", 2}, // one prod: full; of deploy two are left
		{"deploy:prod", false, "[vet:* deploy:*]", 2},
		{"deploy:test", true, "[vet:* deploy:*]", 1},
		{"vet:go", true, "[vet:* deploy:*]", 1},
		{"deploy:test", true, "[vet:*]", 8},
		{"deploy:test", false, "[vet:*]", 8},
		{"vet:go", true, "[vet:*]", 8},
	} {
		if got := h.admit(id(byte(i)), "a", x.capability, 0); got != x.admitted {
			t.Errorf("%d: %s admitted: %t", i, x.capability, got)
		}
		if open, room := h.open("a", caps, 8); fmt.Sprint(open) != x.open || room != x.room {
			t.Errorf("%d: open %v for %d, want %s for %d", i, open, room, x.open, x.room)
		}
	}
	h.drop(id(0).id, 1)
	if open, room := h.open("a", caps, 8); len(open) != 3 || room != 1 || woken == 0 {
		t.Errorf("after one was let go: %v for %d, woken %d times", open, room, woken)
	}
	// One whose capability is not known may be of any.
	h.add(id(9).id, "a", "", 1, 0, 0)
	if open, _ := h.open("a", caps, 8); fmt.Sprint(open) != "[vet:*]" {
		t.Errorf("with an unknown one: %v", open)
	}
	// Registered anew, it is counted anew.
	h.limit("a", allowance{caps: []capLimit{{"vet:*", 3}}}, func() {})
	if open, room := h.open("a", []string{"vet:*"}, 8); len(open) != 0 {
		t.Errorf("vet:* is open for %d with two held and one unknown", room)
	}
	h.limit("a", allowance{}, nil)
	if open, room := h.open("a", caps, 8); len(open) != 3 || room != 8 || h.perCapability("a") {
		t.Errorf("without limits: %v for %d", open, room)
	}
}
