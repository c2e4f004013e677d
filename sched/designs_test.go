package sched

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The designs a lane was chosen from, behind the same seam ([queue]):
//
//	ring     lane, every push published
//	later    lane, published by runs of publishRun or before a body
//	claim16  lane, whose owner claims 16 by one compare-and-swap and keeps them
//	blocks   a block queue after BWoS (Wang et al., OSDI '23)
//
// doc.go has the figures of BenchmarkDesigns that decided.

const (
	blockRun    = 32
	laneBlocks  = laneSlots / blockRun
	ownerClaims = 16
)

// blockLane is a FIFO of blocks. The owner fills a block alone and publishes
// it whole; head is claimed by block, so that thieves of two blocks do not
// wait for each other, and the owner, once it has claimed a block, takes from
// it without an atomic. A block is filled again when done shows that its
// claimant has read it.
type blockLane struct {
	head   atomic.Uint64 // next block to claim; CAS by owner and thieves
	_      [cacheLine - 8]byte
	tail   atomic.Uint64 // blocks published; the owner's store, partner: loads in steal
	fill   int           // the owner's: handles in the block at tail
	from   int           // of those, taken by the owner itself
	mine   *laneBlock    // the owner's: a block it claimed, and from where
	at     int
	blocks [laneBlocks]laneBlock
}

type laneBlock struct {
	done  atomic.Uint64 // how often it was read; partner: the load in push
	n     int           // published by tail
	slots [blockRun]item
}

func (l *blockLane) push(xs []item) (n int) {
	for n < len(xs) {
		t := l.tail.Load()
		b := &l.blocks[t%laneBlocks]
		if l.fill == 0 && b.done.Load() != t/laneBlocks {
			return n
		}
		k := copy(b.slots[l.fill:], xs[n:])
		n += k
		if l.fill += k; l.fill == blockRun {
			l.flush()
		}
	}
	return n
}

// flush publishes the block being filled as it is.
func (l *blockLane) flush() {
	if l.fill == l.from {
		return
	}
	t := l.tail.Load()
	b := &l.blocks[t%laneBlocks]
	b.n = copy(b.slots[:], b.slots[l.from:l.fill])
	l.fill, l.from = 0, 0
	l.tail.Store(t + 1)
}

func (l *blockLane) claim(buf []Handle) (n int) {
	for n < len(buf) {
		if l.mine == nil {
			h, t := l.head.Load(), l.tail.Load()
			if h == t {
				b := &l.blocks[t%laneBlocks]
				for ; n < len(buf) && l.from < l.fill; n++ {
					buf[n] = b.slots[l.from].handle
					l.from++
				}
				if l.from == l.fill {
					l.from, l.fill = 0, 0
				}
				return n
			}
			if !l.head.CompareAndSwap(h, h+1) {
				continue
			}
			l.mine, l.at = &l.blocks[h%laneBlocks], 0
		}
		for ; n < len(buf) && l.at < l.mine.n; n++ {
			buf[n] = l.mine.slots[l.at].handle
			l.at++
		}
		if l.at == l.mine.n {
			l.mine.done.Add(1)
			l.mine = nil
		}
	}
	return n
}

// steal takes one block whole; out must have room for it.
func (l *blockLane) steal(out []item, _ uint32) (int, bool) {
	h := l.head.Load()
	if h >= l.tail.Load() {
		return 0, false
	}
	if !l.head.CompareAndSwap(h, h+1) {
		return 0, true
	}
	b := &l.blocks[h%laneBlocks]
	n := copy(out, b.slots[:b.n])
	b.done.Add(1)
	return n, l.tail.Load() != h+1
}

// claim16 is a lane whose owner claims ahead.
type claim16 struct {
	*lane
	got   [ownerClaims]Handle
	at, n int
}

func (l *claim16) claim(buf []Handle) int {
	if l.at == l.n {
		l.at, l.n = 0, l.lane.claim(l.got[:])
	}
	k := copy(buf, l.got[l.at:l.n])
	l.at += k
	return k
}

// later is a lane that publishes by runs.
type later struct{ *lane }

func (l later) push(xs []item) int {
	for i, x := range xs {
		if !l.add(x) {
			l.publish()
			return i
		}
	}
	if l.next-l.told >= publishRun {
		l.publish()
	}
	return len(xs)
}

func (l later) flush() { l.publish() }

func designs() map[string]queue {
	return map[string]queue{"ring": newLane(), "later": later{newLane()}, "claim16": &claim16{lane: newLane()}, "blocks": &blockLane{}}
}

var designNames = []string{"ring", "later", "claim16", "blocks"}

