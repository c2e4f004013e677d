package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var founders = []uint64{1, 2, 3}

// change asks whoever leads for a change until the answer is final.
func (w *network) change(shard uint32, c Change) error {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	var err error
	eventually(w.tb, fmt.Sprint(c), func() bool {
		_, err = w.leader(shard).store.Load().Change(ctx, shard, c)
		var nl *NotLeaderError
		return !errors.As(err, &nl) && !errors.Is(err, ErrChangePending) && !errors.Is(err, ErrUnknown)
	})
	return err
}

// admit makes a node, creates its replica and makes it a voter.
func (w *network) admit(id uint64, shard uint32, change func(*Config)) *testNode {
	w.tb.Helper()
	n := w.nodes[id]
	if n == nil {
		n = w.add(id, change)
		n.open(w.tb)
	}
	if err := n.store.Load().Create(shard, founders); err != nil {
		w.tb.Fatal(err)
	}
	if err := w.change(shard, Change{AddLearner, id}); err != nil {
		w.tb.Fatal(err)
	}
	w.promote(id, shard)
	return n
}

func (w *network) promote(id uint64, shard uint32) {
	w.tb.Helper()
	eventually(w.tb, fmt.Sprintf("%d is promoted", id), func() bool {
		err := w.change(shard, Change{Promote, id})
		var ce *ChangeError
		if err != nil && !errors.As(err, &ce) {
			w.tb.Fatal(err)
		}
		return err == nil || strings.Contains(ce.Reason, "a voter already")
	})
}

// expel removes a voter, after taking the leadership from it, and drops its replica.
func (w *network) expel(id uint64, shard uint32) {
	w.tb.Helper()
	eventually(w.tb, "another leader", func() bool {
		l := w.leader(shard)
		if l.id != id {
			return true
		}
		st, _ := l.store.Load().ShardStatus(shard)
		to := st.Voters[slices.IndexFunc(st.Voters, func(v uint64) bool { return v != id })]
		if err := l.store.Load().TransferLeader(w.tb.Context(), shard, to); err != nil {
			w.tb.Log(err)
		}
		return false
	})
	var err error
	eventually(w.tb, "heard of the other voters", func() bool { // a new leader has not, at first
		err = w.change(shard, Change{Remove, id})
		return err == nil || !strings.Contains(err.Error(), "voters are reachable")
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	if s := w.nodes[id].store.Load(); s != nil {
		if err := s.Drop(shard, true); err != nil {
			w.tb.Fatal(err)
		}
	}
}

// TestThreeToFiveToThree grows and shrinks a group under load, so that none of the founders is left.
func TestThreeToFiveToThree(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"log":      nil,
		"snapshot": func(c *Config) { c.LogRetainEntries, c.LogRetainMax = 1, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t, 3, 1, change)
			acked := 0
			load := func(n int) {
				for range n {
					w.must(0, fmt.Sprintf("k%d=%d", acked, acked))
					acked++
				}
			}
			load(200)
			eventually(t, "checkpoint", func() bool {
				st, _ := w.leader(0).store.Load().ShardStatus(0)
				return st.CheckpointIndex > 100
			})
			for _, id := range []uint64{4, 5} {
				w.admit(id, 0, change)
				load(20)
			}
			for _, id := range []uint64{1, 2} {
				w.expel(id, 0)
				load(20)
			}
			w.admit(6, 0, change)
			w.expel(3, 0)
			load(20)
			w.converge(1)
			for i := range acked {
				for _, id := range []uint64{4, 5, 6} {
					if got := w.nodes[id].toy(0).get(fmt.Sprintf("k%d", i)); got != fmt.Sprint(i) {
						t.Fatalf("node %d: k%d = %q", id, i, got)
					}
				}
			}
			// The founders restart with nothing, and stay out.
			for _, id := range founders {
				if got := w.nodes[id].store.Load().Shards(); len(got) != 0 {
					t.Fatalf("node %d still has shards %v", id, got)
				}
				w.nodes[id].crash(t)
				w.nodes[id].open(t)
				if got := w.nodes[id].store.Load().Shards(); len(got) != 0 {
					t.Fatalf("node %d has shards %v again", id, got)
				}
			}
			w.nodes[5].crash(t)
			w.nodes[5].open(t)
			load(5)
			w.converge(1)
		})
	}
}

// TestChangeRefused asks for what must not be done. Nothing changes, and the next good change works.
func TestChangeRefused(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	leader := w.leader(0).id
	other := leader%3 + 1
	for _, c := range []struct {
		change Change
		want   string
	}{
		{Change{AddLearner, other}, "voter already"},
		{Change{AddLearner, 0}, "not a raft ID"},
		{Change{AddLearner, 1 << 63}, "not a raft ID"},
		{Change{Promote, 9}, "not a learner"},
		{Change{Promote, other}, "voter already"},
		{Change{Remove, 9}, "not a replica"},
		{Change{0, 9}, "no such change"},
	} {
		var ce *ChangeError
		if err := w.change(0, c.change); !errors.As(err, &ce) || !strings.Contains(ce.Reason, c.want) {
			t.Errorf("%v: %v, want %q", c.change, err, c.want)
		}
	}
	l := w.leader(0)
	if _, err := l.store.Load().Change(context.Background(), 0, Change{Remove, l.id}); err == nil || !strings.Contains(err.Error(), "leads the shard") {
		t.Errorf("removing the leader: %v", err)
	}
	if err := w.change(0, Change{AddLearner, 9}); err != nil { // nobody is there: it never catches up
		t.Fatal(err)
	}
	if err := w.change(0, Change{AddLearner, 9}); err == nil || !strings.Contains(err.Error(), "learner already") {
		t.Errorf("adding it again: %v", err)
	}
	if err := w.change(0, Change{Promote, 9}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("promoting one that is not there: %v", err)
	}
	if err := w.change(0, Change{Remove, 9}); err != nil {
		t.Fatal(err)
	}
	w.must(0, "b=2")
	w.converge(1)
}

