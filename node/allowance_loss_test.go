package node

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// What an agent holds through a node counts until the lease is over, though the
// node is dead, or was started anew and knows nothing of it: nothing more is
// leased while the first lease stands, and something is when it has run out.
func TestAllowanceOutlivesNode(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name  string
		again bool // the node is started again
		at    int  // through which node the agent goes on: 0 the lost one, 1 the shard's leader, 2 the third
	}{{"killed, at the leader", false, 1}, {"killed, at a third node", false, 2}, {"started again, there", true, 0}, {"started again, at the leader", true, 1}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			var configs []Config
			c := startCluster(t, 3, func(cfg *Config) {
				cfg.Shards = 1
				configs = append(configs, *cfg)
			})
			lead, lost, third := c.roles(1)
			order := []int{lost, lead, third}
			m := manifest("a", 1, "vet:go")
			m.Capabilities[0].MaxConcurrent = 1
			if _, err := c.nodes[lead].Register(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				c.submit(c.nodes[lead], api.TaskSpec{Action: "vet", Target: "go", LeaseSeconds: 4})
			}
			first := c.lease(c.nodes[lost], "a", 10)
			if err := c.nodes[lost].Close(); err != nil {
				t.Fatal(err)
			}
			c.eventually("the others noticed", func() error {
				if c.nodes[lead].core.Load().peers.Up(c.nodes[lost].core.Load().id.RaftID) {
					return errors.New("connected")
				}
				return nil
			})
			if x.again {
				cfg := configs[lost]
				cfg.Join = []string{c.nodes[lead].GossipAddr(), c.nodes[third].GossipAddr()}
				n, err := Open(cfg)
				if err != nil {
					t.Fatal(err)
				}
				c.nodes[lost] = n
				c.eventually("it is back", n.Ready)
			}
			for _, n := range c.nodes {
				n.core.Load().holds.forgetPromises()
			}
			n := c.nodes[order[x.at]]
			var next api.Lease
			c.eventually("another is leased", func() error {
				ls, err := n.Lease(t.Context(), api.LeaseRequest{AgentID: "a", WaitSeconds: 15})
				if err == nil && len(ls.Tasks) == 0 {
					err = errors.New("none")
				}
				if err == nil {
					next = ls.Tasks[0]
				}
				return err
			})
			if v := c.settle(n, "a", first, "complete"); v.Error == nil || v.Error.Code != "stale_lease" {
				t.Errorf("%s was leased while %s was held: %+v", next.TaskID, first.TaskID, v)
			}
		})
	}
}

// roles picks the leader of a shard and two others.
func (c *testCluster) roles(shard uint32) (lead, other, third int) {
	c.t.Helper()
	c.eventually("a leader", func() error {
		for i, n := range c.nodes {
			if id, _ := n.core.Load().leaders.of(shard); id == n.core.Load().id.RaftID {
				lead, other, third = i, (i+1)%3, (i+2)%3
				return nil
			}
		}
		return errors.New("none")
	})
	return lead, other, third
}

// forgetPromises is what time does.
func (h *holds) forgetPromises() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.mu.promised)
	h.began = h.began.Add(-time.Hour)
}

// Two nodes that do not reach each other, and are reached by the shard's
// leader, still see what the other has set aside.
func TestAllowanceAcrossCut(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, func(cfg *Config) { cfg.Shards = 1 })
	lead, i, k := c.roles(1)
	if _, err := c.nodes[lead].Register(t.Context(), manifest("a", 1, "vet:go")); err != nil {
		t.Fatal(err)
	}
	a, b := c.nodes[i].core.Load(), c.nodes[k].core.Load()
	for _, n := range c.nodes {
		if _, err := n.Lease(t.Context(), api.LeaseRequest{AgentID: "a"}); err != nil { // it has a seat, and limits
			t.Fatal(err)
		}
	}
	a.peers.RemovePeer(b.id.RaftID)
	b.peers.RemovePeer(a.id.RaftID)
	for _, n := range c.nodes {
		n.core.Load().holds.forgetPromises()
	}
	u := b.holds.useOf("a")
	b.holds.mu.Lock()
	clear(u.trust)
	b.holds.mu.Unlock()
	room := a.holds.reserve("a", 1, 1)
	b.holds.reserve("a", 1, 1)
	sees := func(want int) {
		c.eventually(fmt.Sprint(want, " seen beyond the cut"), func() error { // an answer that comes too late leaves no room
			if b.askElsewhere(t.Context(), "a", u); u.others != want {
				return fmt.Errorf("%d seen, %d were set aside", u.others, room)
			}
			return nil
		})
	}
	sees(1)
	a.holds.release("a", room)
	sees(0)
}

