package sched

import (
	"context"
	"strings"
	"sync"
)

// Handle names a task to its owner; opaque here.
type Handle uint64

// Class is an interned capability.
type Class uint32

// Band is a priority, 0 (low) to 3 (critical); higher is taken for 3.
type Band uint8

const (
	bands = 4
	// takeRun is how many handles are taken from one queue before the queues
	// are compared again.
	takeRun = 32
	// rankChoices is how many waiting workers are compared for a task; the best
	// of a few is close to the best of all (Mitzenmacher 2001) and bounds Push.
	rankChoices = 16
)

// Config of a Scheduler. Zero fields take the default.
type Config struct {
	// NowMillis is the clock that handles' ready times are of. Required.
	NowMillis func() int64
	// OnBacklog is called, outside every lock, after a push that no waiting
	// worker took. It must not block.
	OnBacklog func()
	// AgingMillis is how long a task waits before it counts one band higher;
	// default 10,000.
	AgingMillis int64
	// WeightSuccess and WeightLoad rank workers: success·ws − load·wl; default 1
	// and 0.3.
	WeightSuccess, WeightLoad float64
}

// Scheduler matches handles to workers. Its methods are safe for concurrent
// use.
type Scheduler struct {
	cfg Config
	mu  struct {
		sync.Mutex
		byName  map[string]Class
		classes []*class
		workers map[*Worker]struct{}
	}
}

type class struct {
	name    string
	queues  [bands]fifo
	queued  int
	waiting []wait    // newest last; stale entries are dropped when met
}

// wait is a worker's registration as waiting, valid while its turn is the
// same.
type wait struct {
	w    *Worker
	turn uint64
}

// New makes a scheduler.
func New(cfg Config) *Scheduler {
	if cfg.AgingMillis == 0 {
		cfg.AgingMillis = 10_000
	}
	if cfg.WeightSuccess == 0 && cfg.WeightLoad == 0 {
		cfg.WeightSuccess, cfg.WeightLoad = 1, 0.3
	}
	s := &Scheduler{cfg: cfg}
	s.mu.byName = map[string]Class{}
	s.mu.workers = map[*Worker]struct{}{}
	return s
}

// Matches says that a worker with caps can do capability. A cap is
// "action:target"; "*" stands for every target, or every action.
func Matches(caps []string, capability string) bool {
	for _, c := range caps {
		if matches(c, capability) {
			return true
		}
	}
	return false
}

func matches(pattern, capability string) bool {
	if pattern == capability {
		return true
	}
	pa, pt, _ := strings.Cut(pattern, ":")
	a, t, _ := strings.Cut(capability, ":")
	return (pa == "*" || pa == a) && (pt == "*" || pt == t)
}

// Class interns a capability.
func (s *Scheduler) Class(capability string) Class {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.mu.byName[capability]; ok {
		return c
	}
	id := Class(len(s.mu.classes))
	c := &class{name: strings.Clone(capability)}
	s.mu.byName[c.name] = id
	s.mu.classes = append(s.mu.classes, c)
	for w := range s.mu.workers {
		if Matches(w.caps, capability) {
			w.classes = append(w.classes, c)
			if w.waiting {
				c.waiting = append(c.waiting, wait{w, w.turn})
			}
		}
	}
	return id
}

// Push makes a task available: to the best-ranked waiting worker that can do
// it, or in its class's queue. It never blocks.
func (s *Scheduler) Push(h Handle, c Class, b Band, readyMillis int64) {
	s.mu.Lock()
	queued := s.push(s.mu.classes[c], item{h, readyMillis}, min(b, bands-1))
	s.mu.Unlock()
	if queued && s.cfg.OnBacklog != nil {
		s.cfg.OnBacklog()
	}
}

func (s *Scheduler) push(cl *class, x item, b Band) (queued bool) {
	if w := cl.bestWaiting(); w != nil {
		w.given = append(w.given, given{x, cl, b})
		w.signal()
		return false
	}
	cl.queues[b].push(x)
	cl.queued++
	return true
}

// bestWaiting takes the best-ranked of the workers that have waited longest
// out of the waiting, ties to the longest.
func (cl *class) bestWaiting() *Worker {
	best, seen, i := -1, 0, 0
	for i < len(cl.waiting) && seen < rankChoices {
		x := cl.waiting[i]
		if !x.w.waiting || x.w.turn != x.turn {
			cl.waiting = append(cl.waiting[:i], cl.waiting[i+1:]...)
			continue
		}
		if best < 0 || x.w.rank > cl.waiting[best].w.rank {
			best = i
		}
		seen++
		i++
	}
	if best < 0 {
		return nil
	}
	w := cl.waiting[best].w
	cl.waiting = append(cl.waiting[:best], cl.waiting[best+1:]...)
	return w
}

