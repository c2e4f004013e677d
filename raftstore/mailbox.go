package raftstore

import (
	"sync"
	"sync/atomic"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Raft messages queued for one shard; more are dropped, which raft repairs.
const (
	mailboxMessages     = 4096
	mailboxMessageBytes = 64 << 20
)

// mailbox is how everybody talks to a shard's goroutine. Two sets of slices take turns, so that taking is a swap.
type mailbox struct {
	pending     atomic.Bool // something is there
	wake        func()      // tells the goroutine that takes
	maxCommands int
	maxBytes    int
	mu          struct {
		sync.Mutex
		letters
		spare    letters
		commands int // queued, here and in the replica, until they are proposed or refused
		bytes    int
		closed   bool
	}
}

type letters struct {
	messages     []*pb.Message
	messageBytes int
	proposals    []Proposal
	calls        []func() // run on the shard's goroutine
	tick         bool
	beat         bool // the heartbeats held back are due
	stop         bool // finish: last checkpoint, then end
	abort        bool // end at once
}

func newMailbox(maxCommands, maxBytes int, wake func()) *mailbox {
	return &mailbox{wake: wake, maxCommands: maxCommands, maxBytes: maxBytes}
}

// signal comes after something was put in; the taker clears pending before it takes.
func (m *mailbox) signal() {
	if !m.pending.Load() && !m.pending.Swap(true) {
		m.wake()
	}
}

// take swaps the letters out. They belong to the caller until the next take.
func (m *mailbox) take() letters {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, s := m.mu.letters, m.mu.spare
	m.mu.letters = letters{messages: s.messages[:0], proposals: s.proposals[:0], calls: s.calls[:0]}
	m.mu.spare = l
	return l
}

// release lets go of what the letters point to.
func (l letters) release() {
	clear(l.messages)
	clear(l.proposals)
	clear(l.calls)
}

// tick leaves the waking to its caller, who has ticks for all the shards of an engine.
func (m *mailbox) tick(beat bool) {
	m.mu.Lock()
	m.mu.tick, m.mu.beat = true, m.mu.beat || beat
	m.mu.Unlock()
	m.pending.Store(true)
}

func (m *mailbox) finish(abort bool) {
	m.mu.Lock()
	if abort {
		m.mu.abort = true
	} else {
		m.mu.stop = true
	}
	m.mu.Unlock()
	m.signal()
}

// call runs fn on the shard's goroutine; false means never.
func (m *mailbox) call(fn func()) bool {
	m.mu.Lock()
	ok := !m.mu.closed
	if ok {
		m.mu.calls = append(m.mu.calls, fn)
	}
	m.mu.Unlock()
	if ok {
		m.signal()
	}
	return ok
}

func (m *mailbox) message(msg *pb.Message, size int) {
	m.mu.Lock()
	ok := !m.mu.closed && len(m.mu.messages) < mailboxMessages &&
		(m.mu.messageBytes == 0 || m.mu.messageBytes+size <= mailboxMessageBytes)
	if ok {
		m.mu.messages = append(m.mu.messages, msg)
		m.mu.messageBytes += size
	}
	m.mu.Unlock()
	if ok {
		m.signal()
	}
}

// propose queues what fits and answers the rest.
func (m *mailbox) propose(ps []Proposal, maxCommandBytes int) {
	refused := ErrOverloaded
	m.mu.Lock()
	n := 0
	if m.mu.closed {
		refused = ErrStopped
	} else {
		for _, p := range ps {
			size := len(p.Command)
			if size > maxCommandBytes || m.mu.commands == m.maxCommands || m.mu.bytes+size > m.maxBytes {
				break
			}
			m.mu.commands++
			m.mu.bytes += size
			n++
		}
		m.mu.proposals = append(m.mu.proposals, ps[:n]...)
	}
	m.mu.Unlock()
	if n > 0 {
		m.signal()
	}
	if n == len(ps) {
		return
	}
	if len(ps[n].Command) > maxCommandBytes {
		ps[n].Done(Result{Err: ErrTooLarge})
		m.propose(ps[n+1:], maxCommandBytes)
		return
	}
	for _, p := range ps[n:] {
		p.Done(Result{Err: refused})
	}
}

// left gives the room of commands back that were proposed or refused.
func (m *mailbox) left(commands, bytes int) {
	m.mu.Lock()
	m.mu.commands -= commands
	m.mu.bytes -= bytes
	m.mu.Unlock()
}

func (m *mailbox) queued() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.commands
}

// close refuses everything from now on and what is still there. Calls are dropped: who waits for one also waits for the
// shard's end.
func (m *mailbox) close() {
	m.mu.Lock()
	m.mu.closed = true
	rest := m.mu.letters
	m.mu.letters = letters{}
	m.mu.Unlock()
	for _, p := range rest.proposals {
		p.Done(Result{Err: ErrStopped})
	}
}
