package sched

import "sync/atomic"

// front is what a class shows to who chooses among queues: one line of memory,
// where the queues themselves are some twenty. Who takes one handle for a
// worker of eight classes would else wait for most of those.
//
// oldest are hints; the queue is the truth. A hint may be late, and what is
// chosen by it is checked by taking. It is never lost: a pusher publishes (1)
// and raises a hint of 0 (2); a taker lowers it to 0 (3) and then looks at the
// queue again (4). Either 3 precedes 2, or 1 precedes 4. Waking does not rest on
// hints at all: what a worker looks at before it parks are the queues.
//
// Tried: leaving the hint of a drained queue to who believes it next. It costs a
// pusher no less, and a queue drained by every take looks old for ever: the
// lower bands starve (TestNoStarvation).
type front struct {
	oldest [bands]atomic.Int64 // by injector: the oldest handle's ready time<<1 | 1; 0: it is empty
	stride uint64              // what a handle costs the fleet, see shares
	fleet  uint32
	_      [20]byte
}

// fronts are every class's, side by side. Pages are never moved or dropped.
type fronts struct {
	pages atomic.Pointer[[]*frontPage]
}

const frontsInPage = 512

type frontPage [frontsInPage]front

func (x *fronts) of(c Class) *front {
	return &(*x.pages.Load())[c/frontsInPage][c%frontsInPage]
}

// add makes room for a class. The scheduler's lock is held.
func (x *fronts) add(c Class) *front {
	var pages []*frontPage
	if p := x.pages.Load(); p != nil {
		pages = *p
	}
	if k := int(c / frontsInPage); k >= len(pages) {
		more := make([]*frontPage, k+1)
		for j := copy(more, pages); j <= k; j++ {
			more[j] = new(frontPage)
		}
		x.pages.Store(&more)
	}
	return x.of(c)
}

// raise follows a push: a hint of 0 becomes what was pushed. Any other stays,
// being of an older handle or a taker's to correct.
func (f *front) raise(b Band, millis int64) {
	if f.oldest[b].Load() == 0 {
		f.oldest[b].CompareAndSwap(0, millis<<1|1)
	}
}

// note corrects the hint of a queue and says whether the queue holds something.
func (c *class) note(b int) bool {
	hint := &c.front.oldest[b]
	for {
		if _, _, millis, ok := c.bands[b].front(); ok {
			if x := millis<<1 | 1; hint.Load() != x {
				hint.Store(x)
			}
			return true
		}
		if hint.Load() == 0 {
			return false
		}
		hint.Store(0)
	}
}

// source is the queue to take from next: lane or injector.
type source struct {
	front  *front // nil: none
	class  Class
	lane   *lane // nil: the class's injector
	band   int
	millis int64
	now    int64 // 0 until there were two to compare
	shared bool  // another fleet has work as well
}

func (x *source) found() bool { return x.front != nil }

// take takes from the chosen queue.
func (x *source) take(s *Scheduler, buf []Handle) int {
	if x.lane != nil {
		return x.lane.claim(buf)
	}
	c := s.class(x.class)
	n := c.bands[x.band].take(buf)
	c.note(x.band)
	return n
}

// consider keeps that of best and x which comes first: by the taker's account
// of their fleets, then by priority. The clock is asked once, and only when
// there is a choice.
func (s *Scheduler) consider(best *source, x source, sh *shares) {
	if !best.found() {
		*best = x
		return
	}
	if best.now == 0 {
		best.now = max(s.cfg.NowMillis(), 1)
	}
	x.now = best.now
	first := false
	if x.front.fleet != best.front.fleet {
		best.shared = true
		mine, its := sh.of(x.front), sh.of(best.front)
		first = mine < its || mine == its && s.before(x, *best, x.now)
	} else {
		first = s.before(x, *best, x.now)
	}
	if x.shared = best.shared; first {
		*best = x
	}
}

// pick compares the worker's own lanes and the injectors of the classes in
// mask. Of a fleet's queues that comes first whose oldest handle has the
// smallest ready time, less what its band is worth.
func (s *Scheduler) pick(own []*laneSet, mask *mask, sh *shares) (best source) {
	for _, ls := range own {
		for b := range ls.bands {
			if l := ls.bands[b].Load(); l != nil {
				if millis, ok := l.oldest(); ok {
					s.consider(&best, source{front: ls.class.front, class: ls.class.id, lane: l, band: b, millis: millis}, sh)
				}
			}
		}
	}
	if s.ready.empty() {
		return best
	}
	s.eachClass(&s.ready, mask, func(id Class) bool {
		f := s.fronts.of(id)
		if !s.pickFront(&best, f, id, sh) && s.settle(s.class(id)) {
			s.pickFront(&best, f, id, sh)
		}
		return true
	})
	return best
}

// pickFront compares a class's queues by their hints; false: they all say that
// there is nothing.
func (s *Scheduler) pickFront(best *source, f *front, id Class, sh *shares) (some bool) {
	for b := range f.oldest {
		if x := f.oldest[b].Load(); x != 0 {
			some = true
			s.consider(best, source{front: f, class: id, band: b, millis: x >> 1}, sh)
		}
	}
	return some
}

// before is the order of priority: a band is worth AgingMillis of waiting.
func (s *Scheduler) before(x, y source, now int64) bool {
	kx := min(x.millis, now) - int64(x.band)*s.cfg.AgingMillis
	ky := min(y.millis, now) - int64(y.band)*s.cfg.AgingMillis
	return kx < ky || kx == ky && x.band > y.band
}