func flush(q queue) {
	if f, ok := q.(interface{ flush() }); ok {
		f.flush()
	}
}

func TestDesignsExactlyOnce(t *testing.T) {
	for _, name := range designNames {
		t.Run(name, func(t *testing.T) {
			if err := runLane(designs()[name], 30_000, 3, true); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func BenchmarkDesigns(b *testing.B) {
	for _, name := range designNames {
		for _, k := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/owner/batch=%d", name, k), func(b *testing.B) { designOwner(b, designs()[name], k, 0) })
		}
		for _, thieves := range []int{1, 3} {
			b.Run(fmt.Sprintf("%s/owner/thieves=%d", name, thieves), func(b *testing.B) { designOwner(b, designs()[name], 1, thieves) })
		}
		b.Run(name+"/handoff", func(b *testing.B) { designHandOff(b, designs()[name]) })
		for _, thieves := range []int{1, 3} {
			b.Run(fmt.Sprintf("%s/steal32/thieves=%d", name, thieves), func(b *testing.B) { designSteal(b, designs()[name], thieves) })
		}
		b.Run(name+"/share", func(b *testing.B) { designShare(b, designs()[name]) })
	}
}

// designOwner is push and take of k handles by the owner, per handle.
func designOwner(b *testing.B, q queue, k, thieves int) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range thieves {
		wg.Go(func() {
			out := make([]item, blockRun)
			for misses := uint32(0); !stop.Load(); {
				if n, _ := q.steal(out, 1); n > 0 {
					misses = 0
				} else if misses < maxMisses {
					misses++
				}
				backOff(misses)
				runtime.Gosched()
			}
		})
	}
	xs, buf := make([]item, k), make([]Handle, k)
	b.ResetTimer()
	for i := 0; i < b.N; i += k {
		q.push(xs)
		q.claim(buf)
	}
	stop.Store(true)
	wg.Wait()
}

// designHandOff is single pushes by the owner, all of which one thief takes.
func designHandOff(b *testing.B, q queue) {
	var wg sync.WaitGroup
	b.ResetTimer()
	wg.Go(func() {
		out := make([]item, blockRun)
		misses := uint32(0)
		for n := 0; n < b.N; {
			k, _ := q.steal(out, 1)
			if n += k; k > 0 {
				misses = 0
			} else if misses < maxMisses {
				misses++
			}
			if k < blockRun {
				backOff(misses)
				runtime.Gosched()
			}
		}
	})
	xs := make([]item, 1)
	for range b.N {
		for q.push(xs) == 0 {
			runtime.Gosched()
		}
	}
	flush(q)
	wg.Wait()
}

// designSteal is what a steal of 32 costs, per call, from a lane that is
// filled between rounds by its owner while nobody is at it.
func designSteal(b *testing.B, q queue, thieves int) {
	xs, full := make([]item, laneSlots), make([]Handle, laneSlots)
	var calls int
	var spent time.Duration
	for calls < b.N {
		q.push(xs)
		var took atomic.Int64
		var wg sync.WaitGroup
		var start sync.WaitGroup
		start.Add(1)
		for range thieves {
			wg.Go(func() {
				out := make([]item, blockRun)
				start.Wait()
				for left := true; left; {
					var n int
					if n, left = q.steal(out, 1); n > 0 {
						took.Add(1)
					}
				}
			})
		}
		runtime.Gosched()
		began := time.Now()
		start.Done()
		wg.Wait()
		spent += time.Since(began)
		calls += int(took.Load())
		for q.claim(full) > 0 {
			continue
		}
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(calls), "ns/steal")
}

// designShare has an owner push 40 bodies of some 10 µs, and take one at a
// time; so does a thief. It reports the larger share of the two against half:
// 1 is ideal.
func designShare(b *testing.B, q queue) {
	const tasks, turns = 40, 30_000
	more := 0
	for range b.N {
		var left atomic.Int64
		left.Store(tasks)
		xs, buf := make([]item, tasks), make([]Handle, 1)
		q.push(xs)
		var wg sync.WaitGroup
		own, others := 0, 0
		body := func(n *int) {
			backOff(turns / 32)
			*n++
			left.Add(-1)
		}
		wg.Go(func() {
			out := make([]item, blockRun)
			for left.Load() > 0 {
				n, _ := q.steal(out, 1)
				for range n {
					body(&others)
				}
			}
		})
		for left.Load() > 0 {
			if q.claim(buf) > 0 {
				flush(q)
				body(&own)
			}
		}
		wg.Wait()
		more += max(own, others)
	}
	b.ReportMetric(float64(more)/float64(b.N)/(tasks/2), "×half")
}
