package trail

import (
	"cmp"
	"slices"

	"github.com/quorate/quorate/ledger"
)

// postings collects which records of a block have which terms. Nearly every
// record has a task of its own and shares all else with the one before, so
// those two cases touch no map.
type postings struct {
	lists []list
	of    map[Term]int // index in lists, of all but tasks
	last  [256]int     // by field, the index in lists of the value seen last, plus 1
	tasks []taskPosting
}

// list is a term and the records that have it, ascending.
type list struct {
	term Term
	at   []uint16
}

type taskPosting struct {
	term Term
	at   uint16
}

func newPostings() *postings {
	return &postings{of: map[Term]int{}, tasks: make([]taskPosting, 0, BlockRecords)}
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
			i = len(p.lists)
			p.lists = append(p.lists, list{term: t})
			p.of[t] = i
		}
		p.last[uint8(f)] = i + 1
	}
	if l := &p.lists[i]; len(l.at) == 0 || l.at[len(l.at)-1] != at {
		l.at = append(l.at, at)
	}
}

// sorted gives all lists by term. It is called once.
func (p *postings) sorted() []list {
	slices.SortFunc(p.tasks, func(a, b taskPosting) int {
		if a.term != b.term {
			return cmp.Compare(a.term, b.term)
		}
		return cmp.Compare(a.at, b.at)
	})
	places := make([]uint16, len(p.tasks))
	for i, x := range p.tasks {
		places[i] = x.at
	}
	lists := p.lists
	for i := 0; i < len(p.tasks); {
		end := i + 1
		for end < len(p.tasks) && p.tasks[end].term == p.tasks[i].term {
			end++
		}
		lists = append(lists, list{p.tasks[i].term, places[i:end:end]})
		i = end
	}
	slices.SortFunc(lists, func(a, b list) int { return cmp.Compare(a.term, b.term) })
	return lists
}
