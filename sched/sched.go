package sched

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Handle names a task to its owner; opaque here.
type Handle uint64

// Class is an interned capability.
type Class uint32

// Band is a priority, 0 (low) to 3 (critical); higher is taken for 3.
type Band uint8

const (
	bands = 4
	// DefaultAgingMillis is how much longer than a task of the next band a task
	// waits before it goes first.
	DefaultAgingMillis = 10_000
	// takeRun is how many handles are taken from one queue while others wait to
	// be compared with it again.
	takeRun = 32
)

// Config of a Scheduler. Zero fields take the default.
type Config struct {
	// NowMillis is the clock that ready times are of; default the wall clock. A
	// ready time beyond it counts as now.
	NowMillis func() int64
	// OnBacklog is called, with no lock held, after work was queued that no
	// waiting worker took; then not again before the next call of Depths. It
	// runs on the pusher's goroutine and must not block.
	OnBacklog func()
	// AgingMillis: a task is taken before one of the next higher band that
	// became ready so much later; default DefaultAgingMillis.
	AgingMillis int64
	// WeightSuccess, WeightLoad and WeightTrust rank workers by
	// success·ws + trust·wt − load·wl. Default, when all are 0: 1, 0.3 and 0.3.
	WeightSuccess, WeightLoad, WeightTrust float64
	// FleetWeights are the fleets' shares of a worker that several of them have
	// work for, against each other; default 1, at most MaxFleetWeight.
	FleetWeights map[string]int
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	if c.NowMillis == nil {
		c.NowMillis = func() int64 { return time.Now().UnixMilli() }
	}
	if c.OnBacklog == nil {
		c.OnBacklog = func() {}
	}
	if c.AgingMillis == 0 {
		c.AgingMillis = DefaultAgingMillis
	}
	if c.WeightSuccess == 0 && c.WeightLoad == 0 && c.WeightTrust == 0 {
		c.WeightSuccess, c.WeightLoad, c.WeightTrust = 1, 0.3, 0.3
	}
	return c
}

// Validate returns every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.AgingMillis < 0 {
		errs = append(errs, fmt.Errorf("sched: AgingMillis %d is negative", c.AgingMillis))
	}
	for _, w := range []float64{c.WeightSuccess, c.WeightLoad, c.WeightTrust} {
		if !(w >= 0 && w <= maxWeight) {
			errs = append(errs, fmt.Errorf("sched: weight %g is not within 0 and %g", w, float64(maxWeight)))
		}
	}
	return errors.Join(append(errs, c.validateFleets()...)...)
}

// Scheduler matches handles to workers. Its methods are safe for concurrent
// use.
type Scheduler struct {
	cfg Config

	classes atomic.Pointer[[]*class] // by Class; replaced under mu, elements stay
	names   atomic.Pointer[map[className]Class]
	workers atomic.Pointer[[]atomic.Pointer[Worker]] // by index; a free one is nil

	// ready has the classes whose injectors hold something. A pusher sets the
	// bit after it published; a taker that finds the class empty clears it,
	// looks once more and, if it was wrong, does what a pusher does.
	ready bitmap
	// laned has the classes that ever had a lane.
	laned bitmap
	// waiting has the indexes of parked workers, and is the claim on them: who
	// clears the bit, and nobody else, sends the worker its token.
	waiting bitmap
	scores  scores
	fronts  fronts

	spinners    atomic.Int32
	maxSpinners int32
	announced   atomic.Bool // OnBacklog was called since the last Depths

	// mu is for what is rare: new classes and workers, and their going.
	mu struct {
		sync.Mutex
		names  map[className]Class // all; the published map lags
		kin    map[string]*class   // by capability, the first class of it
		fleets map[string]uint32
		missed int      // lookups the published map could not serve
		free   []uint32 // worker indexes
		all    map[*Worker]struct{}
	}
}

type class struct {
	id    Class
	name  string // the capability
	front *front
	first uint32        // where the capability stands among all that were ever seen
	able  bitmap        // worker indexes; changed under Scheduler.mu
	turn  atomic.Uint32 // where the next search for a waiting worker starts
	lanes atomic.Pointer[[]*laneSet]
	_     [cacheLine]byte
	bands [bands]injector
}

// laneSet is the lanes of one worker for one class, made when first used.
type laneSet struct {
	class *class
	owner *Worker
	bands [bands]atomic.Pointer[lane]
}

