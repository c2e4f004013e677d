package sim

import (
	"slices"

	"github.com/quorate/quorate/raftstore"
)

// change asks a leader for one change of its shard's members, as an
// administrator would who does not know much: it may be refused.
func (s *sim) change() {
	shard := s.rng.IntN(s.shards)
	r := s.pick(shard)
	if r == nil {
		return
	}
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	conf := r.Standing().Conf
	c := raftstore.Change{RaftID: n.id}
	switch {
	case slices.Contains(conf.GetLearners(), n.id) && !s.chance(4):
		c.Kind = raftstore.Promote
	case slices.Contains(conf.GetLearners(), n.id) || slices.Contains(conf.GetVoters(), n.id):
		c.Kind = raftstore.Remove
	default:
		c.Kind = raftstore.AddLearner
		if slices.ContainsFunc(s.removed, func(gone *replica) bool { return gone.n == n && gone.shard == r.shard }) {
			return // first it is put away
		}
		if !n.up || n.paused > s.now {
			return
		}
		if n.replicas[r.shard] == nil {
			n.disk.format(r.shard, s.founders)
			n.do(func() { n.open(r.shard) })
		}
	}
	r.n.do(func() {
		r.ProposeChange(c, func(index uint64, err error) {
			s.tracef("shard %d: %v %d: index %d, %v", shard, c.Kind, c.RaftID, index, err)
			if err != nil {
				return
			}
			s.changes++
			if gone := n.replicas[r.shard]; c.Kind == raftstore.Remove && gone != nil {
				s.removed = append(s.removed, gone)
			}
		})
		r.process()
	})
}

// member says whether a node is a member of a shard as far as anybody knows.
func (s *sim) member(shard uint32, id uint64) bool {
	var newest raftstore.Standing
	for _, n := range s.nodes {
		if r := n.replicas[shard]; r != nil && r.Standing().Applied > newest.Applied {
			newest = r.Standing()
		}
	}
	conf := newest.Conf
	return slices.Contains(conf.GetVoters(), id) || slices.Contains(conf.GetLearners(), id)
}

// putAway ends replicas that are known to be removed, sooner or later.
func (s *sim) putAway() {
	s.removed = slices.DeleteFunc(s.removed, func(r *replica) bool {
		if r.ended() {
			return true // it comes back, and stays: nobody tells it
		}
		if !s.chance(20) || r.n.paused > s.now || r.frozen != nil {
			return false
		}
		if s.member(r.shard, r.n.id) {
			return true // added again meanwhile
		}
		s.tracef("node %d puts shard %d away", r.n.id, r.shard)
		r.n.do(func() {
			r.Stop()
			r.gone = true
			r.n.syncs = slices.DeleteFunc(r.n.syncs, func(p pendingSync) bool { return p.r == r })
			delete(r.n.replicas, r.shard)
			r.n.disk.putAway(r.shard)
		})
		return true
	})
}
