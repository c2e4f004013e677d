package node

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/sched"
)

// Limits of a lease request.
const (
	MaxLeases    = 1024
	maxLeaseWait = 60 * time.Second
)

// remoteEvery is how many leases are served from here before one asks first
// where older work waits; it keeps a task whose shard is led elsewhere from
// waiting behind an endless local queue.
const remoteEvery = 8

// seat is the place of one agent on this node: its workers in the scheduler
// (one a concurrent lease call), and its session, if it is connected.
type seat struct {
	agent  string
	caps   []string
	max    int // max_concurrent_tasks; 0 = no limit
	limits allowance
	// declared is its prior, see priorOf.
	declared float64
	mu       struct {
		sync.Mutex
		idle    []*sched.Worker
		waiting map[*sched.Worker]parking
		parcels []parcel
		closed  bool
		turn    int
	}
}

// parking is a lease call that waits for up to room tasks that caps can do.
type parking struct {
	room  int
	caps  []string
	since int64 // ms
}

// worker takes a scheduler worker for one lease call.
func (s *seat) worker(sc *sched.Scheduler, at standing) *sched.Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.turn++
	if n := len(s.mu.idle); n > 0 {
		w := s.mu.idle[n-1]
		s.mu.idle = s.mu.idle[:n-1]
		w.Update(at.success, at.load, at.trust)
		return w
	}
	return sc.AddWorker(sched.WorkerConfig{Name: s.agent, Capabilities: s.caps, Success: at.success, Load: at.load, Trust: at.trust})
}

// done puts a worker back, or away if the seat was closed meanwhile.
func (s *seat) done(w *sched.Worker) {
	s.mu.Lock()
	closed := s.mu.closed
	if !closed {
		s.mu.idle = append(s.mu.idle, w)
	}
	s.mu.Unlock()
	if closed {
		w.Close()
	}
}

func (s *seat) wait(w *sched.Worker, p parking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.waiting[w] = p
	if len(s.mu.parcels) > 0 { // partner: deliver leaves it, then looks who waits
		w.Wake()
	}
}

func (s *seat) unwait(w *sched.Worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.waiting, w)
}

// wake rouses up to n parked workers to look at the peers; it returns how many.
func (s *seat) wake(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	woken := 0
	for w := range s.mu.waiting {
		if woken == n {
			break
		}
		w.Wake()
		delete(s.mu.waiting, w)
		woken++
	}
	return woken
}

// gone says that the seat was closed.
func (s *seat) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}

func (s *seat) close() {
	s.mu.Lock()
	idle := s.mu.idle
	s.mu.idle, s.mu.closed = nil, true
	for w := range s.mu.waiting {
		w.Wake()
	}
	s.mu.Unlock()
	for _, w := range idle {
		w.Close()
	}
}

// Lease hands an agent up to Max tasks it is able to do, waiting up to
// WaitSeconds for the first. Tasks of shards led here come first; when there
// are none, the node asks the peer whose queue is known to be oldest.
func (n *core) Lease(ctx context.Context, req api.LeaseRequest) (api.Leases, error) {
	none := api.Leases{Tasks: []api.Lease{}}
	switch {
	case req.AgentID == "":
		return none, api.Errorf(422, 3, "agent_id_missing", api.RetryNo, "a lease names the agent_id it is for")
	case req.Max < 0 || req.Max > MaxLeases:
		return none, api.Errorf(422, 5, "bad_max", api.RetryNo, "max %d is not within 1 to %d", req.Max, MaxLeases)
	case req.WaitSeconds < 0 || req.WaitSeconds > maxLeaseWait.Seconds():
		return none, api.Errorf(422, 5, "bad_wait", api.RetryNo, "wait_seconds %g is not within 0 to %g", req.WaitSeconds, maxLeaseWait.Seconds())
	}
	seat, err := n.seatOf(ctx, req.AgentID)
	if err != nil {
		return none, err
	}
	n.roster.seen(req.AgentID)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(req.WaitSeconds*float64(time.Second))+time.Millisecond)
	defer cancel()
	w := seat.worker(n.sched, n.standing(seat))
	defer seat.done(w)
	for turn := 0; ; turn++ {
		freed := n.holds.letGoOf(seat)
		room, caps, alone := n.reserveFor(ctx, seat, max(req.Max, 1))
		var leases []api.Lease
		if room > 0 {
			leases = n.leaseOnce(ctx, seat, w, caps, room, alone)
		}
		if seat.limits.limited() {
			n.holds.release(req.AgentID, room)
		}
		switch {
		case len(leases) > 0:
			return api.Leases{Tasks: leases}, nil
		case ctx.Err() != nil || n.closing():
			return none, nil
		case seat.gone(): // the agent was lost, or has other capabilities now
			return n.Lease(ctx, req)
		case (room == 0 || !alone) && !n.roomFor(ctx, alone, freed, turn): // at its limits: a settled task makes room
			return none, nil
		}
	}
}

