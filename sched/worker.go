package sched

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
)

// spinTries is how often a worker looks again before it parks. Waking a parked
// goroutine on an idle processor costs its waker 12 µs and takes 110; beyond
// about 8 tries spinning costs more than it gives when workers outnumber cores.
const spinTries = 8

// WorkerConfig describes a worker.
type WorkerConfig struct {
	Name         string
	Capabilities []string // "action:target", "*" as wildcard
	Success      float64  // measured share of completed attempts, 0 to 1
	Load         float64  // 0 to 1
	Trust        float64  // 0 to 1
}

// Worker takes handles it is able to do. Push, TryTake and Take are called by
// one goroutine at a time, its owner; the other methods by anyone.
type Worker struct {
	// What taking without waiting looks at comes first, close together: of ten
	// thousand workers it is in no cache.
	s     *Scheduler
	index uint32
	// The owner's: how often in a row it found nothing to steal, how many lanes
	// it has, the set pushed to last, the lane of it and its band (the only one
	// that may hold unpublished handles), and what it took for which fleet.
	misses uint32
	lanes  int
	hot    *lane
	last   *laneSet
	band   Band
	closed atomic.Bool
	sets   []*laneSet // the owner's to read; changed under Scheduler.mu
	shares shares
	mask   mask // classes; changed under Scheduler.mu

	name  string
	caps  []string      // guarded by Scheduler.mu
	score *atomic.Int64 // its cell in Scheduler.scores
	since atomic.Int64  // parked since, ms; 0 is not parked

	// The wait. The worker writes these before it sets its bit in
	// Scheduler.waiting; whoever clears the bit owns them until it sends the
	// token; then they are the worker's again.
	buf   []Handle
	given int    // handles put in buf
	duty  *class // roused for this class
	token chan struct{}

	woken   atomic.Bool // by Wake; partner: the check in park
	busy    atomic.Bool // in wait: retiring is left to it
	retired atomic.Bool
}

// AddWorker enters a worker. Blocking (a mutex), O(classes).
func (s *Scheduler) AddWorker(cfg WorkerConfig) *Worker {
	w := &Worker{s: s, name: cfg.Name, caps: slices.Clone(cfg.Capabilities), token: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := len(s.mu.free); k > 0 {
		w.index = s.mu.free[k-1]
		s.mu.free = s.mu.free[:k-1]
	} else {
		w.index = uint32(len(s.mu.all))
	}
	w.score = s.scores.cell(w.index)
	w.score.Store(s.cfg.scoreOf(cfg.Success, cfg.Load, cfg.Trust))
	s.seat(w)
	s.mu.all[w] = struct{}{}
	classes := *s.classes.Load()
	w.mask.grow(len(classes))
	for _, c := range classes {
		c.able.grow(int(w.index) + 1)
		if Matches(w.caps, c.name) {
			w.mask.set(uint32(c.id))
			c.able.set(w.index)
		}
	}
	return w
}

// seat makes w findable by its index; the array is doubled when it is full.
func (s *Scheduler) seat(w *Worker) {
	ws := *s.workers.Load()
	if int(w.index) >= len(ws) {
		more := make([]atomic.Pointer[Worker], max(16, 2*len(ws)))
		for i := range ws {
			more[i].Store(ws[i].Load())
		}
		ws = more
		s.workers.Store(&ws)
	}
	s.waiting.grow(len(ws))
	ws[w.index].Store(w)
}

// Name returns the name the worker was added with.
func (w *Worker) Name() string { return w.name }

// Update changes what the worker is ranked by, unless it was closed. Wait-free.
func (w *Worker) Update(success, load, trust float64) {
	if w.closed.Load() {
		return // the cell may be another's by now
	}
	w.score.Store(w.s.cfg.scoreOf(success, load, trust))
}

// UpdateCapabilities changes what the worker can do. Handles given to it
// before are its own to do or give back; its lanes keep what it pushed.
func (w *Worker) UpdateCapabilities(caps []string) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.mu.all[w]; !ok {
		return
	}
	w.caps = slices.Clone(caps)
	for _, c := range *s.classes.Load() {
		if Matches(caps, c.name) {
			w.mask.grow(int(c.id) + 1)
			w.mask.set(uint32(c.id))
			c.able.grow(int(w.index) + 1)
			c.able.set(w.index)
		} else {
			w.mask.clear(uint32(c.id))
			c.able.clear(w.index)
		}
	}
	s.nudge(w.index) // if it waits, it looks again with the new mask
}

// Push queues a task in the worker's own lane, for itself or a thief; what
// finds the lane full goes to the class's queue. Wait-free while nobody waits
// and the lane has room (but for the first push of a class and band, which
// makes the lane, under a lock), else lock-free.
func (w *Worker) Push(h Handle, c Class, b Band, readyMillis int64) {
	x := item{h, readyMillis}
	l := w.hot
	if l == nil || w.band != b || w.last.class.id != c {
		if l = w.laneFor(c, min(b, bands-1)); l == nil {
			w.s.Push(h, c, b, readyMillis)
			return
		}
	}
	if !l.add(x) {
		w.s.Push(h, c, b, readyMillis)
		return
	}
	l.publish()
	w.published(1)
}

