package raftstore

import (
	"encoding/binary"
	"errors"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// proposalQueue holds commands that are not proposed yet.
type proposalQueue struct {
	items                 []Proposal
	start                 int
	maxCommands, maxBytes int
	held                  bool                      // raft dropped a proposal: wait for a tick or a change of leader
	left                  func(commands, bytes int) // told when commands leave the queue; may be nil
}

func (q *proposalQueue) len() int { return len(q.items) - q.start }

// push makes room by moving what waits to the front rather than by growing: a queue that is never empty would grow for
// as long as the load lasts. It moves only when at least as many have left as stay, so that each moves once.
func (q *proposalQueue) push(ps []Proposal) {
	if q.start == len(q.items) {
		q.items, q.start = q.items[:0], 0
	} else if len(q.items)+len(ps) > cap(q.items) && q.start >= q.len() {
		n := copy(q.items, q.items[q.start:])
		clear(q.items[n:])
		q.items, q.start = q.items[:n], 0
	}
	q.items = append(q.items, ps...)
}

// next says how many commands the next entry takes, and whether it is full.
func (q *proposalQueue) next() (n int, full bool) {
	bytes := 0
	for _, p := range q.items[q.start:] {
		bytes += len(p.Command)
		if n > 0 && bytes > q.maxBytes {
			return n, true
		}
		if n++; n == q.maxCommands {
			return n, true
		}
	}
	return n, bytes >= q.maxBytes
}

func (q *proposalQueue) head(n int) []Proposal { return q.items[q.start : q.start+n] }

func (q *proposalQueue) pop(n int) {
	bytes := 0
	for i := q.start; i < q.start+n; i++ {
		bytes += len(q.items[i].Command)
		q.items[i] = Proposal{}
	}
	q.start += n
	if q.left != nil {
		q.left(n, bytes)
	}
}

// refuseAll answers with an error that means: certainly not done.
func (q *proposalQueue) refuseAll(err error) {
	for q.len() > 0 {
		p := q.items[q.start]
		q.pop(1)
		p.Done(Result{Err: err})
	}
}

// pendingBatches are the entries this process proposed and whose fate is open, in index order (failUnless sees to that
// when a leader comes back). An entry is lost for certain once another one is committed at its index: log positions are
// committed once and for all.
type pendingBatches struct {
	batches     []*pendingBatch
	start       int
	unassigned  int // how many at the end have no index yet
	seq         uint64
	orphanTicks int
	applying    *pendingBatch // taken, not answered yet
	free        []*pendingBatch
}

type pendingBatch struct {
	index, term, seq uint64
	proposals        []Proposal // without the commands
}

func (p *pendingBatches) len() int { return len(p.batches) - p.start }

func (p *pendingBatches) nextSeq() uint64 {
	p.seq++
	return p.seq
}

func (p *pendingBatches) add(seq uint64, ps []Proposal) {
	var b *pendingBatch
	if n := len(p.free); n > 0 {
		b, p.free = p.free[n-1], p.free[:n-1]
	} else {
		b = new(pendingBatch)
	}
	*b = pendingBatch{seq: seq, proposals: append(b.proposals[:0], ps...)}
	for i := range b.proposals {
		b.proposals[i].Command = nil
	}
	if p.start == len(p.batches) {
		p.batches, p.start = p.batches[:0], 0
	}
	p.batches = append(p.batches, b)
	p.unassigned++
}

// assign finds the index each batch got. Process calls Ready right after proposing, so every new batch is among the
// entries: nothing was stepped in between that could have removed one.
func (p *pendingBatches) assign(entries []*pb.Entry, id, term uint64) {
	for i := 0; p.unassigned > 0 && i < len(entries); i++ {
		e := entries[i]
		b := p.batches[len(p.batches)-p.unassigned]
		data := e.GetData()
		if e.GetType() != pb.EntryNormal || e.GetTerm() != term || len(data) < entryHeaderBytes ||
			binary.LittleEndian.Uint64(data[9:]) != id || binary.LittleEndian.Uint64(data[17:]) != b.seq {
			continue
		}
		b.index, b.term = e.GetIndex(), e.GetTerm()
		p.unassigned--
		for j := range b.proposals {
			if b.proposals[j].Async {
				b.proposals[j].Done(Result{Index: b.index})
			}
		}
	}
	if p.unassigned > 0 {
		panic("a proposal accepted by raft is not among its entries")
	}
}

// take removes the batch that the committed entry at index is, if it is one of ours, and answers those that it
// proves lost.
func (p *pendingBatches) take(index, term uint64, lost func() *NotLeaderError) (*pendingBatch, bool) {
	for p.len() > 0 {
		b := p.batches[p.start]
		if b.index > index || b.index == 0 {
			return nil, false
		}
		p.batches[p.start] = nil
		p.start++
		if b.index == index && b.term == term {
			p.applying = b
			return b, true
		}
		b.fail(lost())
	}
	return nil, false
}

func (p *pendingBatches) recycle(b *pendingBatch) {
	clear(b.proposals)
	p.applying = nil
	p.free = append(p.free, b)
}

func (p *pendingBatches) failUpTo(index uint64, err error) {
	for p.len() > 0 && p.batches[p.start].index <= index {
		b := p.batches[p.start]
		p.batches[p.start] = nil
		p.start++
		b.fail(err)
	}
}

// failUnless answers what is not logged; see failUnlogged.
func (p *pendingBatches) failUnless(logged func(index, term uint64) bool, err error) {
	kept := p.batches[:p.start]
	for _, b := range p.batches[p.start:] {
		if b.index == 0 || logged(b.index, b.term) {
			kept = append(kept, b)
			continue
		}
		b.fail(err)
	}
	clear(p.batches[len(kept):])
	p.batches = kept
}

func (p *pendingBatches) failAll(err error) {
	if b := p.applying; b != nil { // the machine panicked in it
		p.applying = nil
		b.fail(err)
	}
	p.failUpTo(^uint64(0), err)
	p.unassigned, p.orphanTicks = 0, 0
}

func (b *pendingBatch) fail(err error) {
	for _, p := range b.proposals {
		if !p.Async {
			p.Done(Result{Index: b.index, Err: err})
		}
	}
}

func (b *pendingBatch) answer(index uint64, outcomes [][]byte) {
	if outcomes != nil && len(outcomes) != len(b.proposals) {
		panic("the machine returned another number of outcomes than it was given commands")
	}
	for i, p := range b.proposals {
		if p.Async {
			continue
		}
		res := Result{Index: index}
		if outcomes != nil {
			res.Outcome = outcomes[i]
		}
		p.Done(res)
	}
}

// failUnlogged answers what this replica proposed in a term before the one it begins to lead and what another leader
// has taken from its log since: it may still be committed, by a third, and this log grows over its indices.
func (r *Replica) failUnlogged() {
	logged := func(index, term uint64) bool {
		at, err := r.cfg.Log.Term(index)
		return errors.Is(err, raft.ErrCompacted) || err == nil && at == term
	}
	r.pending.failUnless(logged, ErrUnknown)
	if c := r.change; c != nil && c.index != 0 && !logged(c.index, c.term) {
		r.endChange(c.index, ErrUnknown)
	}
}
