package node

import (
	"sync"
)

// leaders knows, per shard, whom this node believes to lead it. It is a hint
// that routing starts from; whoever is asked checks for itself.
//
// What this node's own replica says and what peers say are kept apart. They
// come from different goroutines, so that a peer's older word ("I lead
// nothing") may arrive after raft has named that peer: were there one entry
// for both, it would be gone, and raft names a leader once.
type leaders struct {
	mu struct {
		sync.Mutex
		own     map[uint32]uint64 // what the replica here says; 0: none
		told    map[uint32]uint64 // what peers say; counts where own says none
		terms   map[uint32]uint64 // of what peers say
		away    map[uint32]bool   // the replica here is no member: peers know better
		changed chan struct{}
	}
}

func newLeaders() *leaders {
	l := &leaders{}
	l.mu.own, l.mu.told, l.mu.terms, l.mu.away = map[uint32]uint64{}, map[uint32]uint64{}, map[uint32]uint64{}, map[uint32]bool{}
	l.mu.changed = make(chan struct{})
	return l
}

// known is shard's leader, 0 for none; the lock is held.
func (l *leaders) known(shard uint32) uint64 {
	own, told := l.mu.own[shard], l.mu.told[shard]
	if own == 0 || told != 0 && l.mu.away[shard] {
		return told
	}
	return own
}

// update changes what is known of a shard and wakes who waits for that.
func (l *leaders) update(shard uint32, change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.known(shard)
	change()
	if l.known(shard) == was {
		return
	}
	close(l.mu.changed)
	l.mu.changed = make(chan struct{})
}

// set notes the leader that the replica here names (0: it hears of none). What
// peers said before that is no news any more.
func (l *leaders) set(shard uint32, id uint64) {
	l.update(shard, func() { l.mu.own[shard], l.mu.told[shard] = id, 0 })
}

// member says whether the replica here, if any, is a member of the shard.
func (l *leaders) member(shard uint32, is bool) {
	l.update(shard, func() { l.mu.away[shard] = !is })
}

// hint notes what a peer says of a shard that has no replica here, or one that
// hears of no leader: that it leads it in a term, or that it does not. Who
// leads in a later term wins.
func (l *leaders) hint(shard uint32, from, term uint64, leads bool) {
	l.update(shard, func() {
		switch {
		case leads && (term >= l.mu.terms[shard] || l.mu.told[shard] == 0):
			l.mu.told[shard], l.mu.terms[shard] = from, max(term, l.mu.terms[shard])
		case !leads && l.mu.told[shard] == from:
			l.mu.told[shard] = 0
		}
	})
}

// of returns shard's leader and a channel that is closed at the next change
// of any.
func (l *leaders) of(shard uint32) (uint64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known(shard), l.mu.changed
}