// A node by itself asks its own desks, which know from the log what was leased
// before it was started anew.
func TestAllowanceAlone(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, single)
	n := c.nodes[0]
	if _, err := n.Register(t.Context(), manifest("a", 1, "vet:go")); err != nil {
		t.Fatal(err)
	}
	c.submit(n, api.TaskSpec{Action: "vet", Target: "go"})
	l := c.lease(n, "a", 10)
	k := n.core.Load()
	id, err := ledger.ParseTaskID(l.TaskID)
	if err != nil {
		t.Fatal(err)
	}
	k.holds.drop(id, l.Epoch)
	u := k.holds.useOf("a")
	k.holds.mu.Lock()
	clear(u.trust)
	k.holds.mu.Unlock()
	if k.askElsewhere(t.Context(), "a", u); u.others != 1 {
		t.Errorf("%d held by the desk's account, want 1", u.others)
	}
}

// A desk's lists of what its agents hold are what its leases say.
func (d *desk) checkHands() error {
	d.mu.Lock()
	want, of := map[string]int{}, map[ledger.TaskID]string{}
	for _, s := range d.mu.slots {
		if s.lease.agent != "" && !s.brief.Self {
			want[s.lease.agent]++
			of[s.brief.ID] = s.lease.agent
		}
	}
	agents := slices.Collect(maps.Keys(d.mu.holders))
	opened := d.mu.opened
	d.mu.Unlock()
	for agent := range want {
		if !slices.Contains(agents, agent) {
			return fmt.Errorf("%s holds %d and is not known", agent, want[agent])
		}
	}
	for _, agent := range agents {
		list, more, knows := d.heldBy(agent)
		if knows != opened || opened && (more != 0 || len(list) != want[agent]) {
			return fmt.Errorf("%s holds %d, listed are %d and %d more (%t)", agent, want[agent], len(list), more, knows)
		}
		for _, x := range list {
			if of[x.ID] != agent {
				return fmt.Errorf("%s is said to hold %s, which %q holds", agent, x.ID, of[x.ID])
			}
		}
	}
	return nil
}

// More agents than a desk remembers, and more leases of one than it lists.
func TestDeskHands(t *testing.T) {
	var queued []sched.Handle
	d := newDesk(1, func(list []ready) {
		for _, r := range list {
			queued = append(queued, r.handle)
		}
	})
	d.lead(1, func(func(ledger.Brief) bool) {})
	d.open(1, nil, 1)
	brief := func(i int) ledger.Brief {
		return ledger.Brief{ID: ledger.NewTaskID(1, 1000, uint64(i)), Capability: "a:x", State: ledger.StateReady, LeaseMillis: 1000}
	}
	for i := range MaxLeases + 2 {
		d.applied([]ledger.Event{{Brief: brief(i)}})
	}
	d.leaseTo(queued[:MaxLeases+1], "many", 1, 1, nil)
	if list, more, _ := d.heldBy("many"); len(list) != MaxLeases || more != 1 {
		t.Errorf("%d listed and %d more", len(list), more)
	}
	for i := range MaxLeases + 1 {
		g := brief(i)
		g.State = ledger.StateCompleted
		d.applied([]ledger.Event{{Brief: g}})
	}
	if list, more, _ := d.heldBy("many"); len(list) != 0 || more != 0 {
		t.Errorf("%d listed and %d more of tasks that ended", len(list), more)
	}
	for i := range holdersKept + 1 { // each takes the last task, and gives it back
		h := queued[len(queued)-1]
		g := d.leaseTo([]sched.Handle{h}, fmt.Sprint("agent-", i), 1, 1, nil)
		if err := d.checkHands(); len(g) != 1 || err != nil {
			t.Fatalf("agent %d: %v %v", i, g, err)
		}
		d.giveBack(g[0].id, g[0].epoch)
	}
	if n := len(d.mu.holders); n > holdersKept {
		t.Errorf("%d agents remembered, most with nothing", n)
	}
}
