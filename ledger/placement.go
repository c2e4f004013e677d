package ledger

import "slices"

// planner spreads shards over the members. It moves as little as it can: a
// voter stays where it is while its node may have it, except to even out.
type planner struct {
	nodes []uint64 // that may have voters, ascending
	load  []int    // voters of task shards
	leads []int    // shards it should lead
}

// replan makes placement what the members ask for.
func (c *Control) replan() {
	p := planner{}
	var learners []uint64
	for i := range c.members {
		if c.members[i].State == MemberActive {
			p.nodes = append(p.nodes, c.members[i].RaftID)
		}
	}
	if len(p.nodes) == 0 || len(c.placements) == 0 {
		return
	}
	p.load, p.leads = make([]int, len(p.nodes)), make([]int, len(p.nodes))
	next := make([][]uint64, len(c.placements))
	for shard := range c.placements {
		next[shard] = p.keep(c.placements[shard].Voters, shard != ControlShard)
	}
	for shard := range next {
		next[shard] = p.fill(next[shard], shard != ControlShard)
	}
	p.level(next)
	for shard := range next {
		p.lead(next[shard], c.placements[shard].Voters, len(next))
	}
	p.levelLeads(next)
	for i := range c.members { // every other node follows the control shard
		if id := c.members[i].RaftID; !slices.Contains(next[ControlShard], id) && c.members[i].State != MemberRemoving {
			learners = append(learners, id)
		}
	}
	for shard := range next {
		old := &c.placements[shard]
		want := Placement{Shard: uint32(shard), Epoch: old.Epoch + 1, Voters: next[shard]}
		if shard == ControlShard {
			want.Learners = learners
		}
		if old.Epoch > 0 && slices.Equal(old.Voters, want.Voters) && slices.Equal(old.Learners, want.Learners) {
			continue
		}
		*old = want
		c.touch(rowPlacement, shardRow(uint32(shard)))
	}
}

func (p *planner) at(id uint64) (int, bool) { return slices.BinarySearch(p.nodes, id) }

// keep leaves those voters that may stay.
func (p *planner) keep(voters []uint64, counts bool) []uint64 {
	var out []uint64
	for _, id := range voters {
		if i, ok := p.at(id); ok {
			out = append(out, id)
			if counts {
				p.load[i]++
			}
		}
	}
	return out
}

// fill brings a shard to its number of voters: off the fullest nodes, or on to
// the emptiest.
func (p *planner) fill(voters []uint64, counts bool) []uint64 {
	want := min(ReplicationFactor, len(p.nodes))
	for len(voters) > want {
		out := 0
		for k := range voters {
			if p.loadOf(voters[k]) >= p.loadOf(voters[out]) {
				out = k
			}
		}
		if i, _ := p.at(voters[out]); counts {
			p.load[i]--
		}
		voters = slices.Delete(voters, out, out+1)
	}
	for len(voters) < want {
		best := -1
		for i, id := range p.nodes {
			if !slices.Contains(voters, id) && (best < 0 || p.load[i] < p.load[best]) {
				best = i
			}
		}
		voters = append(voters, p.nodes[best])
		if counts {
			p.load[best]++
		}
	}
	return voters
}

func (p *planner) loadOf(id uint64) int {
	i, _ := p.at(id)
	return p.load[i]
}

// level moves voters of task shards from the fullest node to the emptiest
// until they differ by one at most. Each move lowers the sum of squares, so it
// comes to an end.
func (p *planner) level(next [][]uint64) {
	for {
		full, empty := extremes(p.load)
		if p.load[full]-p.load[empty] < 2 || !p.move(next, p.nodes[full], p.nodes[empty]) {
			return
		}
		p.load[full]--
		p.load[empty]++
	}
}

func (p *planner) move(next [][]uint64, from, to uint64) bool {
	for shard := len(next) - 1; shard > ControlShard; shard-- {
		if k := slices.Index(next[shard], from); k >= 0 && !slices.Contains(next[shard], to) {
			next[shard][k] = to
			return true
		}
	}
	return false
}

// lead puts the voter that should lead first, and the others in order: the one
// that did before if it has not too many, else the one with the fewest.
func (p *planner) lead(voters, before []uint64, shards int) {
	slices.Sort(voters)
	fair := (shards + len(p.nodes) - 1) / len(p.nodes)
	best := 0
	for k := range voters {
		if p.leadsOf(voters[k]) < p.leadsOf(voters[best]) {
			best = k
		}
	}
	if len(before) > 0 {
		if k := slices.Index(voters, before[0]); k >= 0 && p.leadsOf(voters[k]) < fair {
			best = k
		}
	}
	i, _ := p.at(voters[best])
	p.leads[i]++
	putFirst(voters, best)
}

func putFirst(voters []uint64, k int) {
	first := voters[k]
	copy(voters[1:k+1], voters[:k])
	voters[0] = first
}

// levelLeads hands shards from who should lead most to who should lead least,
// where that one has a voter.
func (p *planner) levelLeads(next [][]uint64) {
	for {
		full, empty := extremes(p.leads)
		if p.leads[full]-p.leads[empty] < 2 {
			return
		}
		shard := slices.IndexFunc(next, func(v []uint64) bool { return v[0] == p.nodes[full] && slices.Contains(v, p.nodes[empty]) })
		if shard < 0 {
			return
		}
		putFirst(next[shard], slices.Index(next[shard], p.nodes[empty]))
		p.leads[full]--
		p.leads[empty]++
	}
}

// extremes are the first greatest and the first least of counts.
func extremes(counts []int) (most, least int) {
	for i := range counts {
		if counts[i] > counts[most] {
			most = i
		}
		if counts[i] < counts[least] {
			least = i
		}
	}
	return most, least
}

func (p *planner) leadsOf(id uint64) int {
	i, _ := p.at(id)
	return p.leads[i]
}
