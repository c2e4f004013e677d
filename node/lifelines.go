package node

import (
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/sched"
)

// Lifelines: an idle node asks nobody in a loop. When an agent here has waited
// for idleMillis, the node tells its peers what its idle agents can do
// (notifyIdle), and keeps still. A peer whose agents hold ripe work that fits
// says so (notifySpare), once: that cuts the lifeline, and the node hangs it
// again when it is idle after what followed. Queued work needs no lifeline, for
// depthLoop tells of it. An agent is idle if a lease call of it waits and it has
// begun with all it holds.
const (
	idleMillis   = 50              // that an agent has waited before it steals
	idleLook     = 60              // ms until the loop looks whether an agent is idle
	idleLookMax  = 500             // likewise, when none was for a while
	spareLook    = 50              // ms between two looks at what agents hold
	spareShare   = 50              // of the loop's time, one part goes into looking
	robberyPause = time.Second     // before an agent that got nothing tries again
	robsAtOnce   = 8               // thefts of this node's agents
	maxIdleCaps  = 256             // capabilities of one lifeline; beyond it is of all
	hangAgain    = 5 * time.Minute // a lifeline whose message was lost is hung again
)

// thieves is the state of stealLoop.
type thieves struct {
	wake  chan struct{} // capacity 1
	armed atomic.Bool   // an agent waits, and the loop will look at it
	lines atomic.Bool   // somebody, here or at a peer, waits for spare work
	// forgotten: a peer may not know what it was told.
	forgotten atomic.Bool

	mu struct {
		sync.Mutex
		lines map[uint64][]string // by peer: what its idle agents can do
		told  map[uint64]float64  // by peer: the load of its most loaded agent
		robs  map[*seat]struct{}  // thefts under way, and pauses after vain ones
	}
	// The loop's own.
	hung     []string // what the peers were told that agents here can do; nil: nothing
	hungAt   time.Time
	look     time.Duration // until agents are looked at
	nextScan time.Time     // what agents hold is not looked at before
}

func newThieves() *thieves {
	t := &thieves{wake: make(chan struct{}, 1), look: idleLook * time.Millisecond}
	t.mu.lines, t.mu.told, t.mu.robs = map[uint64][]string{}, map[uint64]float64{}, map[*seat]struct{}{}
	return t
}

func (t *thieves) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// parked is called when an agent begins to wait, or has begun with all it has.
func (t *thieves) parked() {
	if !t.armed.Load() && !t.armed.Swap(true) {
		t.poke()
	}
}

// handed is called when agents here were given tasks.
func (t *thieves) handed() {
	if t.lines.Load() {
		t.poke()
	}
}

// idleHeard takes a peer's lifeline; no capabilities take it down.
func (t *thieves) idleHeard(from uint64, body []byte) {
	var caps []string
	if json.Unmarshal(body, &caps) != nil || len(caps) > maxIdleCaps {
		return
	}
	t.mu.Lock()
	t.mu.lines[from] = caps
	if len(caps) == 0 {
		delete(t.mu.lines, from)
	}
	t.mu.Unlock()
	t.lines.Store(true)
	t.poke()
}

// spareHeard takes a peer's word that its agents hold work for those here.
func (t *thieves) spareHeard(from uint64, body []byte) {
	var load float64
	if json.Unmarshal(body, &load) != nil {
		return
	}
	t.mu.Lock()
	t.mu.told[from] = load
	t.mu.Unlock()
	t.poke()
}

// peerUp forgets what a peer was told: it may be another process.
func (t *thieves) peerUp(id uint64) {
	t.mu.Lock()
	delete(t.mu.lines, id)
	delete(t.mu.told, id)
	t.mu.Unlock()
	t.forgotten.Store(true)
	t.poke()
}

// stealLoop has idle agents steal what others hold and have not begun with. It
// sleeps for as long as nobody waits, and when who waits has been announced.
func (n *core) stealLoop() {
	var timer <-chan time.Time
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.thieves.wake:
		case <-timer:
		}
		timer = nil
		if wait := n.stealRound(); wait > 0 {
			timer = time.After(wait)
		}
	}
}

// stealRound does what is to be done now and says when to look again; 0: when
// woken.
func (n *core) stealRound() time.Duration {
	t := n.thieves
	t.armed.Store(false)
	idle, young := n.idleSeats()
	var wait time.Duration
	sooner := func(d time.Duration) {
		if d > 0 && (wait == 0 || d < wait) {
			wait = d
		}
	}
	if young {
		t.armed.Store(true)
		sooner(t.look)
		t.look = min(2*t.look, idleLookMax*time.Millisecond)
	}
	if len(idle) > 0 {
		t.look = idleLook * time.Millisecond
	}
	if t.forgotten.Swap(false) {
		t.hung = nil
	}
	caps := capsOf(idle)
	sooner(n.offer(idle, caps))
	n.robTold(idle)
	n.hang(caps)
	n.tellIdlers(idle)
	return wait
}

