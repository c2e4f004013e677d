package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// roster is what a node heard of agents. On every node it collects who was
// seen, for the control shard's leader; on that leader it is the cluster's
// view of who is alive, which the replicated state follows. All of it is
// volatile.
type roster struct {
	now   func() int64
	since int64 // when it began to count
	mu    struct {
		sync.Mutex
		fresh map[string]int64      // seen here since the last flush: when
		view  map[string]*agentView // the leader's view
		loads map[string]float64    // as agents reported, here or at a peer
		score map[string]*tally     // attempts, since this node started
	}
}

type agentView struct {
	lastMillis int64
	load       float64
	current    int
	node       string // that saw it last
	at, ended  int64  // when that was, and when a connection to it ended, by that node's clock; 0 not known
}

// sighting is news of one agent.
type sighting struct {
	Agent   string   `json:"agent"`
	Load    *float64 `json:"load,omitempty"`
	Current int      `json:"current,omitempty"`
	State   string   `json:"state,omitempty"`
	Node    string   `json:"node"`
	Age     int64    `json:"age_ms,omitempty"` // how long ago; clocks of two nodes are not compared
	At      int64    `json:"at_ms,omitempty"`  // when, by Node's clock; 0 not said
}

type goneRequest struct {
	Agent string `json:"agent"`
	Age   int64  `json:"age_ms"` // how long ago the connection ended
	Node  string `json:"node,omitempty"`
	At    int64  `json:"at_ms,omitempty"` // when, by Node's clock; 0 not said
}

func newRoster(now func() int64) *roster {
	r := &roster{now: now, since: now()}
	r.mu.fresh = map[string]int64{}
	r.mu.view = map[string]*agentView{}
	r.mu.score = map[string]*tally{}
	r.mu.loads = map[string]float64{}
	return r
}

// seen notes that an agent called this node.
func (r *roster) seen(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.fresh[id] = r.now()
}

// applied counts what events say of agents' attempts.
func (r *roster) applied(events []ledger.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range events {
		e := &events[i]
		if e.Agent == "" {
			continue
		}
		t := r.mu.score[e.Agent]
		if t == nil {
			if len(r.mu.score) >= maxSeats {
				continue
			}
			t = &tally{}
			r.mu.score[e.Agent] = t
		}
		switch {
		case e.Settled && e.State == ledger.StateCompleted:
			t.completed++
		case e.Settled:
			t.failed++
		case e.From == ledger.StateReady || e.From == ledger.StateRunning:
			switch e.State {
			case ledger.StateReady, ledger.StateSubmitted, ledger.StateFailed, ledger.StateUnknown:
				t.lost++
			}
		}
	}
}

// says notes the load an agent reports.
func (r *roster) says(id string, load float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.mu.loads[id]; ok || len(r.mu.loads) < maxSeats {
		r.mu.loads[id] = load
	}
}

// of is an agent's attempts and the load it reported.
func (r *roster) of(id string) (t tally, load float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.mu.score[id]; x != nil {
		t = *x
	}
	return t, r.mu.loads[id]
}

// forget drops what is known of an agent that is gone.
func (r *roster) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.score, id)
	delete(r.mu.loads, id)
}

func (r *roster) takeFresh(nodeID string) []sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []sighting
	now := r.now()
	for id, at := range r.mu.fresh {
		out = append(out, sighting{Agent: id, Node: nodeID, Age: max(now-at, 0), At: at})
	}
	clear(r.mu.fresh)
	return out
}

// merge takes sightings into the leader's view, and returns those that say
// something: others are from before an end that is known, and were slow.
func (r *roster) merge(list []sighting) (news []sighting) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range list {
		v := r.mu.view[s.Agent]
		if v == nil {
			v = &agentView{}
			r.mu.view[s.Agent] = v
		}
		if s.Node != "" && s.Node == v.node && s.At != 0 && s.At <= v.ended {
			continue
		}
		if s.Node != v.node || s.At == 0 {
			v.at, v.ended = 0, 0
		}
		v.lastMillis, v.node, v.at = max(v.lastMillis, now-s.Age), s.Node, max(v.at, s.At)
		news = append(news, s)
		if s.Load != nil {
			v.load, v.current = *s.Load, s.Current
		}
	}
	return news
}

// restart gives every agent a fresh start under a new leader.
func (r *roster) restart(ids []string) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.mu.view)
	for _, id := range ids {
		r.mu.view[id] = &agentView{lastMillis: now}
	}
}

