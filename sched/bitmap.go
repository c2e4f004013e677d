package sched

import "sync/atomic"

const (
	wordBits  = 64
	pageWords = 64
	pageBits  = pageWords * wordBits
)

// bitmap is a growing set of small numbers. Pages are never moved or dropped,
// so that set and clear are single atomic operations (lock-free: And and Or
// with a result are compare-and-swap loops); only grow wants the scheduler's
// lock.
type bitmap struct {
	// sum is at least the number of bits set, as count is in each page: the one
	// load that tells every pusher and taker that there is nobody, or nothing.
	sum   atomic.Int64
	pages atomic.Pointer[[]*bitPage]
}

type bitPage struct {
	// count is at least the number of bits set: it is raised before a bit is
	// set and lowered after one was cleared. So 0 proves the page empty to
	// whoever looks after the setter is done. A summary word cleared after its
	// last bit would not: a setter that still saw it set could go unseen.
	count atomic.Int64
	_     [cacheLine - 8]byte
	words [pageWords]atomic.Uint64
}

// grow makes room for the numbers below n. The scheduler's lock is held.
func (m *bitmap) grow(n int) {
	var old []*bitPage
	if p := m.pages.Load(); p != nil {
		old = *p
	}
	want := (n + pageBits - 1) / pageBits
	if want <= len(old) {
		return
	}
	pages := make([]*bitPage, want)
	for i := copy(pages, old); i < want; i++ {
		pages[i] = &bitPage{}
	}
	m.pages.Store(&pages)
}

func (m *bitmap) all() []*bitPage {
	if p := m.pages.Load(); p != nil {
		return *p
	}
	return nil
}

// has says that i is in; numbers beyond the last page are not.
func (m *bitmap) has(i uint32) bool {
	pages := m.all()
	return int(i/pageBits) < len(pages) && pages[i/pageBits].word(i).Load()&bit(i) != 0
}

// set adds i, which must be below what grow made room for.
func (m *bitmap) set(i uint32) {
	p := m.all()[i/pageBits]
	m.sum.Add(1)
	p.count.Add(1)
	if p.word(i).Or(bit(i))&bit(i) != 0 {
		p.count.Add(-1)
		m.sum.Add(-1)
	}
}

// clear removes i and says whether this call did: of several that try, one.
func (m *bitmap) clear(i uint32) bool {
	pages := m.all()
	if int(i/pageBits) >= len(pages) {
		return false
	}
	p := pages[i/pageBits]
	if p.word(i).Load()&bit(i) == 0 || p.word(i).And(^bit(i))&bit(i) == 0 {
		return false
	}
	p.count.Add(-1)
	m.sum.Add(-1)
	return true
}

func (m *bitmap) empty() bool { return m.sum.Load() == 0 }

// mask is the classes that a worker can do. Those that fit stand in itself: who
// takes for one of ten thousand workers follows no pointer to them.
type mask struct {
	near [nearWords]atomic.Uint64
	far  bitmap // the others
}

const (
	nearWords = 8
	nearBits  = nearWords * wordBits
)

// grow makes room for the numbers below n. The scheduler's lock is held.
func (m *mask) grow(n int) {
	if n > nearBits {
		m.far.grow(n)
	}
}

func (m *mask) set(i uint32) {
	if i < nearBits {
		m.near[i/wordBits].Or(bit(i))
	} else {
		m.far.set(i)
	}
}

func (m *mask) clear(i uint32) {
	if i < nearBits {
		m.near[i/wordBits].And(^bit(i))
	} else {
		m.far.clear(i)
	}
}

// word is the k-th 64 of the set.
func (m *mask) word(k int) uint64 {
	if k < nearWords {
		return m.near[k].Load()
	}
	if pages := m.far.all(); k/pageWords < len(pages) {
		return pages[k/pageWords].words[k%pageWords].Load()
	}
	return 0
}

// scores are the ranks of workers by index, side by side: looking at 32 of thousands of workers would else fetch two lines
// of memory for each. Pages are never moved or dropped, so that a worker keeps its cell.
type scores struct {
	pages atomic.Pointer[[]*scorePage]
}

type scorePage [pageBits]atomic.Int64

// cell makes room for a worker's score. The scheduler's lock is held.
func (x *scores) cell(i uint32) *atomic.Int64 {
	var pages []*scorePage
	if p := x.pages.Load(); p != nil {
		pages = *p
	}
	if k := int(i / pageBits); k >= len(pages) {
		more := make([]*scorePage, k+1)
		for j := copy(more, pages); j <= k; j++ {
			more[j] = new(scorePage)
		}
		pages = more
		x.pages.Store(&more)
	}
	return &pages[i/pageBits][i%pageBits]
}

func (p *bitPage) word(i uint32) *atomic.Uint64 { return &p.words[i/wordBits%pageWords] }

func bit(i uint32) uint64 { return 1 << (i % wordBits) }