// idleSeat is an agent that waits, and its lease call.
type idleSeat struct {
	*seat
	call parking
}

// idleSeats are the agents here that have waited for long enough and are not
// stealing, and whether others wait.
func (n *core) idleSeats() (idle []idleSeat, young bool) {
	now := n.nowMillis()
	t := n.thieves
	n.seats.Lock()
	defer n.seats.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range n.seats.of {
		call, ok := s.parked()
		switch {
		case !ok:
		case n.holds.busy(s.agent): // it asks for more than it can do at once
		case now-call.since < idleMillis:
			young = true
		default:
			if _, busy := t.mu.robs[s]; !busy {
				idle = append(idle, idleSeat{s, call})
			}
		}
	}
	return idle, young
}

func capsOf(idle []idleSeat) []string {
	var caps []string
	for _, s := range idle {
		caps = append(caps, s.call.caps...)
	}
	slices.Sort(caps)
	if caps = slices.Compact(caps); len(caps) > maxIdleCaps {
		return []string{"*:*"}
	}
	return caps
}

// offer looks at what the agents here hold and have not begun with: idle agents
// here steal it, or else peers with a lifeline are told. It says when to look
// again.
func (n *core) offer(idle []idleSeat, caps []string) time.Duration {
	t := n.thieves
	t.mu.Lock()
	lines := len(t.mu.lines) > 0
	t.mu.Unlock()
	t.lines.Store(lines || len(idle) > 0)
	if !lines && len(idle) == 0 {
		return 0
	}
	began := n.cfg.Now()
	if early := t.nextScan.Sub(began); early > 0 {
		return early
	}
	working := n.sessions.working()
	if len(working) == 0 {
		return 0
	}
	now := n.nowMillis()
	ripe, next := n.holds.ripe(working, now)
	ended := n.cfg.Now()
	t.nextScan = ended.Add(max(spareLook*time.Millisecond, spareShare*ended.Sub(began)))
	var wait time.Duration
	if next > 0 {
		wait = max(time.Duration(next-now)*time.Millisecond, spareLook*time.Millisecond)
	}
	if len(ripe) == 0 {
		return wait
	}
	for _, s := range idle {
		if slices.ContainsFunc(ripe, func(c string) bool { return sched.Matches(s.call.caps, c) }) {
			n.startRob(s, n.id.RaftID)
		}
	}
	most := 0.0
	for _, v := range n.spares("") {
		most = max(most, v.load)
	}
	b, _ := json.Marshal(most) // a number
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, can := range t.mu.lines {
		if slices.ContainsFunc(ripe, func(c string) bool { return sched.Matches(can, c) }) {
			delete(t.mu.lines, id) // cut
			_ = n.peers.Notify(id, notifySpare, b)
		}
	}
	return wait
}

// robTold has idle agents steal at the peers that said they have work, the most
// loaded first.
func (n *core) robTold(idle []idleSeat) {
	t := n.thieves
	t.mu.Lock()
	if len(t.mu.told) == 0 {
		t.mu.Unlock()
		return
	}
	told := t.mu.told
	t.mu.told = map[uint64]float64{}
	t.mu.Unlock()
	t.hung = nil // cut
	best, most := uint64(0), -1.0
	for id, load := range told {
		if load > most {
			best, most = id, load
		}
	}
	for _, s := range idle {
		n.startRob(s, best)
	}
}

// startRob lets an idle agent steal, beside the loop.
func (n *core) startRob(s idleSeat, victims uint64) {
	t := n.thieves
	t.mu.Lock()
	_, busy := t.mu.robs[s.seat]
	if busy || len(t.mu.robs) >= robsAtOnce {
		t.mu.Unlock()
		return
	}
	t.mu.robs[s.seat] = struct{}{}
	t.mu.Unlock()
	n.background(func() {
		if !n.rob(s.seat, victims, &s.call) {
			pause := time.NewTimer(robberyPause)
			defer pause.Stop()
			select {
			case <-pause.C:
			case <-n.ctx.Done():
			}
		}
		t.mu.Lock()
		delete(t.mu.robs, s.seat)
		t.mu.Unlock()
		t.armed.Store(true) // it may still be idle
		t.poke()
	})
}

// hang tells the peers what idle agents here can do, if they do not know.
func (n *core) hang(caps []string) {
	t := n.thieves
	if len(caps) == 0 || slices.Equal(caps, t.hung) && n.cfg.Now().Sub(t.hungAt) < hangAgain {
		return
	}
	n.tellPeers(notifyIdle, caps) // one that is away is told when it comes up
	t.hung, t.hungAt = caps, n.cfg.Now()
}

// parked is the agent's longest waiting call; false: none waits.
func (s *seat) parked() (call parking, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.mu.waiting {
		if !ok || p.since < call.since {
			call, ok = p, true
		}
	}
	return call, ok
}
