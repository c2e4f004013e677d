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
		changed chan struct{}
	}
}

func newLeaders() *leaders {
	l := &leaders{}
	l.mu.of = map[uint32]uint64{}
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

// of returns shard's leader and a channel that is closed at the next change
// of any.
func (l *leaders) of(shard uint32) (uint64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.of[shard], l.mu.changed
}