// New makes a scheduler. It panics on a Config that Validate refuses.
func New(cfg Config) *Scheduler {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	s := &Scheduler{cfg: cfg.WithDefaults(), maxSpinners: int32(runtime.GOMAXPROCS(0)+1) / 2}
	s.classes.Store(&[]*class{})
	s.names.Store(&map[className]Class{})
	s.workers.Store(&[]atomic.Pointer[Worker]{})
	s.mu.names, s.mu.kin, s.mu.fleets = map[className]Class{}, map[string]*class{}, map[string]uint32{}
	s.mu.all = map[*Worker]struct{}{}
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

// classSlow looks a name up under the lock, or interns it.
func (s *Scheduler) classSlow(n className) (Class, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.mu.names[n]
	if !ok {
		if len(s.mu.names) >= MaxClasses {
			return 0, fmt.Errorf("%w: %d, and fleet %q asks for %q", ErrTooManyClasses, MaxClasses, n.fleet, n.capability)
		}
		c = s.intern(className{strings.Clone(n.fleet), strings.Clone(n.capability)})
	}
	// Copying the map costs as much as so many misses: interning n names stays
	// O(n), and a name in use is soon found without the lock.
	if s.mu.missed++; s.mu.missed >= len(s.mu.names)/2 {
		m := maps.Clone(s.mu.names)
		s.names.Store(&m)
		s.mu.missed = 0
	}
	return c, nil
}

// intern makes a class: first everything that says who can do it, then the
// class itself, so that nobody can push to it before.
func (s *Scheduler) intern(n className) Class {
	old := *s.classes.Load()
	id := Class(len(old))
	c := &class{id: id, name: n.capability, front: s.fronts.add(id)}
	c.front.fleet, c.front.stride = s.fleetIndex(n.fleet), s.cfg.strideOf(n.fleet)
	if kin := s.mu.kin[c.name]; kin != nil {
		c.name, c.first = kin.name, kin.first // one string for all
	} else {
		c.first = uint32(len(s.mu.kin))
		s.mu.kin[c.name] = c
	}
	c.lanes.Store(&[]*laneSet{})
	s.ready.grow(len(old) + 1)
	s.laned.grow(len(old) + 1)
	c.able.grow(len(*s.workers.Load()))
	for w := range s.mu.all {
		if Matches(w.caps, c.name) {
			w.mask.grow(len(old) + 1)
			w.mask.set(uint32(c.id))
			c.able.set(w.index)
		}
	}
	// Appending in place is safe: readers see only the length they loaded.
	classes := append(old, c)
	s.classes.Store(&classes)
	s.mu.names[n] = c.id
	return c.id
}

func (s *Scheduler) class(c Class) *class { return (*s.classes.Load())[c] }

func (s *Scheduler) worker(i uint32) *Worker {
	ws := *s.workers.Load()
	if int(i) >= len(ws) {
		return nil
	}
	return ws[i].Load()
}

// Item is one ready task for PushBatch.
type Item struct {
	Handle      Handle
	Class       Class
	Band        Band
	ReadyMillis int64
}

// Push makes a task available: to the best-ranked waiting worker that can do
// it, or else in its class's queue. It never blocks or fails. Lock-free; O(1)
// but for the search, see claimWaiter.
func (s *Scheduler) Push(h Handle, c Class, b Band, readyMillis int64) {
	x := [1]item{{h, readyMillis}}
	s.push(s.class(c), min(b, bands-1), x[:])
}

// PushBatch is Push for many. Of every takeRun, those of the same class and band
// are queued at once, in their order, and divided among the workers waiting
// for them.
func (s *Scheduler) PushBatch(list []Item) {
	r := runs{list: list}
	for r.next() {
		s.push(s.class(r.class), r.band, r.xs[:r.n])
	}
}

// runs gathers what is equal in class and band among every takeRun of a list.
// (An iterator, not a function with a callback: its array stays on the stack.)
type runs struct {
	list  []Item
	rest  uint64 // of the first takeRun, those to come
	class Class
	band  Band
	n     int
	xs    [takeRun]item
}

func (r *runs) next() bool {
	r.n = 0
	part := r.list[:min(len(r.list), takeRun)]
	if r.rest == 0 {
		if len(part) == 0 {
			return false
		}
		r.rest = 1<<len(part) - 1
	}
	first := &part[bits.TrailingZeros64(r.rest)]
	i := bits.TrailingZeros64(r.rest)
	for ; i < len(part) && part[i].Class == first.Class && part[i].Band == first.Band; i++ {
		r.take(&part[i], i)
	}
	for m := r.rest >> i << i; m != 0; m &= m - 1 {
		i = bits.TrailingZeros64(m)
		if x := &part[i]; x.Class == first.Class && x.Band == first.Band {
			r.take(x, i)
		}
	}
	r.class, r.band = first.Class, min(first.Band, bands-1)
	if r.rest == 0 {
		r.list = r.list[len(part):]
	}
	return true
}

func (r *runs) take(x *Item, i int) {
	r.xs[r.n] = item{x.Handle, x.ReadyMillis}
	r.n++
	r.rest &^= 1 << i
}

// push hands xs out, or queues them and looks again for waiting workers: the
// second half of the wake-up argument in doc.go.
func (s *Scheduler) push(c *class, b Band, xs []item) {
	if !s.waiting.empty() {
		if xs = xs[s.handOff(c, xs):]; len(xs) == 0 {
			return
		}
	}
	c.bands[b].push(xs)
	c.front.raise(b, xs[0].millis)
	s.announce(c, len(xs))
}

// announce follows the publication of n handles in c's injectors.
func (s *Scheduler) announce(c *class, n int) {
	if !s.ready.has(uint32(c.id)) {
		s.ready.set(uint32(c.id))
	}
	s.seekTakers(c, n)
}

// seekTakers wakes up to n workers for what was queued, and the owner's hook
// if there were fewer.
func (s *Scheduler) seekTakers(c *class, n int) {
	for ; n > 0; n-- {
		if s.waiting.empty() || !s.rouse(c) {
			if !s.announced.Load() && s.announced.CompareAndSwap(false, true) {
				s.cfg.OnBacklog()
			}
			return
		}
	}
}

// queued says that c's injectors hold something published.
func (c *class) queued() bool {
	for b := range c.bands {
		if _, _, _, ok := c.bands[b].front(); ok {
			return true
		}
	}
	return false
}

// stealable says that somebody's lane of c holds something for a thief.
func (c *class) stealable() bool {
	for _, ls := range *c.lanes.Load() {
		for b := range ls.bands {
			if l := ls.bands[b].Load(); l != nil && l.stealable() {
				return true
			}
		}
	}
	return false
}

// settle clears the ready bit of a class that seems empty; it says whether it
// is not.
func (s *Scheduler) settle(c *class) (queued bool) {
	for b := range c.bands {
		queued = c.note(b) || queued
	}
	if !queued {
		s.unready(c)
	}
	return queued
}

// unready clears a ready bit. If that was wrong, it does what a pusher does.
func (s *Scheduler) unready(c *class) {
	if s.ready.clear(uint32(c.id)) && c.queued() {
		s.announce(c, 1)
	}
}

// Depth is how much of a capability is queued, and since when.
type Depth struct {
	Capability   string
	Queued       int   // exact when nothing moves
	OldestMillis int64 // ready time of the oldest, or earlier; 0: nothing queued
}

// Depths lists every capability ever seen, in the order they were, and arms
// OnBacklog again: what was queued before is listed, what comes later calls it.
func (s *Scheduler) Depths() []Depth {
	s.announced.Store(false)
	classes := *s.classes.Load()
	out := make([]Depth, 0, len(classes))
	for _, c := range classes {
		if int(c.first) == len(out) { // capabilities are numbered as their first classes come
			out = append(out, Depth{Capability: c.name})
		}
		d, o := c.depth(), &out[c.first]
		if d.Queued > 0 && (o.Queued == 0 || d.OldestMillis < o.OldestMillis) {
			o.OldestMillis = d.OldestMillis
		}
		o.Queued += d.Queued
	}
	return out
}

func (c *class) depth() Depth {
	d := Depth{Capability: c.name}
	count := func(n int, oldest int64) {
		if n > 0 && (d.Queued == 0 || oldest < d.OldestMillis) {
			d.OldestMillis = oldest
		}
		d.Queued += n
	}
	for b := range c.bands {
		if _, _, millis, ok := c.bands[b].front(); ok {
			count(max(c.bands[b].len(), 1), millis)
		}
	}
	for _, ls := range *c.lanes.Load() {
		for b := range ls.bands {
			if l := ls.bands[b].Load(); l != nil {
				count(l.size(), l.since.Load())
			}
		}
	}
	return d
}
