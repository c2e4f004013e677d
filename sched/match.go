package sched

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

const (
	// rankChoices is how many waiting workers are compared for a task: exact up
	// to here, beyond it the best of so many from a rotating start, which is
	// close to the best of all and bounds Push.
	rankChoices = 32
	maxWeight   = 1000
	// stealRun bounds what one steal moves; also the size of its buffer.
	stealRun = 32
)

// handOff gives the first of xs to waiting workers, straight into the buffers
// they wait with, and returns how many it gave.
func (s *Scheduler) handOff(c *class, xs []item) (given int) {
	share := 1
	if len(xs) > 1 {
		n := s.countWaiting(c, len(xs))
		if n == 0 {
			return 0
		}
		share = (len(xs) + n - 1) / n
	}
	for given < len(xs) {
		w := s.claimWaiter(c)
		if w == nil {
			break
		}
		k := min(share, len(w.buf), len(xs)-given)
		for i, x := range xs[given : given+k] {
			w.buf[i] = x.handle
		}
		given += k
		w.send(k, nil)
	}
	return given
}

// rouse wakes the best worker that waits for c, to look for itself; it says
// whether there was one. The worker takes over a duty: if it leaves c with
// something queued, because it took other work first, it rouses the next.
func (s *Scheduler) rouse(c *class) bool {
	w := s.claimWaiter(c)
	if w == nil {
		return false
	}
	w.send(0, c)
	return true
}

// nudge wakes whoever waits at index i, for nothing in particular.
func (s *Scheduler) nudge(i uint32) {
	if s.waiting.clear(i) {
		s.worker(i).send(0, nil)
	}
}

// claimWaiter takes the best-ranked of the workers waiting for c out of the
// waiting, ties in turn. The caller sends it a token, at once: until then the
// worker's Take can't return.
//
// Lock-free: it starts over only when somebody else claimed the worker.
func (s *Scheduler) claimWaiter(c *class) *Worker {
	for {
		i, ok := s.bestWaiter(c)
		if !ok {
			return nil
		}
		if w := s.claimAt(c, i); w != nil {
			c.turn.Store(i + 1)
			return w
		}
	}
}

// claimAt claims the worker at index i if it waits and can do c.
func (s *Scheduler) claimAt(c *class, i uint32) *Worker {
	if !s.waiting.clear(i) {
		return nil
	}
	w := s.worker(i) // stays: it is in Take, and gets nowhere without a token
	if !c.able.has(i) {
		w.send(0, nil) // the index changed hands between looking and claiming
		return nil
	}
	return w
}

// bestWaiter looks, from where the last search ended, at up to rankChoices of
// the workers that wait and can do c. It costs a load per 64 workers (157 for
// 10,000), none when nobody waits.
func (s *Scheduler) bestWaiter(c *class) (best uint32, ok bool) {
	var bestScore int64
	seen := 0
	scores := s.scores.pages.Load()
	s.eachWaiting(c, c.turn.Load(), func(i uint32) bool {
		if score := (*scores)[i/pageBits][i%pageBits].Load(); !ok || score > bestScore {
			best, bestScore, ok = i, score, true
		}
		seen++
		return seen < rankChoices
	})
	return best, ok
}

// countWaiting counts the workers waiting for c, up to limit.
func (s *Scheduler) countWaiting(c *class, limit int) (n int) {
	s.eachWaiting(c, 0, func(uint32) bool {
		n++
		return n < limit
	})
	return n
}

// eachWaiting visits the workers that wait and can do c, from start around,
// until fn returns false. A worker that waits from before the call to its end
// is visited.
func (s *Scheduler) eachWaiting(c *class, start uint32, fn func(uint32) bool) {
	waiting, able := s.waiting.all(), c.able.all()
	words := min(len(waiting)*pageWords, len(able)*pageWords, (len(*s.workers.Load())+wordBits-1)/wordBits)
	if words == 0 {
		return
	}
	if int(start/wordBits) >= words {
		start = 0
	}
	first := int(start / wordBits)
	low := bit(start) - 1 // the first word's bits before start come last
	for k := 0; k <= words; k++ {
		i := (first + k) % words
		p := waiting[i/pageWords]
		if rest := min(pageWords-i%pageWords, words-i); p.count.Load() == 0 && k+rest <= words {
			k += rest - 1
			continue
		}
		x := p.words[i%pageWords].Load()
		if x == 0 {
			continue
		}
		x &= able[i/pageWords].words[i%pageWords].Load()
		if k == 0 {
			x &^= low
		} else if k == words {
			x &= low
		}
		for ; x != 0; x &= x - 1 {
			if !fn(uint32(i*wordBits + bits.TrailingZeros64(x))) {
				return
			}
		}
	}
}