// last is when the leader heard of an agent; one it never heard of starts now.
func (r *roster) last(id string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.mu.view[id]
	if v == nil {
		v = &agentView{lastMillis: r.now()}
		r.mu.view[id] = v
	}
	return v.lastMillis
}

// describe lays the leader's view over an agent's replicated state.
func (r *roster) describe(a *api.Agent) {
	r.mu.Lock()
	if v := r.mu.view[a.AgentID]; v != nil {
		a.LastHeartbeat, a.Load, a.CurrentTasks, a.NodeID = timePtr(v.lastMillis), v.load, v.current, v.node
	}
	var t tally
	if x := r.mu.score[a.AgentID]; x != nil {
		t = *x
	}
	r.mu.Unlock()
	a.Completed, a.Failed = t.completed, t.failed
	a.Success = t.success(declared(a.Capabilities))
	a.Lost, a.Trust, a.MeasuredFrom = t.lost, t.trust(), timeOf(r.since)
}

// flushSeen sends what was seen here to the control leader. Lost news is
// repeated by the agent's next call.
func (n *core) flushSeen() {
	for _, id := range n.sessions.all() {
		n.roster.seen(id)
	}
	list := n.roster.takeFresh(n.id.NodeID)
	if len(list) == 0 {
		return
	}
	n.background(func() {
		_, err := onLeader(n.ctx, n, controlShard, methodSeen, list, n.seenHere)
		if err != nil && !n.closing() {
			n.cfg.Logger.Debug("sightings not delivered", "layer", 3, "error", err)
		}
	})
}

// seenHere merges sightings on the control leader and corrects the replicated
// state of agents that came back or changed it.
func (n *core) seenHere(ctx context.Context, list []sighting) (struct{}, error) {
	list = n.roster.merge(list)
	var cmds []ledger.Command
	n.control.view(func(c *ledger.Control) {
		for _, s := range list {
			a, ok := c.Agent(s.Agent)
			if !ok {
				continue
			}
			want := a.State
			switch {
			case s.State == api.AgentDraining:
				want = ledger.AgentDraining
			case s.State == api.AgentHealthy, a.State == ledger.AgentUnresponsive, a.State == ledger.AgentOffline:
				want = ledger.AgentHealthy
			}
			if want != a.State {
				cmds = append(cmds, &ledger.AgentState{ID: s.Agent, State: want, Reason: "heard of at " + s.Node})
			}
		}
	})
	if len(cmds) > 0 {
		for _, a := range n.doHere(ctx, controlShard, cmds) {
			if a.err != nil {
				return struct{}{}, a.err
			}
		}
	}
	return struct{}{}, nil
}

// sightingSlackMs is what a sighting may be off: it was noted shortly before
// it was sent, and so was the end of the connection.
const sightingSlackMs = 20

// ended notes the end of an agent's connection. It is no loss if the agent was
// heard of since. A sighting by the node that tells of the end is compared by
// that node's clock: it may have been longer on its way than the slack.
func (r *roster) ended(q *goneRequest) (lost bool) {
	last := r.last(q.Agent)
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.mu.view[q.Agent]
	if v == nil || v.node != q.Node || v.at == 0 || q.At == 0 {
		return last <= r.now()-q.Age+sightingSlackMs
	}
	if v.at > q.At+sightingSlackMs {
		return false
	}
	v.ended = max(v.ended, q.At)
	return true
}

// goneHere takes the end of an agent's connection on the control leader,
// unless the agent was heard of since.
func (n *core) goneHere(ctx context.Context, q goneRequest) (struct{}, error) {
	if !n.roster.ended(&q) {
		return struct{}{}, nil
	}
	a := n.doHere(ctx, controlShard, []ledger.Command{&ledger.AgentState{ID: q.Agent, State: ledger.AgentOffline, Reason: "connection lost"}})[0]
	return struct{}{}, a.err
}

// watchAgents is the control leader's look at who has been silent for too
// long; the caller repeats it.
func (n *core) watchAgents() {
	limit := n.nowMillis() - missedBeats*n.cfg.AgentInterval.Milliseconds()
	var cmds []ledger.Command
	n.control.view(func(c *ledger.Control) {
		for _, a := range c.Agents() {
			if a.State != ledger.AgentHealthy && a.State != ledger.AgentDraining {
				continue
			}
			if last := n.roster.last(a.ID); last <= limit {
				cmds = append(cmds, &ledger.AgentState{ID: a.ID, State: ledger.AgentUnresponsive, Reason: "silent for three heartbeats"})
			}
		}
	})
	if len(cmds) > 0 {
		n.doHere(n.ctx, controlShard, cmds)
	}
}