// PushLater is Push that leaves it to the worker when others may see the
// task: at the latest when it has added publishRun of them, at its next
// TryTake, Take, Push or Flush, or its next PushLater while somebody waits. For
// the children of a short task: those the worker takes itself cost no atomic
// operation. Before a long body call Flush.
func (w *Worker) PushLater(h Handle, c Class, b Band, readyMillis int64) {
	l := w.hot
	if l == nil || w.band != b || w.last.class.id != c {
		if l = w.laneFor(c, min(b, bands-1)); l == nil {
			w.s.Push(h, c, b, readyMillis)
			return
		}
	}
	if !l.add(item{h, readyMillis}) {
		w.s.Push(h, c, b, readyMillis)
		return
	}
	if l.next-l.told >= publishRun || !w.s.waiting.empty() || w.closed.Load() {
		w.Flush()
	}
}

// Flush publishes what PushLater left unpublished.
func (w *Worker) Flush() {
	if l := w.hot; l != nil && l.unpublished() {
		n := int(l.next - l.told)
		l.publish()
		w.published(n)
	}
}

// PushBatch is Push for many, with one publication for equal ones.
func (w *Worker) PushBatch(list []Item) {
	r := runs{list: list}
	for r.next() {
		l := w.laneFor(r.class, r.band)
		if l == nil { // closed
			w.s.push(w.s.class(r.class), r.band, r.xs[:r.n])
			continue
		}
		n := l.push(r.xs[:r.n])
		if n < r.n {
			w.s.push(w.last.class, r.band, r.xs[n:r.n])
		}
		if n > 0 {
			w.published(n)
		}
	}
}

// laneFor makes the lane of a class and band the hot one; nil when the worker
// is closed.
func (w *Worker) laneFor(id Class, b Band) *lane {
	if w.hot != nil {
		if w.last.class.id == id && w.band == b {
			return w.hot
		}
		w.Flush()
	}
	ls := w.last
	if ls == nil || ls.class.id != id {
		if ls = w.setFor(id); ls == nil {
			return nil
		}
	}
	l := ls.bands[b].Load()
	if l == nil {
		l = newLane()
		ls.bands[b].Store(l)
		w.lanes++
	}
	w.last, w.hot, w.band = ls, l, b
	return l
}

// published follows the publication of n handles in the hot lane.
func (w *Worker) published(n int) {
	if w.closed.Load() { // partner: Close stores, then retire drains
		w.drain(w.last)
	}
	if s := w.s; !s.waiting.empty() || !s.announced.Load() {
		s.seekTakers(w.last.class, n)
	}
}

// setFor finds or makes the worker's lanes for a class.
func (w *Worker) setFor(id Class) *laneSet {
	for _, ls := range w.sets {
		if ls.class.id == id {
			return ls
		}
	}
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.closed.Load() {
		return nil
	}
	c := s.class(id)
	ls := &laneSet{class: c, owner: w}
	sets := append(slices.Clone(*c.lanes.Load()), ls)
	c.lanes.Store(&sets)
	s.laned.set(uint32(id))
	w.sets = append(w.sets, ls)
	return ls
}

// TryTake takes up to len(buf) handles without waiting: own lanes and queues
// in order of priority, or else a share of another worker's lane. Lock-free.
func (w *Worker) TryTake(buf []Handle) int {
	var n int
	if w.lanes == 1 && w.s.ready.empty() { // nothing to compare it with
		n = w.hot.claim(buf)
	}
	if n == 0 {
		n = w.s.collect(w.sets, &w.mask, buf, &w.misses, &w.shares)
	}
	if l := w.hot; l != nil && l.unpublished() {
		w.Flush() // what was taken may be long
	}
	return n
}

// Take takes as many handles as there are for the worker, up to len(buf), and
// waits for the first. It returns 0 and nil after Wake or Close, or when buf is
// empty, and ctx's error when that ends first. Whatever it returns, the n
// handles are the caller's.
//
// The taking is lock-free; waiting is blocking: on a pusher, on ctx, and for
// the few instructions between a pusher's claim and its token on that pusher.
func (w *Worker) Take(ctx context.Context, buf []Handle) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	n := 0
	if w.closed.Load() {
		w.Flush()
	} else {
		n = w.TryTake(buf)
	}
	if n > 0 || w.woken.Load() || w.closed.Load() {
		w.woken.Store(false)
		return n, nil
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return w.wait(ctx, buf)
}