// eachClass visits the classes in both sets until fn returns false. Words of
// the set are read before the mask's: whoever entered a class in the set had
// it in the masks before.
func (s *Scheduler) eachClass(set *bitmap, mask *mask, fn func(Class) bool) {
	words := (len(*s.classes.Load()) + wordBits - 1) / wordBits
	for pi, p := range set.all() {
		if p.count.Load() == 0 {
			continue
		}
		for wi := range min(pageWords, max(0, words-pi*pageWords)) {
			x := p.words[wi].Load()
			if x == 0 {
				continue
			}
			for x &= mask.word(pi*pageWords + wi); x != 0; x &= x - 1 {
				if !fn(Class(pi*pageBits + wi*wordBits + bits.TrailingZeros64(x))) {
					return
				}
			}
		}
	}
}

// collect takes up to len(buf) handles: own lanes and injectors in their order,
// then, if that was nothing, a share of somebody's lane. misses (nil: none are
// kept) counts the times in a row that there was none.
func (s *Scheduler) collect(own []*laneSet, mask *mask, buf []Handle, misses *uint32, sh *shares) int {
	n := 0
	for n < len(buf) {
		src := s.pick(own, mask, sh)
		if !src.found() {
			break
		}
		room := buf[n:]
		if src.shared {
			room = room[:min(len(room), fairRun)]
		} else if src.now != 0 { // there are others
			room = room[:min(len(room), takeRun)]
		}
		k := src.take(s, room)
		if n += k; src.shared {
			sh.charge(src.front, k)
		}
	}
	if n > 0 || len(buf) == 0 || s.laned.empty() {
		return n
	}
	if misses == nil {
		return s.steal(mask, buf)
	}
	backOff(*misses)
	if n = s.steal(mask, buf); n > 0 {
		*misses = 0
	} else if *misses < maxMisses {
		*misses++
	}
	return n
}

// maxMisses bounds what a thief waits between two vain looks: 16·32 turns of
// an empty loop are about 200 ns. Each look fetches the lines the owners are
// writing, which costs an owner far more than the thief.
const maxMisses = 16

// backOff passes time without touching memory.
func backOff(misses uint32) {
	for range misses * 32 {
		continue
	}
}

// steal takes half of a lane of somebody else's, at most stealRun: the highest
// band any has, victims from a random start.
func (s *Scheduler) steal(mask *mask, buf []Handle) (n int) {
	var xs [stealRun]item
	for b := bands - 1; b >= 0 && n == 0; b-- {
		s.eachClass(&s.laned, mask, func(id Class) bool {
			c := s.class(id)
			sets := *c.lanes.Load()
			if len(sets) == 0 {
				return true
			}
			from := rand.IntN(len(sets))
			for i := range sets {
				l := sets[(from+i)%len(sets)].bands[b].Load()
				if l == nil {
					continue
				}
				k, left := l.steal(xs[:min(len(buf), stealRun)], 1)
				if k == 0 {
					continue
				}
				for j, x := range xs[:k] {
					buf[j] = x.handle
				}
				n = k
				if left {
					s.seekTakers(c, 1)
				}
				return false
			}
			return true
		})
	}
	return n
}

// anything says that there is work for a worker with mask: the check between
// registering as waiting and parking.
func (s *Scheduler) anything(mask *mask) (found bool) {
	s.eachClass(&s.ready, mask, func(id Class) bool {
		c := s.class(id)
		found = c.queued() || s.settle(c)
		return !found
	})
	if found {
		return true
	}
	s.eachClass(&s.laned, mask, func(id Class) bool {
		found = s.class(id).stealable()
		return !found
	})
	return found
}

// TakeFor takes up to len(buf) queued handles that caps can do, for a worker
// of another node, in the order of a worker here. Classes some local worker waits for
// are left to it. Lock-free; it allocates the mask.
func (s *Scheduler) TakeFor(caps []string, buf []Handle) int {
	classes := *s.classes.Load()
	var mask mask
	mask.grow(len(classes))
	for _, c := range classes {
		id := uint32(c.id)
		if !s.ready.has(id) && !s.laned.has(id) || !Matches(caps, c.name) {
			continue
		}
		if s.waiting.empty() || s.countWaiting(c, 1) == 0 {
			mask.set(id)
		}
	}
	var sh shares // drawn anew: fair over many calls
	return s.collect(nil, &mask, buf, nil, &sh)
}

// scoreOf is a worker's rank in millionths: whole numbers compare the same
// everywhere.
func (c *Config) scoreOf(success, load, trust float64) int64 {
	x := c.WeightSuccess*success + c.WeightTrust*trust - c.WeightLoad*load
	if math.IsNaN(x) {
		return math.MinInt64 // last, never unfindable
	}
	return int64(max(-maxWeight*10, min(maxWeight*10, x)) * 1e6)
}