// leaseOnce takes up to room tasks, or waits for the first if told to.
func (n *core) leaseOnce(ctx context.Context, s *seat, w *sched.Worker, caps []string, room int, wait bool) []api.Lease {
	if stolen := s.unpack(room); stolen != nil {
		return stolen
	}
	if len(s.limits.caps) > 0 {
		w.UpdateCapabilities(caps)
	}
	got := n.take(ctx, s, w, caps, room)
	if len(got) == 0 && wait && ctx.Err() == nil && !n.closing() && !s.gone() {
		got = n.park(ctx, s, w, caps, room)
	}
	if len(got) == 0 {
		return s.unpack(room) // what roused it, while the room that it fills is set aside for it
	}
	return n.bodies(ctx, s.agent, got)
}

// take leases without waiting: from here, or from the peer with older work.
func (n *core) take(ctx context.Context, s *seat, w *sched.Worker, caps []string, room int) []grant {
	s.mu.Lock()
	remoteFirst := s.mu.turn%remoteEvery == 0
	s.mu.Unlock()
	if remoteFirst {
		if got := n.steal(ctx, s, caps, room); len(got) > 0 {
			return got
		}
	}
	buf := make([]sched.Handle, room)
	for {
		k := w.TryTake(buf)
		if k == 0 {
			break
		}
		if got := n.leaseHandles(buf[:k], s.agent, n.id.RaftID); len(got) > 0 {
			return got
		}
	}
	if remoteFirst {
		return nil
	}
	return n.steal(ctx, s, caps, room)
}

// park waits until the scheduler has work for w, a peer says it has, or ctx
// ends.
func (n *core) park(ctx context.Context, s *seat, w *sched.Worker, caps []string, room int) []grant {
	s.wait(w, parking{room: room, since: n.nowMillis(), caps: caps})
	defer s.unwait(w)
	n.thieves.parked()
	if n.depths.best(caps) != 0 { // a hint that came before the wait was announced
		if got := n.steal(ctx, s, caps, room); len(got) > 0 {
			return got
		}
	}
	buf := make([]sched.Handle, room)
	k, err := w.Take(ctx, buf)
	if err != nil || k == 0 {
		return nil
	}
	if k == 1 { // nothing is queued behind it
		if better, node := n.betterElsewhere(buf[0], s.agent); node != 0 {
			n.background(func() { n.handOverTask(buf[0], better, node) })
			return nil
		}
	}
	return n.leaseHandles(buf[:k], s.agent, n.id.RaftID)
}

// leaseHandles turns scheduler handles into leases at their desks.
func (n *core) leaseHandles(hs []sched.Handle, agent string, node uint64) []grant {
	n.rater.refresh()
	now := n.nowMillis()
	var out []grant
	for len(hs) > 0 {
		shard, k := handleShard(hs[0]), 1
		for k < len(hs) && handleShard(hs[k]) == shard {
			k++
		}
		if d := n.desk(shard); d != nil {
			out = d.leaseTo(hs[:k], agent, node, now, out)
		}
		hs = hs[k:]
	}
	return n.commitLeases(out, agent, node)
}

// stealRequest asks a peer for leases on what it has queued.
type stealRequest struct {
	Agent string   `json:"agent"`
	Node  uint64   `json:"node"`
	Caps  []string `json:"caps"`
	Max   int      `json:"max"`
}

type stolen struct {
	ID          ledger.TaskID `json:"id"`
	Epoch       uint64        `json:"epoch"`
	LeaseMillis int64         `json:"lease_ms"`
	Attempt     uint32        `json:"attempt"`
	Logged      bool          `json:"logged,omitempty"`
	Theft       *theft        `json:"theft,omitempty"`
}

// steal asks the longer of two peers for a batch of leases; no payload moves.
func (n *core) steal(ctx context.Context, s *seat, caps []string, room int) []grant {
	id := n.depths.best(caps)
	if id == 0 {
		return nil
	}
	body, err := json.Marshal(stealRequest{Agent: s.agent, Node: n.id.RaftID, Caps: caps, Max: room})
	if err == nil {
		body, err = n.callRaw(context.WithoutCancel(ctx), id, methodSteal, body)
	}
	var got []stolen
	if err == nil {
		got, err = readGrants(body)
	}
	if err != nil || len(got) == 0 {
		n.depths.spent(id, caps) // until it says again that it has work
		return nil
	}
	return grantsOf(got)
}

