package ledger

import (
	"slices"
	"sort"
)

// order lists slab places by ascending task ID: sorted runs of bounded length.
// IDs begin with their creation time, so almost every insertion is at or near
// the end.
type order struct {
	runs        []*run
	first, last int // runs that lack some since the last sweep: first ≤ last, or none
	dropped     int
}

const runSize = 256

type run struct {
	count uint32
	gone  uint32 // items whose entry was dropped, until sweep
	items [runSize]orderItem
}

type orderItem struct {
	id    TaskID
	place uint32
}

// runOf is the run that has id or would have it: the last one that does not
// begin behind it.
func (o *order) runOf(id TaskID) int {
	n := len(o.runs)
	if n == 0 || o.runs[n-1].items[0].id.Compare(id) <= 0 {
		return n - 1
	}
	return max(sort.Search(n, func(i int) bool { return o.runs[i].items[0].id.Compare(id) > 0 })-1, 0)
}

// after is the first item of the run behind id.
func (r *run) after(id TaskID) int {
	n := int(r.count)
	if n > 0 && r.items[n-1].id.Compare(id) <= 0 {
		return n
	}
	return sort.Search(n, func(i int) bool { return r.items[i].id.Compare(id) > 0 })
}

// add enters an ID that is not there.
func (o *order) add(id TaskID, place uint32) {
	k := o.runOf(id)
	if k < 0 {
		o.runs = append(o.runs, new(run))
		k = 0
	}
	r := o.runs[k]
	i := r.after(id)
	if r.count == runSize {
		half := runSize / 2
		if k == len(o.runs)-1 && i == runSize { // growing at the end: leave full runs behind
			half = runSize
		}
		next := new(run)
		next.count = uint32(copy(next.items[:], r.items[half:]))
		r.count = uint32(half)
		o.runs = append(o.runs, nil)
		copy(o.runs[k+2:], o.runs[k+1:])
		o.runs[k+1] = next
		if i >= half {
			r, i = next, i-half
		}
	}
	copy(r.items[i+1:r.count+1], r.items[i:r.count])
	r.items[i] = orderItem{id, place}
	r.count++
}

// drop says that an ID's entry is about to go; sweep takes all such out, and
// comes before anything else is done with the order.
func (o *order) drop(id TaskID) {
	k := o.runOf(id)
	o.runs[k].gone++
	if o.dropped == 0 {
		o.first, o.last = k, k
	}
	o.dropped++
	o.first, o.last = min(o.first, k), max(o.last, k)
}

// sweep removes the items that keep refuses from the runs they were dropped of.
func (o *order) sweep(keep func(place uint32, id TaskID) bool) {
	if o.dropped == 0 {
		return
	}
	n := o.first
	for _, r := range o.runs[o.first : o.last+1] {
		if r.gone == r.count {
			continue
		}
		if r.gone > 0 {
			r.retain(keep)
		}
		if n > 0 && o.runs[n-1].count+r.count <= runSize/2 { // join what has become short
			last := o.runs[n-1]
			last.count += uint32(copy(last.items[last.count:], r.items[:r.count]))
			continue
		}
		o.runs[n] = r
		n++
	}
	o.runs = slices.Delete(o.runs, n, o.last+1)
	o.dropped = 0
}

func (r *run) retain(keep func(place uint32, id TaskID) bool) {
	var n uint32
	for i := range r.count {
		if it := &r.items[i]; keep(it.place, it.id) {
			r.items[n] = *it
			n++
		}
	}
	r.count, r.gone = n, 0
}

// walk is a place in the order; it must not outlive a change of it.
type walk struct {
	o    *order
	run  int
	item int
}

// from stands at the first item behind id.
func (o *order) from(id TaskID) walk {
	k := o.runOf(id)
	if k < 0 {
		return walk{o: o}
	}
	return walk{o: o, run: k, item: o.runs[k].after(id)}
}

// peek is the item here; false at the end.
func (w *walk) peek() (orderItem, bool) {
	for w.run < len(w.o.runs) {
		if r := w.o.runs[w.run]; w.item < int(r.count) {
			return r.items[w.item], true
		}
		w.run, w.item = w.run+1, 0
	}
	return orderItem{}, false
}

func (w *walk) next() { w.item++ }