func (w *Worker) wait(ctx context.Context, buf []Handle) (int, error) {
	if w.busy.Swap(true) {
		panic("sched: Take of one worker called twice at once")
	}
	defer w.leave()
	if w.closed.Load() { // partner: Close stores it, then loads busy
		return 0, nil
	}
	for {
		if n := w.spin(buf); n > 0 {
			return n, nil
		}
		n, err := w.park(ctx, buf)
		if n > 0 {
			w.woken.Store(false)
			return n, nil
		}
		if w.woken.Swap(false) || w.closed.Load() || err != nil {
			return 0, err
		}
	}
}

// spin looks a few times more, unless half of the processors have somebody
// spinning.
func (w *Worker) spin(buf []Handle) int {
	s := w.s
	defer s.spinners.Add(-1)
	if s.spinners.Add(1) > s.maxSpinners {
		return 0
	}
	for range spinTries {
		runtime.Gosched()
		if n := w.TryTake(buf); n > 0 {
			return n
		}
	}
	return 0
}

// park waits for a token, or withdraws. Registering comes before the last look
// at the queues, as publishing comes before a pusher's last look at the
// waiting: one of the two sees the other.
func (w *Worker) park(ctx context.Context, buf []Handle) (n int, err error) {
	s := w.s
	w.buf, w.given, w.duty = buf, 0, nil
	w.since.Store(max(s.cfg.NowMillis(), 1))
	s.waiting.set(w.index)
	if w.closed.Load() || w.woken.Load() || s.anything(&w.mask) {
		if !s.waiting.clear(w.index) {
			<-w.token
		}
	} else {
		select {
		case <-w.token:
		case <-ctx.Done():
			err = ctx.Err()
			if !s.waiting.clear(w.index) {
				<-w.token
			}
		}
	}
	w.since.Store(0)
	w.buf = nil
	n, duty := w.given, w.duty
	n += s.collect(w.sets, &w.mask, buf[n:], nil, &w.shares)
	if duty != nil && (duty.queued() || duty.stealable()) {
		s.rouse(duty)
	}
	return n, err
}

// send ends a wait; only for who claimed the worker. It never blocks: there is
// one token per claim, and none is left when the next wait starts.
func (w *Worker) send(given int, duty *class) {
	w.given, w.duty = given, duty
	w.token <- struct{}{}
}

// leave ends the time in which only this goroutine may retire the worker.
func (w *Worker) leave() {
	w.busy.Store(false)
	if w.closed.Load() { // partner: Close, see there
		w.retire()
	}
}

// Wake makes the worker's Take, present or else next, return without waiting:
// a hint that there is work elsewhere. Lock-free.
func (w *Worker) Wake() {
	w.woken.Store(true)
	w.s.nudge(w.index) // the index may be another's by now: that one looks again
}

// Close removes the worker: a Take that waits returns, and what is left in its
// lanes goes to the queues of its classes. It does not wait for that Take.
func (w *Worker) Close() {
	w.closed.Store(true)
	w.s.nudge(w.index)
	// Either a Take that starts now sees closed, or we see it busy and it
	// retires the worker when it leaves.
	if !w.busy.Load() {
		w.retire()
	}
}

// retire takes the worker out of every list, once. Blocking (a mutex).
func (w *Worker) retire() {
	if w.retired.Swap(true) {
		return
	}
	for _, ls := range w.delist() {
		w.drain(ls)
	}
}

func (w *Worker) delist() []*laneSet {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range *s.classes.Load() {
		c.able.clear(w.index)
	}
	for _, ls := range w.sets {
		sets := slices.DeleteFunc(slices.Clone(*ls.class.lanes.Load()), func(x *laneSet) bool { return x == ls })
		ls.class.lanes.Store(&sets)
	}
	(*s.workers.Load())[w.index].Store(nil)
	delete(s.mu.all, w)
	s.mu.free = append(s.mu.free, w.index)
	return w.sets
}

// drain moves what is left in closed lanes to the class's queues. It goes in
// as a thief does: the owner may be pushing. It waits while another thief
// copies.
func (w *Worker) drain(ls *laneSet) {
	var xs [stealRun]item
	for b := range ls.bands {
		l := ls.bands[b].Load()
		for l != nil && l.size() > 0 {
			n, _ := l.steal(xs[:], 2)
			if n == 0 {
				runtime.Gosched()
				continue
			}
			w.s.push(ls.class, Band(b), xs[:n])
		}
	}
}

// WorkerStatus is what Workers tells of one.
type WorkerStatus struct {
	Name          string
	Capabilities  []string
	Score         float64 // see Config's weights
	WaitingMillis int64   // parked since then; 0: not waiting
}

// Workers lists the workers in the order of their names. Blocking (a mutex).
func (s *Scheduler) Workers() []WorkerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]WorkerStatus, 0, len(s.mu.all))
	for w := range s.mu.all {
		out = append(out, WorkerStatus{Name: w.name, Capabilities: slices.Clone(w.caps), Score: float64(w.score.Load()) / 1e6, WaitingMillis: w.since.Load()})
	}
	slices.SortFunc(out, func(a, b WorkerStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}
