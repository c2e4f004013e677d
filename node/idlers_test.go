package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// handOver is an agent that waits at the shard's leader, and one at another
// node.
type handOver struct {
	*testCluster
	lead, far, third *Node
}

func newHandOver(t *testing.T, here, there float64) *handOver {
	c := startCluster(t, 3, func(cfg *Config) { cfg.Shards, cfg.AutoApprove = 1, []string{"vet:go"} })
	lead, far, third := c.roles(1)
	x := &handOver{testCluster: c, lead: c.nodes[lead], far: c.nodes[far], third: c.nodes[third]}
	for agent, rate := range map[string]float64{"here": here, "there": there} {
		m := manifest(agent, 1, "vet:go") // one at once: the task fills the room of the call that waits
		m.Capabilities[0].Confidence = &rate
		if _, err := x.lead.Register(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("both are rated", func() error {
		r := x.lead.core.Load().rater
		r.refresh()
		if k := r.current.Load(); k == nil || k.card("here") == nil || k.card("there") == nil {
			return errors.New("not yet")
		}
		return nil
	})
	return x
}

// wait has an agent wait for a task; what it gets comes through the channel.
func (x *handOver) wait(ctx context.Context, n *Node, agent string) <-chan api.Lease {
	out := make(chan api.Lease, 1)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			ls, err := n.Lease(ctx, api.LeaseRequest{AgentID: agent, WaitSeconds: 60})
			if err != nil && ctx.Err() == nil {
				x.t.Error(err)
				return
			}
			if len(ls.Tasks) > 0 {
				out <- ls.Tasks[0]
				return
			}
		}
	}()
	return out
}

func (x *handOver) parked(n *Node, agent string, want bool) {
	x.t.Helper()
	x.eventually(fmt.Sprint(agent, " waits: ", want), func() error {
		k := n.core.Load()
		k.seats.Lock()
		s := k.seats.of[agent]
		k.seats.Unlock()
		if s == nil && want {
			return errors.New("no seat")
		}
		if s != nil {
			if _, ok := s.parked(); ok != want {
				return errors.New("not so")
			}
		}
		return nil
	})
}

// known waits until the leader has heard that these agents wait elsewhere.
func (x *handOver) known(agents ...string) {
	x.t.Helper()
	x.eventually("the leader knows who waits elsewhere", func() error {
		if list := slices.Sorted(slices.Values(x.lead.core.Load().idlers.list())); !slices.Equal(list, agents) {
			return fmt.Errorf("%q", list)
		}
		return nil
	})
}

func (x *handOver) why(id, want string) {
	x.t.Helper()
	w, err := x.lead.Why(x.t.Context(), id)
	if err != nil || !strings.Contains(w.Summary, want) {
		x.t.Errorf("%v %+v, want %s", err, w, want)
	}
}

// An agent that ranks far higher and waits at another node gets the task,
// though one waits at the leader; so it does when the lease goes through the
// log. One that ranks a little higher does not.
func TestBetterAgentElsewhere(t *testing.T) {
	t.Parallel()
	for _, a := range []struct {
		name        string
		here, there float64
		guarantee   string
		verify      []byte
		want        string
	}{{"far better", .3, .9, "", nil, "there"}, {"far better, in the log", .3, .9, "exactly_once", []byte(`{"action":"look","target":"go"}`), "there"},
		{"a little better", .85, .9, "", nil, "here"}, {"worse", .9, .3, "", nil, "here"}} {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			x := newHandOver(t, a.here, a.there)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			here, there := x.wait(ctx, x.lead, "here"), x.wait(ctx, x.far, "there")
			x.parked(x.lead, "here", true)
			x.known("there")
			id := x.submit(x.lead, api.TaskSpec{Action: "vet", Target: "go", Guarantee: a.guarantee, IdempotencyKey: "k", Verify: a.verify})
			var got api.Lease
			agent, at := "here", x.lead
			select {
			case got = <-here:
			case got = <-there:
				agent, at = "there", x.far
			}
			if agent != a.want || got.TaskID != id || got.Attempt != 1 {
				t.Fatalf("%s got %+v", agent, got)
			}
			x.why(id, "given to "+agent+": success ")
			switch a.name {
			case "far better":
				x.why(id, "here lost on success")
			case "a little better":
				x.why(id, "there ranked higher and did not wait at ")
			}
			if v := x.settle(at, agent, got, "complete"); v.Error != nil {
				t.Error(v.Error)
			}
		})
	}
}

// One that has gone since it was said to wait: its node hands the task back,
// and who waits at the leader gets it, in the same attempt.
func TestBetterAgentElsewhereGone(t *testing.T) {
	t.Parallel()
	x := newHandOver(t, .3, .9)
	ctx, cancel := context.WithCancel(t.Context())
	x.wait(ctx, x.far, "there")
	x.known("there")
	cancel()
	x.parked(x.far, "there", false)
	here := x.wait(t.Context(), x.lead, "here")
	x.parked(x.lead, "here", true)
	id := x.submit(x.lead, api.TaskSpec{Action: "vet", Target: "go"})
	got := <-here
	if got.TaskID != id || got.Attempt != 1 {
		t.Fatalf("%+v", got)
	}
	x.why(id, "there ranked higher and did not wait at ")
	if list := x.lead.core.Load().idlers.list(); len(list) != 0 {
		t.Errorf("%q are still thought to wait", list)
	}
	if v := x.settle(x.lead, "here", got, "complete"); v.Error != nil {
		t.Error(v.Error)
	}
}

// Nobody waits at the leader: of those that wait elsewhere the best gets a task,
// the next one the other.
func TestBetterAgentOfThoseElsewhere(t *testing.T) {
	t.Parallel()
	x := newHandOver(t, .3, .9)
	there, here := x.wait(t.Context(), x.far, "there"), x.wait(t.Context(), x.third, "here")
	x.known("here", "there")
	first := x.submit(x.lead, api.TaskSpec{Action: "vet", Target: "go"})
	if got := <-there; got.TaskID != first || got.Attempt != 1 {
		t.Fatalf("%+v", got)
	}
	x.why(first, "given to there: success ")
	second := x.submit(x.lead, api.TaskSpec{Action: "vet", Target: "go"})
	if got := <-here; got.TaskID != second || got.Attempt != 1 {
		t.Fatalf("%+v", got)
	}
}

// What peers say of who waits, and what they send, is taken or left as a whole.
func TestBetterAgentNoticesAreBounded(t *testing.T) {
	x := newIdlers()
	x.heard(1, []byte(`["a","b"]`))
	for _, bad := range []string{``, `{`, `"a"`, `[1]`, `[` + strings.Repeat(`"a",`, maxIdleCaps) + `"b"]`} {
		x.heard(1, []byte(bad))
	}
	if list := slices.Sorted(slices.Values(x.list())); !slices.Equal(list, []string{"a", "b"}) {
		t.Errorf("%q wait", list)
	}
	x.heard(2, []byte(`["b"]`))
	x.set(1, nil)
	if at := x.take("b"); at != 2 || x.some.Load() || x.take("a") != 0 {
		t.Errorf("b waits at %d; %q", at, x.list())
	}
	n := &core{idlers: x}
	for _, bad := range []string{``, `{`, `{"agent":"a"}`, `[]`} {
		n.giftHeard([]byte(bad)) // would need a seat, or a desk
	}
}
