package raftstore

import (
	"cmp"
	"slices"
	"sync"
)

// maxGroupRows ends a group: its rows are in memory together. 64 Ki rows of 256 B are 16 MiB.
const maxGroupRows = 64 << 10

// stateGroup writes the state checkpoints of the shards of a store. Those that come while one is being written are
// written together afterwards, as one set of tables and one ingest: with many shards the fsyncs of their checkpoints,
// not their bytes, are what stands in the way of the log's.
type stateGroup struct {
	write func(name string, writes []*stateWrite, pace *pacer) error
	turn  chan struct{} // capacity 1: held by whoever writes
	pace  *pacer        // the turn's holder's
	mu    struct {
		sync.Mutex
		waiting []*stateWrite
	}
}

// stateWrite is the checkpoint of one shard.
type stateWrite struct {
	name    string // unique among writers
	shard   uint32
	changes Changes
	c       checkpoint
	prepare func(*stateWrite) error // before it is written: what must be durable first
	done    bool                    // written, or failed with err; the turn's holder's
	err     error
}

func newStateGroup(pace *pacer, write func(string, []*stateWrite, *pacer) error) *stateGroup {
	return &stateGroup{write: write, turn: make(chan struct{}, 1), pace: pace}
}

// put returns when w is durable and visible.
func (g *stateGroup) put(w *stateWrite) error {
	g.mu.Lock()
	g.mu.waiting = append(g.mu.waiting, w)
	g.mu.Unlock()
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	for !w.done { // otherwise somebody before took it along
		g.next()
	}
	return w.err
}

// next writes what waits, up to the limit. It is the turn's holder's.
func (g *stateGroup) next() {
	g.mu.Lock()
	group := g.mu.waiting
	g.mu.waiting = nil
	g.mu.Unlock()
	g.pace.begin()
	rows := 0
	var err error
	for i, w := range group {
		if rows >= maxGroupRows || err != nil {
			g.mu.Lock()
			g.mu.waiting = append(slices.Clone(group[i:]), g.mu.waiting...)
			g.mu.Unlock()
			group = group[:i]
			break
		}
		err = w.prepare(w)
		rows += 1 + len(w.changes.Puts) + len(w.changes.Deletes)
	}
	if err == nil {
		sorted := slices.SortedFunc(slices.Values(group), func(a, b *stateWrite) int { return cmp.Compare(a.shard, b.shard) })
		err = g.write(group[0].name, sorted, g.pace)
	}
	for _, w := range group {
		w.done, w.err = true, err
	}
}