// TestLastVoters: with one of three dead, the other two can't be reduced, and not with two.
func TestLastVoters(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	var dead *testNode
	for _, n := range w.nodes {
		if n != w.leader(0) {
			dead = n
		}
	}
	dead.crash(t)
	var live *testNode
	for _, n := range w.nodes {
		if n != dead && n != w.leader(0) {
			live = n
		}
	}
	eventually(t, "the dead one is missed", func() bool {
		st, _ := w.leader(0).store.Load().ShardStatus(0)
		return slices.ContainsFunc(st.Followers, func(f FollowerStatus) bool { return f.RaftID == dead.id && !f.Active }) &&
			slices.ContainsFunc(st.Followers, func(f FollowerStatus) bool { return f.RaftID == live.id && f.Active })
	})
	if err := w.change(0, Change{Remove, live.id}); err == nil || !strings.Contains(err.Error(), "are needed") {
		t.Fatalf("removing the last live follower: %v", err)
	}
	if err := w.change(0, Change{Remove, dead.id}); err != nil {
		t.Fatal(err)
	}
	if err := w.change(0, Change{Remove, live.id}); err == nil || !strings.Contains(err.Error(), "last 2 voters") {
		t.Fatalf("removing one of two: %v", err)
	}
	w.must(0, "b=2")
}

// TestMaxReplicas fills a group with learners up to the limit, and one over.
func TestMaxReplicas(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	for id := uint64(4); id <= MaxReplicas; id++ {
		if err := w.change(0, Change{AddLearner, id}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.change(0, Change{AddLearner, MaxReplicas + 1}); err == nil || !strings.Contains(err.Error(), "the most there may be") {
		t.Fatal(err)
	}
}

// TestOneChangeAtATime: of two changes at once, one is refused; both replicas' fates are told.
func TestOneChangeAtATime(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	l := w.leader(0)
	for _, n := range w.nodes {
		if n != l {
			w.setCut(n.id, true) // nothing commits
		}
	}
	first, second := make(chan error, 1), make(chan error, 1)
	sh := l.store.Load().shard(0)
	sh.mail.call(func() {
		sh.replica.ProposeChange(Change{AddLearner, 8}, func(_ uint64, err error) { first <- err })
		sh.replica.ProposeChange(Change{AddLearner, 9}, func(_ uint64, err error) { second <- err })
	})
	if err := <-second; !errors.Is(err, ErrChangePending) {
		t.Fatalf("the second: %v", err)
	}
	var nl *NotLeaderError
	if err := <-first; !errors.Is(err, ErrUnknown) && !errors.As(err, &nl) {
		t.Fatalf("the first, without a quorum: %v", err)
	}
	for _, n := range w.nodes {
		w.setCut(n.id, false)
	}
	w.must(0, "b=2")
	w.converge(1)
}

// TestComesBackSilent: a replica that was put away and is created again has no vote to give before it has what it once
// acknowledged.
func TestComesBackSilent(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.admit(4, 0, nil)
	for i := range 50 {
		w.must(0, fmt.Sprintf("k%d=1", i))
	}
	w.converge(1)
	w.expel(4, 0)
	n := w.nodes[4]
	if err := n.store.Load().Create(0, founders); err != nil {
		t.Fatal(err)
	}
	sh := n.store.Load().shard(0)
	if sh.replica.cfg.SilentUntil < 50 {
		t.Fatalf("silent until %d", sh.replica.cfg.SilentUntil)
	}
	if hard := sh.log.hardDurable; hard[0] <= bootTerm {
		t.Fatalf("term %d: its promise is forgotten", hard[0])
	}
	n.crash(t)
	n.open(t)
	if got := n.store.Load().shard(0).replica.cfg.SilentUntil; got < 50 {
		t.Fatalf("silent until %d after a restart", got)
	}
	if err := w.change(0, Change{AddLearner, 4}); err != nil {
		t.Fatal(err)
	}
	w.promote(4, 0)
	w.must(0, "after=1")
	w.converge(1)
}

// TestCreateAndDropRefused: what would forget a promise is refused.
func TestCreateAndDropRefused(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	s := w.nodes[1].store.Load()
	if err := s.Create(0, founders); err != nil { // it is there
		t.Fatal(err)
	}
	if err := s.Drop(0, false); err == nil || !strings.Contains(err.Error(), "still a member") {
		t.Fatalf("dropping a member: %v", err)
	}
	if err := s.Create(1, founders); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a founder without its data: %v", err)
	}
	if err := s.Create(MaxShards, []uint64{2}); err == nil {
		t.Fatal("a shard over the limit")
	}
	if err := s.Create(MaxShards-1, []uint64{2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(MaxShards-1, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Drop(MaxShards-1, false); err != nil { // gone already
		t.Fatal(err)
	}
	w.must(0, "b=2")
}
