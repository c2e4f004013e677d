package node

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/quorate/quorate/raftstore"
)

// TestLeadersKeepWhatRaftSays: what peers say never hides what the replica here
// says, in whatever order the two arrive.
func TestLeadersKeepWhatRaftSays(t *testing.T) {
	const shard, x, y = 1, 7, 8
	for _, c := range []struct {
		name  string
		words func(l *leaders)
		want  uint64
	}{
		{"an old word of the leader, that it leads nothing", func(l *leaders) { l.set(shard, x); l.hint(shard, x, 0, false) }, x},
		{"an old word of the leader before", func(l *leaders) { l.set(shard, y); l.hint(shard, x, 3, true) }, y},
		{"raft lost its leader, and what peers said of it", func(l *leaders) { l.hint(shard, x, 3, true); l.set(shard, x); l.set(shard, 0) }, 0},
		{"no replica here", func(l *leaders) { l.hint(shard, x, 3, true) }, x},
		{"the leader of an earlier term", func(l *leaders) { l.hint(shard, y, 4, true); l.hint(shard, x, 3, true) }, y},
		{"no leader any more", func(l *leaders) { l.hint(shard, x, 3, true); l.hint(shard, x, 0, false) }, 0},
		{"another leads nothing", func(l *leaders) { l.hint(shard, x, 3, true); l.hint(shard, y, 0, false) }, x},
		{"a replica that was removed", func(l *leaders) { l.set(shard, x); l.member(shard, false); l.hint(shard, y, 3, true) }, y},
		{"a replica that is a member after all", func(l *leaders) {
			l.set(shard, x)
			l.member(shard, false)
			l.hint(shard, y, 3, true)
			l.member(shard, true)
		}, x},
	} {
		l := newLeaders()
		_, changed := l.of(shard)
		c.words(l)
		got, _ := l.of(shard)
		if got != c.want {
			t.Errorf("%s: led by %d, want %d", c.name, got, c.want)
		}
		select {
		case <-changed:
		default:
			t.Errorf("%s: nobody was woken", c.name)
		}
	}
}

// lateWord has a peer's older word arrive right after raft has named it as the
// leader, before that can be seen in the replica's status.
type lateWord struct {
	raftstore.Machine
	late func(leader uint64)
}

func (m lateWord) Follow(leader uint64) {
	m.Machine.Follow(leader)
	if leader != 0 {
		m.late(leader)
	}
}

// TestReadyInSpiteOfAnOlderWord: a new leader says "I lead nothing" until it
// has applied an entry of its term. A follower that hears this just after raft
// named the leader must not take the shard for leaderless, for raft will not
// name it again.
func TestReadyInSpiteOfAnOlderWord(t *testing.T) {
	var cluster atomic.Pointer[testCluster]
	var words atomic.Int64
	wrapMachine = func(m raftstore.Machine) raftstore.Machine {
		return lateWord{m, func(leader uint64) {
			c := cluster.Load()
			if c == nil {
				return
			}
			nothing, err := json.Marshal(map[uint32]uint64{})
			if err != nil {
				t.Error(err)
			}
			for _, n := range c.nodes {
				if k := n.core.Load(); k != nil && k.id.RaftID != leader {
					words.Add(1)
					k.leadsHeard(leader, nothing)
				}
			}
		}}
	}
	defer func() { wrapMachine = nil }()
	c := startCluster(t, 3, nil)
	cluster.Store(c)
	for range 3 {
		c.handOn(1)
	}
	if words.Load() == 0 {
		t.Fatal("no word was late")
	}
	for _, n := range c.nodes {
		if err := n.Ready(); err != nil {
			t.Errorf("%s: %v", n.NodeID(), err)
		}
	}
}

// handOn gives a shard to another node, and waits until all name that one.
func (c *testCluster) handOn(shard uint32) {
	c.t.Helper()
	var from, to uint64
	c.eventually("handed on", func() error {
		for _, n := range c.nodes {
			k := n.core.Load()
			st, _ := k.store.ShardStatus(shard)
			if st.Ready && st.Leader == k.id.RaftID && (from == 0 || from == st.Leader) {
				from = st.Leader
				for _, v := range st.Voters {
					if v != from {
						to = v
					}
				}
				if err := k.store.TransferLeader(c.t.Context(), shard, to); err != nil {
					return err
				}
			}
		}
		for _, n := range c.nodes {
			if id, _ := n.core.Load().leaders.of(shard); id == 0 || id == from {
				return errors.New("not by all")
			}
		}
		return nil
	})
}
