package node

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// What is measured in time is measured by the clock that was brought, hours
// off and faster than the system's.
func TestBroughtClock(t *testing.T) {
	at := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) // without a monotonic part
	clock := func() time.Time { return at }
	u := turns{clock: clock}
	u.hear("a", 7)
	if n := u.next("a", 0); n != 8 {
		t.Errorf("turn %d behind 7", n)
	}
	at = at.Add(3 * sessionCross) // remembered for twice that at most
	u.hear("b", 1)
	at = at.Add(3 * sessionCross)
	if n := u.next("a", 0); n != 1 {
		t.Errorf("turn %d: an old one is remembered", n)
	}
	h := newHolds(clock)
	h.promise("a", 2)
	peers := []nodeRef{{RaftID: 2}}
	x := &use{trust: map[uint64]time.Time{2: at.Add(trustFor)}}
	if all, _, _ := h.trusts(x, peers); !all {
		t.Error("asks although all are trusted")
	}
	at = at.Add(trustFor + time.Millisecond)
	if all, _, now := h.trusts(x, peers); all || !now.Equal(at) || !h.mayRely("a", []uint64{2}, now) {
		t.Errorf("trusts %t at %v; the promise holds for longer than trust", all, now)
	}
	s := newSessions(clock)
	if got := s.open("a", 1).opened; !got.Equal(at) {
		t.Errorf("opened at %v", got)
	}
	var l seldom
	if !l.allow(at) || l.allow(at.Add(time.Second-1)) || !l.allow(at.Add(time.Second)) || !l.allow(at.Add(-time.Hour)) {
		t.Error("a line a second, and also when the clock went back")
	}
}

// A node whose clock is an hour ahead and goes on three times as fast: leases
// and delays end by that clock, and records are stamped with it.
func TestSkewedClock(t *testing.T) {
	t.Parallel()
	began := time.Now()
	clock := func() time.Time { return began.Add(time.Hour + 3*time.Since(began)).Round(0) }
	c := startCluster(t, 1, func(cfg *Config) { single(cfg); cfg.Now = clock })
	n := c.nodes[0]
	c.register(n, "a", "do:it")
	submitted := clock()
	due := submitted.Add(3 * time.Second)
	id := c.submit(n, api.TaskSpec{Action: "do", Target: "it", NotBefore: &due, LeaseSeconds: 3})
	l := c.lease(n, "a", 10)
	if l.TaskID != id || clock().Before(due) {
		t.Errorf("given at %v, due at %v", clock(), due)
	}
	if off := c.task(n, id).CreatedAt.Sub(submitted); off < -time.Second || off > 30*time.Second {
		t.Errorf("created %v after it was submitted", off)
	}
	given := clock()
	again := c.lease(n, "a", 20) // nobody renewed it
	if again.TaskID != id || again.Epoch <= l.Epoch || clock().Sub(given) < 3*time.Second {
		t.Errorf("given again after %v: %+v", clock().Sub(given), again)
	}
	if v := c.settle(n, "a", again, "complete"); v.Error != nil {
		t.Error(v.Error)
	}
}

// systemClock is who may look at the system's clock: what is waited for a lock
// is a measurement, and beats go by a phase that all nodes of a host share.
var systemClock = map[string]int{"config.go": 1, "loops.go": 1, "machine.go": 2, "node.go": 1}

func TestClockIsBrought(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		ast.Inspect(parsed, func(x ast.Node) bool {
			if s, ok := x.(*ast.SelectorExpr); ok && (s.Sel.Name == "Now" || s.Sel.Name == "Since" || s.Sel.Name == "Until") {
				if p, ok := s.X.(*ast.Ident); ok && p.Name == "time" {
					n++
				}
			}
			return true
		})
		if n != systemClock[f.Name()] {
			t.Errorf("%s looks at the system's clock %d times, %d were agreed on: use Config.Now", f.Name(), n, systemClock[f.Name()])
		}
	}
}

// Live tasks may take their budget and no more; what ends them makes room.
func TestMemoryBudget(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, func(cfg *Config) { single(cfg); cfg.MemoryBudgetBytes = MinMemoryBudget })
	n := c.nodes[0]
	input := []byte(`"` + strings.Repeat("x", 64<<10-2) + `"`)
	var ids []string
	for refused := false; !refused; {
		specs := make([]api.TaskSpec, 16)
		for i := range specs {
			specs[i] = api.TaskSpec{Action: "do", Target: "it", Input: input}
		}
		vs, err := n.Submit(t.Context(), specs, "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			switch {
			case v.Error == nil:
				ids = append(ids, v.TaskID)
			case v.Error.Code != "memory_full" || v.Error.Layer != 5 || v.Error.Status != 507 || v.Error.Retry != api.RetryLater || v.Error.Hint == "":
				t.Fatal(v.Error)
			default:
				refused = true
			}
		}
		if len(ids)*len(input) > 2*MinMemoryBudget {
			t.Fatal("nothing is refused")
		}
	}
	live := n.core.Load().liveBytes()
	if least := int64(len(ids) * (taskBytes + len(input))); live < least || live > least+int64(len(ids))*512 || least < MinMemoryBudget*7/8 {
		t.Errorf("%d tasks of %d bytes were taken, they are counted as %d", len(ids), len(input), live)
	}
	if d, err := n.Doctor(t.Context()); err != nil || !strings.Contains(fmt.Sprint(d), "memory_full") {
		t.Errorf("the doctor does not say so: %v", err)
	}
	for _, id := range ids[:len(ids)/2] {
		if _, err := n.Cancel(t.Context(), id, "test", "room"); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("room again", func() error { // the ended leave memory with a state checkpoint
		vs, err := n.Submit(t.Context(), []api.TaskSpec{{Action: "do", Target: "it"}}, "test")
		if err == nil && vs[0].Error != nil {
			return vs[0].Error
		}
		return err
	})
	for _, id := range ids[len(ids)/2:] {
		if _, err := n.Cancel(t.Context(), id, "test", "room"); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("what is counted goes with the tasks", func() error {
		var tasks, specs int
		for _, r := range *n.core.Load().replicas.of.Load() {
			if r.machine != nil {
				r.machine.view(func(t *ledger.Tasks) { x, y := t.InMemory(); tasks, specs = tasks+x, specs+y })
			}
		}
		if live := n.core.Load().liveBytes(); live != int64(tasks*taskBytes+specs) || live > 1<<20 {
			return fmt.Errorf("%d tasks of %d bytes are counted as %d", tasks, specs, live)
		}
		return nil
	})
}