// sessions are the agents connected to this node.
type sessions struct {
	clock func() time.Time
	mu    struct {
		sync.Mutex
		of    map[string]*session
		works int              // those among them that renew what they hold
		away  map[string]int64 // agents whose session ended a moment ago: when they came to another node, 0 not yet
	}
}

type session struct {
	bell   chan struct{} // capacity 1: there are events
	fenced chan struct{} // closed when the agent connected again
	opened time.Time
	work   bool // its node renews what the agent holds
	turn   uint32
	room   atomic.Int64 // tasks it asks for beside those it has, as last heard

	mu struct {
		sync.Mutex
		events []api.SessionEvent // what it has to be told
		lost   bool               // more than that
	}
}

// sessionQueue bounds what waits to be told to a slow reader: all it may hold
// can be over at once. A session that is further behind ends, and the next one's
// hello says what the agent still has.
const sessionQueue = api.MaxCredit

func newSessions(clock func() time.Time) *sessions {
	s := &sessions{clock: clock}
	s.mu.of = map[string]*session{}
	s.mu.away = map[string]int64{}
	return s
}

func (s *sessions) open(id string, turn uint32) *session { return s.enter(id, false, turn) }

// openWork opens a session whose node renews.
func (s *sessions) openWork(id string, turn uint32) *session { return s.enter(id, true, turn) }

func (s *sessions) enter(id string, work bool, turn uint32) *session {
	x := &session{bell: make(chan struct{}, 1), fenced: make(chan struct{}), opened: s.clock(), work: work, turn: turn}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.mu.of[id]; old != nil {
		s.fence(old)
	}
	if work {
		s.mu.works++
	}
	s.mu.of[id] = x
	return x
}

// fence ends a session that another took the place of. Call with the lock held.
func (s *sessions) fence(x *session) {
	close(x.fenced)
	if x.work {
		s.mu.works--
	}
}

// working are the agents whose node renews for them.
func (s *sessions) working() map[string]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.works == 0 {
		return nil
	}
	ids := make(map[string]struct{}, s.mu.works)
	for id, x := range s.mu.of {
		if x.work {
			ids[id] = struct{}{}
		}
	}
	return ids
}

// moved takes the news that an agent connected to another node: its session
// here is fenced if older says so, and one that ended just now is no loss. It
// says whether a session was fenced.
func (s *sessions) moved(id string, nowMillis int64, older func(*session) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.mu.away[id]; ok {
		s.mu.away[id] = nowMillis
	}
	x := s.mu.of[id]
	if x == nil || !older(x) {
		return false
	}
	s.fence(x)
	delete(s.mu.of, id)
	return true
}

// back forgets an agent's absence and says whether it went on elsewhere.
func (s *sessions) back(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.mu.away[id]
	delete(s.mu.away, id)
	return at > 0
}

// close ends a session; false when a newer one had taken its place.
func (s *sessions) close(id string, x *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.of[id] != x {
		return false
	}
	if x.work {
		s.mu.works--
	}
	delete(s.mu.of, id)
	s.mu.away[id] = 0
	return true
}

func (s *sessions) connected(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.of[id] != nil
}

func (s *sessions) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.mu.of))
	for id := range s.mu.of {
		ids = append(ids, id)
	}
	return ids
}

// tell passes revocations to the connected holders.
func (s *sessions) tell(gone []revoked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range gone {
		if x := s.mu.of[g.agent]; x != nil {
			x.revoke(api.SessionEvent{Type: "revoked", TaskID: g.id.String(), Epoch: g.epoch, Reason: g.reason})
		}
	}
}

func (x *session) revoke(e api.SessionEvent) {
	x.mu.Lock()
	if x.mu.lost = x.mu.lost || len(x.mu.events) == sessionQueue; !x.mu.lost {
		x.mu.events = append(x.mu.events, e)
	}
	x.mu.Unlock()
	select {
	case x.bell <- struct{}{}:
	default:
	}
}

// told takes what is to be told, limit at most; the bell rings again when there
// is more.
func (x *session) told(limit int) ([]api.SessionEvent, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.lost {
		return nil, api.Errorf(503, 2, "slow_reader", api.RetryLater, "more than %d revocations wait to be read", sessionQueue).
			WithHint("read the session's events as they come; a new session says what is still held")
	}
	list := x.mu.events
	if len(list) <= limit {
		x.mu.events = nil
		return list, nil
	}
	x.mu.events = list[limit:]
	select {
	case x.bell <- struct{}{}:
	default:
	}
	return list[:limit:limit], nil
}
