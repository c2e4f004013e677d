package node

import (
	"sync"
)

// leaders knows, per shard, whom this node believes to lead it. It is a hint
// that routing starts from; whoever is asked checks for itself.
type leaders struct {
	mu struct {
		sync.Mutex
		of      map[uint32]uint64
		terms   map[uint32]uint64 // of hints
		changed chan struct{}
	}
}

func newLeaders() *leaders {
	l := &leaders{}
	l.mu.of, l.mu.terms = map[uint32]uint64{}, map[uint32]uint64{}
	l.mu.changed = make(chan struct{})
	return l
}

// set notes shard's leader (0: none known) and wakes who waits for a change.
func (l *leaders) set(shard uint32, id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.of[shard] == id {
		return
	}
	l.mu.of[shard] = id
	close(l.mu.changed)
	l.mu.changed = make(chan struct{})
}

// hint notes what a peer says of a shard that has no replica here: that it leads
// it in a term, or that it does not. Who leads in a later term wins.
func (l *leaders) hint(shard uint32, from, term uint64, leads bool) {
	l.mu.Lock()
	old, oldTerm := l.mu.of[shard], l.mu.terms[shard]
	if leads && term >= oldTerm {
		l.mu.terms[shard] = term
	}
	l.mu.Unlock()
	switch {
	case leads && (term >= oldTerm || old == 0):
		l.set(shard, from)
	case !leads && old == from:
		l.set(shard, 0)
	}
}

// of returns shard's leader and a channel that is closed at the next change
// of any.
func (l *leaders) of(shard uint32) (uint64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.of[shard], l.mu.changed
}
