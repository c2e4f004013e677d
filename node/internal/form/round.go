package form

import (
	"fmt"
	"slices"
	"strings"
)

// RefusedError says that another node will not form a cluster with this one,
// and that trying again will not change it.
type RefusedError struct {
	By   string // its address
	Code string // CodeCluster or CodeNodeID
	Text string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("form: refused by %s: %s: %s", e.By, e.Code, e.Text)
}

// round is called again and again until the node is formed; it returns what to
// send now.
func (c *core) round(all []Candidate) []request {
	c.rounds++
	view := c.view(all)
	switch {
	case c.fatal != nil || c.me.formed():
		c.waiting = ""
		return nil
	case c.me.Promise != nil:
		return c.inquire(view)
	case c.ballot != nil:
		return c.press(view)
	}
	if asks := c.askFormed(view); len(asks) > 0 {
		c.waiting = "joining the cluster of " + asks[0].addr
		return asks
	}
	c.describe(view)
	if c.rest > 0 {
		c.rest--
		return nil
	}
	if set := c.founders(view); set != nil {
		return c.begin(set)
	}
	if c.rounds%askRounds == 1 {
		return c.askAll(view)
	}
	return nil
}

func (c *core) describe(view []Candidate) {
	names := make([]string, len(view))
	for i, v := range view {
		names[i] = v.NodeID
	}
	seen := fmt.Sprintf("%d nodes seen (%s)", len(view), strings.Join(names, ", "))
	switch {
	case c.expect == 0:
		c.waiting = "a cluster to join; " + seen
	case len(view) < c.expect:
		c.waiting = fmt.Sprintf("%d expected, %s", c.expect, seen)
	default:
		c.waiting = fmt.Sprintf("%d expected, %s; %s founds the cluster", c.expect, seen, view[0].NodeID)
	}
}

// begin starts a bootstrap.
func (c *core) begin(set []Voter) []request {
	c.ballot = &ballot{yes: map[uint64]bool{c.me.RaftID: true},
		promise: Promise{ClusterID: c.draw(), Coordinator: c.me.RaftID, Shards: c.shards, Voters: set}}
	if len(set) == 1 {
		return c.commit()
	}
	return c.prepares()
}

// prepares asks those of the set who have not promised yet.
func (c *core) prepares() []request {
	var out []request
	p := c.ballot.promise
	for _, v := range p.Voters {
		if !c.ballot.yes[v.RaftID] {
			m := c.message(prepareKind, v.RaftID)
			m.ClusterID, m.Coordinator, m.Shards, m.Voters = p.ClusterID, p.Coordinator, p.Shards, slices.Clone(p.Voters)
			out = append(out, request{v.PeerAddr, m})
		}
	}
	return out
}

// press goes on with a bootstrap, or gives it up when it takes too long or the
// view has changed.
func (c *core) press(view []Candidate) []request {
	b := c.ballot
	b.age++
	c.waiting = fmt.Sprintf("promises: %d of %d nodes agreed to found the cluster", len(b.yes), len(b.promise.Voters))
	if asks := c.askFormed(view); len(asks) > 0 {
		return append(c.abort(), asks...)
	}
	if b.age > ballotRounds || !slices.Equal(c.founders(view), b.promise.Voters) {
		return c.abort()
	}
	return c.prepares()
}

// abort gives the bootstrap up. Saying so is a courtesy: members ask.
func (c *core) abort() []request {
	p := c.ballot.promise
	c.ballot = nil
	c.rest = 1 + c.jitter(restRounds)
	return c.tell(releaseKind, &p)
}

// commit decides the bootstrap: it is so when the identity is durable.
func (c *core) commit() []request {
	p := c.ballot.promise
	if !c.become(p.ClusterID, p.Shards, p.Voters, false) {
		return nil
	}
	return c.tell(commitKind, &p)
}

// tell tells the others of a set the decision.
func (c *core) tell(kind string, p *Promise) []request {
	var out []request
	for _, v := range p.Voters {
		if v.RaftID != c.me.RaftID {
			m := c.message(kind, v.RaftID)
			m.ClusterID, m.Coordinator = p.ClusterID, p.Coordinator
			out = append(out, request{v.PeerAddr, m})
		}
	}
	return out
}