// serveSteal gives a peer's agent leases on what is queued here.
func (n *core) serveSteal(body []byte) []byte {
	var q stealRequest
	if err := json.Unmarshal(body, &q); err != nil || q.Max < 1 || q.Max > MaxLeases {
		return answerOf(nil, api.Errorf(400, 2, "malformed", api.RetryNo, "a request for leases: max %d, %v", q.Max, err))
	}
	buf := make([]sched.Handle, q.Max)
	var out []stolen
	for len(out) == 0 {
		k := n.sched.TakeFor(q.Caps, buf)
		if k == 0 {
			break
		}
		out = n.leaseAway(buf[:k], q.Agent, q.Node)
	}
	n.announceShards(out)
	return appendGrants([]byte{answerOK}, out)
}

// bodies fetches what the grants are about from this node's own replica,
// notes them as held, and confirms those that came from elsewhere. If the
// caller has gone meanwhile, everything is given back.
func (n *core) bodies(ctx context.Context, agent string, got []grant) []api.Lease {
	fetched := n.fetchBodies(ctx, got)
	out, kept := fetched[:0], got[:0] // both fall behind what is looked at
	var refused []grant
	now := n.nowMillis()
	perCapability := n.holds.perCapability(agent)
	for i, g := range got {
		lease := fetched[i]
		if lease.TaskID == "" {
			refused = append(refused, g)
			continue
		}
		g.action, g.target = lease.Action, lease.Target
		capability := ""
		if perCapability {
			capability = lease.Action + ":" + lease.Target
		}
		if !n.holds.admit(&g, agent, capability, now) {
			refused = append(refused, g)
			continue
		}
		out = append(out, lease)
		kept = append(kept, g)
	}
	n.handBack(refused)
	if errors.Is(ctx.Err(), context.Canceled) {
		for _, g := range kept {
			n.holds.drop(g.id, g.epoch)
		}
		n.handBack(kept)
		return nil
	}
	n.confirmGrants(kept)
	n.metrics.leased.Add(float64(len(kept)))
	return out
}

// depths is what the peers say waits in their queues.
type depths struct {
	mu struct {
		sync.Mutex
		of map[uint64][]depth // by raft ID, capabilities with queued > 0
	}
}

type depth struct {
	Capability string `json:"c"`
	Queued     int    `json:"n"`
	Oldest     int64  `json:"t"`
}

func newDepths() *depths {
	d := &depths{}
	d.mu.of = map[uint64][]depth{}
	return d
}

func (d *depths) set(id uint64, list []depth) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(list) == 0 {
		delete(d.mu.of, id)
		return
	}
	d.mu.of[id] = list
}

// best is whom an idle agent asks: of two peers with work that caps can do,
// drawn at random, the one with the longer queue, so that neither everybody
// asks the longest of all nor anybody the shortest. But who has waited longer
// by what a band is worth comes first, or short queues would starve beside
// long ones. 0 when no peer is known to have work.
func (d *depths) best(caps []string) uint64 {
	type candidate struct {
		id     uint64
		queued int
		oldest int64
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var a, b candidate // a sample of two
	seen := 0
	for id, list := range d.mu.of {
		c := candidate{id: id}
		for _, x := range list {
			if sched.Matches(caps, x.Capability) {
				if c.queued == 0 || x.Oldest < c.oldest {
					c.oldest = x.Oldest
				}
				c.queued += x.Queued
			}
		}
		if c.queued == 0 {
			continue
		}
		switch seen++; {
		case seen == 1:
			a = c
		case seen == 2:
			b = c
		default:
			if i := rand.N(seen); i == 0 {
				a = c
			} else if i == 1 {
				b = c
			}
		}
	}
	if seen < 2 {
		return a.id
	}
	switch age := b.oldest - a.oldest; {
	case age > sched.DefaultAgingMillis:
		return a.id
	case age < -sched.DefaultAgingMillis:
		return b.id
	case a.queued != b.queued:
		if a.queued > b.queued {
			return a.id
		}
		return b.id
	}
	if rand.N(2) == 0 {
		return a.id
	}
	return b.id
}

// spent forgets a peer's work for caps after it gave none.
func (d *depths) spent(id uint64, caps []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var left []depth
	for _, x := range d.mu.of[id] {
		if !sched.Matches(caps, x.Capability) {
			left = append(left, x)
		}
	}
	if len(left) == 0 {
		delete(d.mu.of, id)
	} else {
		d.mu.of[id] = left
	}
}