// collect takes up to len(buf) handles of classes, highest effective band
// first, then oldest.
func (s *Scheduler) collect(classes []*class, buf []Handle) int {
	n := 0
	now := s.cfg.NowMillis()
	for n < len(buf) {
		var best *fifo
		var from *class
		bestBand, bestMillis := int64(-1), int64(0)
		for _, c := range classes {
			if c.queued == 0 {
				continue
			}
			for b := range c.queues {
				q := &c.queues[b]
				if q.size == 0 {
					continue
				}
				band := int64(b) + max(now-q.oldest(), 0)/s.cfg.AgingMillis
				if best == nil || band > bestBand || band == bestBand && q.oldest() < bestMillis {
					best, from, bestBand, bestMillis = q, c, band, q.oldest()
				}
			}
		}
		if best == nil {
			break
		}
		for k := 0; k < takeRun && n < len(buf) && best.size > 0; k++ {
			buf[n] = best.pop().handle
			from.queued--
			n++
		}
	}
	return n
}

// TakeFor takes up to len(buf) queued handles that caps can do, for a worker
// of another node.
func (s *Scheduler) TakeFor(caps []string, buf []Handle) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var classes []*class
	for _, c := range s.mu.classes {
		if c.queued > 0 && Matches(caps, c.name) {
			classes = append(classes, c)
		}
	}
	return s.collect(classes, buf)
}

// Depth is how much of a capability is queued, and since when.
type Depth struct {
	Capability   string
	Queued       int
	OldestMillis int64 // 0: nothing queued
}

// Depths lists every class ever seen, in the order they were.
func (s *Scheduler) Depths() []Depth {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Depth, len(s.mu.classes))
	for i, c := range s.mu.classes {
		out[i] = Depth{Capability: c.name, Queued: c.queued}
		for b := range c.queues {
			if q := &c.queues[b]; q.size > 0 && (out[i].OldestMillis == 0 || q.oldest() < out[i].OldestMillis) {
				out[i].OldestMillis = q.oldest()
			}
		}
	}
	return out
}

// WorkerConfig describes a worker.
type WorkerConfig struct {
	Name         string
	Capabilities []string // "action:target", "*" as wildcard
	Success      float64  // measured share of completed attempts, 0 to 1
	Load         float64  // 0 to 1
}

// Worker takes handles it is able to do. Take, TryTake and Close are called by
// its one owner; Wake and Update by anyone.
type Worker struct {
	s       *Scheduler
	name    string
	caps    []string
	wake    chan struct{} // capacity 1
	classes []*class      // guarded by the scheduler's lock, as all below
	rank    float64
	waiting bool
	turn    uint64
	woken   bool // by Wake
	closed  bool
	given   []given
}

type given struct {
	item  item
	class *class
	band  Band
}

// AddWorker enters a worker.
func (s *Scheduler) AddWorker(cfg WorkerConfig) *Worker {
	w := &Worker{s: s, name: cfg.Name, caps: cfg.Capabilities, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.rank = s.cfg.WeightSuccess*cfg.Success - s.cfg.WeightLoad*cfg.Load
	s.mu.workers[w] = struct{}{}
	for _, c := range s.mu.classes {
		if Matches(w.caps, c.name) {
			w.classes = append(w.classes, c)
		}
	}
	return w
}

// Update changes what the worker is ranked by.
func (w *Worker) Update(success, load float64) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.rank = w.s.cfg.WeightSuccess*success - w.s.cfg.WeightLoad*load
}

// signal ends the wait; call with the lock held.
func (w *Worker) signal() {
	w.waiting = false
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// TryTake takes what is there, without waiting.
func (w *Worker) TryTake(buf []Handle) int {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.collect(w.classes, buf)
}

// Take takes up to len(buf) handles, waiting for the first. It returns 0 and
// nil after Wake or Close, and ctx's error when that ends first; a handle that
// was given just then is returned.
func (w *Worker) Take(ctx context.Context, buf []Handle) (int, error) {
	s := w.s
	s.mu.Lock()
	if n := s.collect(w.classes, buf); n > 0 || w.closed || w.woken {
		w.woken = false
		s.mu.Unlock()
		return n, nil
	}
	select { // a signal from an earlier wait
	case <-w.wake:
	default:
	}
	w.waiting = true
	w.turn++
	for _, c := range w.classes {
		c.waiting = append(c.waiting, wait{w, w.turn})
	}
	s.mu.Unlock()
	var err error
	select {
	case <-w.wake:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.waiting, w.woken = false, false
	w.leave()
	n := 0
	for _, g := range w.given {
		if n < len(buf) {
			buf[n] = g.item.handle
			n++
		} else {
			s.push(g.class, g.item, g.band)
		}
	}
	w.given = w.given[:0]
	if n > 0 {
		return n + s.collect(w.classes, buf[n:]), nil
	}
	return 0, err
}

// leave removes the worker's registrations, so that stale ones don't pile up
// in classes that see no pushes.
func (w *Worker) leave() {
	for _, c := range w.classes {
		for i := range c.waiting {
			if c.waiting[i].w == w {
				c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
				break
			}
		}
	}
}

// Wake makes the worker's Take, present or next, return without a handle: a
// hint that there is work elsewhere.
func (w *Worker) Wake() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.waiting {
		w.signal()
	} else {
		w.woken = true
	}
}

// Close removes the worker.
func (w *Worker) Close() {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	w.closed = true
	w.leave()
	delete(s.mu.workers, w)
	for _, g := range w.given {
		s.push(g.class, g.item, g.band)
	}
	w.given = nil
	w.signal()
}