// inquire asks everyone of the promised set for the outcome, the coordinator
// first; they may have moved to another address.
func (c *core) inquire(view []Candidate) []request {
	p := c.me.Promise
	c.waiting = fmt.Sprintf("the decision of the coordinator, raft ID %x", p.Coordinator)
	var out []request
	for _, v := range p.Voters {
		if v.RaftID == c.me.RaftID {
			continue
		}
		if v.RaftID == p.Coordinator {
			c.waiting = fmt.Sprintf("the decision of %s (%s), the coordinator", v.NodeID, v.PeerAddr)
		}
		for _, now := range view {
			if now.RaftID == v.RaftID {
				v.PeerAddr = now.PeerAddr
			}
		}
		m := c.message(queryKind, v.RaftID)
		m.ClusterID, m.Coordinator = p.ClusterID, p.Coordinator
		out = append(out, request{v.PeerAddr, m})
	}
	return out
}

// maxAsks of the nodes known to be formed: one that answers is enough.
const maxAsks = 3

func (c *core) askFormed(view []Candidate) []request {
	var out []request
	for _, v := range view {
		if !v.ClusterID.IsZero() && len(out) < maxAsks {
			out = append(out, request{v.PeerAddr, c.message(askKind, v.RaftID)})
		}
	}
	return out
}

func (c *core) askAll(view []Candidate) []request {
	var out []request
	for _, v := range view {
		if v.RaftID != c.me.RaftID {
			out = append(out, request{v.PeerAddr, c.message(askKind, v.RaftID)})
		}
	}
	return out
}

// reply takes the answer to a request, once, twice or late, and returns what to
// send in turn.
func (c *core) reply(req *request, r *message) []request {
	q := &req.msg
	if c.fatal != nil || c.me.formed() || r.From != q.To || r.To != c.me.RaftID || r.Cluster != c.me.Cluster && r.Kind != refusedKind {
		return nil
	}
	if r.Kind == refusedKind {
		if r.Code == CodeCluster || r.Code == CodeNodeID {
			c.fatal = &RefusedError{By: req.addr, Code: r.Code, Text: r.Text}
			if c.ballot != nil {
				return c.abort() // nobody waits for this node
			}
		} else {
			c.waiting = fmt.Sprintf("%s refuses: %s: %s", req.addr, r.Code, r.Text)
		}
		return nil
	}
	switch q.Kind {
	case askKind:
		return c.join(r)
	case prepareKind:
		if c.ballot == nil || c.ballot.promise.ClusterID != q.ClusterID {
			return c.join(r) // an old one
		}
		switch {
		case r.Kind == promisedKind && r.ClusterID == q.ClusterID:
			if c.ballot.yes[r.From] = true; len(c.ballot.yes) == len(c.ballot.promise.Voters) {
				return c.commit()
			}
		case r.Kind == formedKind:
			return append(c.abort(), c.join(r)...)
		}
	case queryKind:
		return c.learn(q, r)
	}
	return nil
}

// learn takes what a member of the promised set knows.
func (c *core) learn(q, r *message) []request {
	p := c.me.Promise
	if p == nil || p.ClusterID != q.ClusterID {
		return c.join(r)
	}
	switch {
	case r.Kind == formedKind && r.ClusterID == p.ClusterID:
		c.become(p.ClusterID, p.Shards, p.Voters, false)
	case r.Kind == formedKind:
		// A founder we were promised together with is part of another cluster: it
		// was released from ours, or never promised and never will.
		if c.promiseTo(nil) {
			return c.join(r)
		}
	case r.Kind == abortedKind && r.From == p.Coordinator && r.ClusterID == p.ClusterID:
		c.rest = c.jitter(restRounds)
		c.promiseTo(nil)
	}
	return nil
}

// join becomes a gateway to a cluster that exists, when nothing binds this node.
func (c *core) join(r *message) []request {
	if r.Kind != formedKind || c.me.Promise != nil || c.ballot != nil || r.ClusterID.IsZero() || len(r.Voters) == 0 || r.Shards == 0 {
		return nil
	}
	for _, v := range r.Voters {
		if v.RaftID == c.me.RaftID {
			c.fatal = fmt.Errorf("form: this node is a founder of cluster %s and does not know it: its data directory is an older copy", r.ClusterID)
			return nil
		}
	}
	c.become(r.ClusterID, r.Shards, r.Voters, true)
	return nil
}
