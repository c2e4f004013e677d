package form

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

const (
	// ballotRounds: a bootstrap that has not gathered its promises after so many
	// rounds (2 s at 200 ms) is given up, so that its members are free for another.
	ballotRounds = 10
	// restRounds: after that the coordinator waits 1 to so many rounds, at
	// random, so that two who need the same members do not collide for ever.
	restRounds = 5
	// askRounds: with nothing to do, the others are asked every so many rounds
	// whether they are formed; gossip says so too, but is only a hint.
	askRounds = 5
)

// request is a message to send, and where.
type request struct {
	addr string
	msg  message
}

// ballot is a bootstrap this node coordinates. It lives in memory only: one
// that a crash forgets was never committed and never will be, its ID is not
// drawn again.
type ballot struct {
	promise Promise
	yes     map[uint64]bool
	age     int // rounds
}

// core takes the decisions. It has no goroutine, clock, network or randomness
// of its own; save makes an identity durable before the core acts on it.
type core struct {
	me     Identity // what is durable
	addr   string
	expect int
	shards uint32
	save   func(Identity) error
	draw   func() ID
	jitter func(n int) int // 0 to n-1

	ballot  *ballot
	rest    int // rounds to wait before the next ballot
	rounds  int
	fatal   error  // forming cannot go on
	waiting string // for people
}

// store makes next durable and current. A failure is the end: the file may hold
// either, so nothing must be said about it any more.
func (c *core) store(next Identity) bool {
	if c.fatal != nil && errors.Is(c.fatal, errDisk) {
		return false
	}
	if err := c.save(next); err != nil {
		c.fatal = fmt.Errorf("%w: %w", errDisk, err)
		return false
	}
	c.me = next
	return true
}

var errDisk = errors.New("the identity could not be made durable")

// become makes this node part of a cluster.
func (c *core) become(id ID, shards uint32, voters []Voter, joined bool) bool {
	next := c.me
	next.ClusterID, next.Shards, next.Voters, next.Joined, next.Promise = id, shards, slices.Clone(voters), joined, nil
	c.ballot = nil
	return c.store(next)
}

func (c *core) promiseTo(p *Promise) bool {
	next := c.me
	next.Promise = p
	return c.store(next)
}

// message fills in who speaks.
func (c *core) message(kind string, to uint64) message {
	return message{Version: messageVersion, Kind: kind, Cluster: c.me.Cluster, From: c.me.RaftID, FromNode: c.me.NodeID, To: to}
}

// answer answers a request. What the answer promises is durable.
func (c *core) answer(m *message) message {
	if r := c.refuse(m); r != nil {
		return *r
	}
	switch m.Kind {
	case askKind:
		return c.state(m)
	case prepareKind:
		return c.prepare(m)
	case queryKind:
		return c.query(m)
	case commitKind:
		if p := c.me.Promise; p != nil && p.ClusterID == m.ClusterID {
			if !c.become(p.ClusterID, p.Shards, p.Voters, false) {
				return c.refusal(m, codeFailed, "the decision could not be made durable")
			}
		}
		return c.state(m)
	case releaseKind:
		if p := c.me.Promise; p != nil && p.ClusterID == m.ClusterID && p.Coordinator == m.From {
			c.promiseTo(nil)
		}
		return c.message(doneKind, m.From)
	}
	return c.refusal(m, codeInvalid, "unknown request "+m.Kind)
}

func (c *core) refusal(m *message, code, text string) message {
	r := c.message(refusedKind, m.From)
	r.Code, r.Text = code, text
	return r
}

// refuse checks who speaks and whom it means; nil means that the request stands.
func (c *core) refuse(m *message) *message {
	no := func(code, format string, args ...any) *message {
		r := c.refusal(m, code, fmt.Sprintf(format, args...))
		return &r
	}
	switch {
	case m.Cluster != c.me.Cluster:
		return no(CodeCluster, "node %q belongs to cluster %q, not %q", c.me.NodeID, c.me.Cluster, m.Cluster)
	case m.From == c.me.RaftID, m.To != 0 && m.To != c.me.RaftID:
		return no(codeNode, "this is node %q, raft ID %x", c.me.NodeID, c.me.RaftID)
	case m.FromNode == c.me.NodeID:
		return no(CodeNodeID, "node ID %q is in use by raft ID %x at %s", m.FromNode, c.me.RaftID, c.addr)
	case errors.Is(c.fatal, errDisk):
		return no(codeFailed, "node %q cannot write its identity", c.me.NodeID)
	}
	for _, v := range c.me.Voters {
		if (v.NodeID == m.FromNode) != (v.RaftID == m.From) {
			return no(CodeNodeID, "node ID %q is that of raft ID %x, a founder of cluster %s; not of %x. If its data directory is lost: "+
				"`quorate node remove %s`, then `quorate node add` with a new node ID, and start that", v.NodeID, v.RaftID, c.me.ClusterID, m.From, m.FromNode)
		}
	}
	return nil
}

