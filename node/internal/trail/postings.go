package trail

import (
	"cmp"
	"slices"
	"sync"

	"github.com/quorate/quorate/ledger"
)

// postings collects which records of a block have which terms. Nearly every
// record has a task of its own and shares all else with the one before, so
// those two cases touch no map. It is used again for another block, by way of
// postingsPool, since a block's worth of it is some hundred KiB.
type postings struct {
	lists  []list
	of     map[Term]int // index in lists, of all but tasks
	last   [256]int     // by field, the index in lists of the value seen last, plus 1
	tasks  []taskPosting
	spare  []taskPosting // tasks are sorted into it
	places []uint16      // of tasks, in their order
	all    []list        // what sorted gives
}

var postingsPool = sync.Pool{New: func() any {
	return &postings{of: map[Term]int{}, tasks: make([]taskPosting, 0, BlockRecords)}
}}

// list is a term and the records that have it, ascending.
type list struct {
	term Term
	at   []uint16
}

type taskPosting struct {
	term Term
	at   uint16
}

// newPostings is an empty one, to be handed to free.
func newPostings() *postings { return postingsPool.Get().(*postings) }

// free ends the use of p and of what sorted gave.
func (p *postings) free() {
	clear(p.of)
	clear(p.last[:])
	p.lists, p.tasks, p.places, p.all = p.lists[:0], p.tasks[:0], p.places[:0], p.all[:0]
	postingsPool.Put(p)
}

// add notes a term of record at; records come in order.
func (p *postings) add(f ledger.Field, t Term, at uint16) {
	if f == ledger.FieldTask {
		p.tasks = append(p.tasks, taskPosting{t, at})
		return
	}
	i := p.last[uint8(f)] - 1
	if i < 0 || p.lists[i].term != t {
		var known bool
		if i, known = p.of[t]; !known {
			i = p.list(t)
			p.of[t] = i
		}
		p.last[uint8(f)] = i + 1
	}
	if l := &p.lists[i]; len(l.at) == 0 || l.at[len(l.at)-1] != at {
		l.at = append(l.at, at)
	}
}

// list adds an empty list of a term, with the room of the one that was there.
func (p *postings) list(t Term) int {
	i := len(p.lists)
	if i < cap(p.lists) {
		p.lists = p.lists[:i+1]
	} else {
		p.lists = append(p.lists, list{})
	}
	p.lists[i].term, p.lists[i].at = t, p.lists[i].at[:0]
	return i
}

// sorted gives all lists by term, until free. It is called once.
func (p *postings) sorted() []list {
	p.sortTasks()
	for _, x := range p.tasks {
		p.places = append(p.places, x.at)
	}
	slices.SortFunc(p.lists, func(a, b list) int { return cmp.Compare(a.term, b.term) })
	p.all = slices.Grow(p.all, len(p.lists)+len(p.tasks))
	rest := p.lists
	for i := 0; i < len(p.tasks); {
		end, t := i+1, p.tasks[i].term
		for end < len(p.tasks) && p.tasks[end].term == t {
			end++
		}
		for len(rest) > 0 && rest[0].term < t {
			p.all, rest = append(p.all, rest[0]), rest[1:]
		}
		p.all = append(p.all, list{t, p.places[i:end:end]})
		i = end
	}
	p.all = append(p.all, rest...)
	return p.all
}

// A term is a hash: its first bits spread a block's tasks over as many buckets
// as there are records, and what is left to sort is one or two.
const bucketBits = 12

// sortTasks sorts tasks by term, and those of one term as they came.
func (p *postings) sortTasks() {
	var ends [1<<bucketBits + 1]int32
	for _, x := range p.tasks {
		ends[x.term>>(64-bucketBits)+1]++
	}
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	p.spare = slices.Grow(p.spare[:0], len(p.tasks))[:len(p.tasks)]
	for _, x := range p.tasks {
		at := &ends[x.term>>(64-bucketBits)]
		p.spare[*at] = x
		*at++
	}
	start := int32(0)
	for _, end := range ends[:1<<bucketBits] {
		if b := p.spare[start:end]; len(b) > 1 {
			slices.SortStableFunc(b, func(a, b taskPosting) int { return cmp.Compare(a.term, b.term) })
		}
		start = end
	}
	p.tasks, p.spare = p.spare, p.tasks
}