// state is what this node is now.
func (c *core) state(m *message) message {
	switch {
	case c.me.formed():
		r := c.message(formedKind, m.From)
		r.ClusterID, r.Shards, r.Voters = c.me.ClusterID, c.me.Shards, slices.Clone(c.me.Voters)
		return r
	case c.me.Promise != nil:
		r := c.message(busyKind, m.From)
		r.ClusterID, r.Coordinator = c.me.Promise.ClusterID, c.me.Promise.Coordinator
		return r
	case c.ballot != nil:
		r := c.message(busyKind, m.From)
		r.ClusterID, r.Coordinator = c.ballot.promise.ClusterID, c.me.RaftID
		return r
	}
	return c.message(freeKind, m.From)
}

// prepare gives the promise, or says why not.
func (c *core) prepare(m *message) message {
	if c.me.formed() {
		return c.state(m)
	}
	p, err := m.promise(&c.me)
	if err != nil {
		return c.refusal(m, codeInvalid, err.Error())
	}
	if len(p.Voters) != c.expect {
		return c.refusal(m, codeExpect, fmt.Sprintf("a cluster of %d, but node %q expects %d", len(p.Voters), c.me.NodeID, c.expect))
	}
	if held := c.me.Promise; held != nil && held.ClusterID != p.ClusterID {
		return c.state(m)
	} else if held == nil {
		if c.ballot != nil && m.From > c.me.RaftID {
			return c.state(m)
		}
		c.ballot = nil // the smaller coordinator goes first; ours never was committed
		if !c.promiseTo(&p) {
			return c.refusal(m, codeFailed, "the promise could not be made durable")
		}
	}
	r := c.message(promisedKind, m.From)
	r.ClusterID = p.ClusterID
	return r
}

// query says what became of a bootstrap.
func (c *core) query(m *message) message {
	r := c.message(pendingKind, m.From)
	r.ClusterID = m.ClusterID
	switch {
	case c.me.formed():
		return c.state(m)
	case c.ballot != nil && c.ballot.promise.ClusterID == m.ClusterID:
	case m.Coordinator == c.me.RaftID:
		r.Kind = abortedKind // ours, not committed and not in flight: over
	}
	return r
}

// view is the candidates that count, by raft ID: this node with its own
// address, each node ID once.
func (c *core) view(all []Candidate) []Candidate {
	out := []Candidate{{RaftID: c.me.RaftID, NodeID: c.me.NodeID, PeerAddr: c.addr}}
	for _, v := range all {
		if v.RaftID != 0 && v.RaftID != c.me.RaftID && v.NodeID != "" && v.NodeID != c.me.NodeID && v.PeerAddr != "" && (v.Cluster == "" || v.Cluster == c.me.Cluster) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b Candidate) int { return cmp.Compare(a.RaftID, b.RaftID) })
	seen := map[string]bool{}
	raft := uint64(0)
	return slices.DeleteFunc(out, func(v Candidate) bool {
		dup := v.RaftID == raft || seen[v.NodeID]
		raft, seen[v.NodeID] = v.RaftID, true
		return dup
	})
}

// founders is the set this node would found a cluster with: the expected number
// of smallest raft IDs. nil while there are too few, or another has to ask.
func (c *core) founders(view []Candidate) []Voter {
	if c.expect == 0 || len(view) < c.expect || view[0].RaftID != c.me.RaftID {
		return nil
	}
	set := make([]Voter, c.expect)
	for i := range set {
		set[i] = Voter{RaftID: view[i].RaftID, NodeID: view[i].NodeID, PeerAddr: view[i].PeerAddr}
	}
	return set
}
