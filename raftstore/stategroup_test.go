package raftstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

// gather puts n checkpoints while the first is being written, and returns the groups that were written.
func gather(t *testing.T, n int, prepare func(*stateWrite) error) (groups [][]uint32, errs []error) {
	t.Helper()
	began, goOn := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(began); <-goOn })
	g := newStateGroup(nil, func(_ string, ws []*stateWrite, _ *pacer) error {
		first()
		var shards []uint32
		for _, w := range ws {
			shards = append(shards, w.shard)
		}
		groups = append(groups, shards)
		return nil
	})
	errs = make([]error, n)
	var wg sync.WaitGroup
	put := func(i int, prepare func(*stateWrite) error) {
		wg.Go(func() { errs[i] = g.put(&stateWrite{shard: uint32(i), prepare: prepare}) })
	}
	put(0, func(*stateWrite) error { return nil })
	<-began
	for i := 1; i < n; i++ {
		put(i, prepare)
	}
	eventually(t, "all wait", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.mu.waiting) == n-1
	})
	close(goOn)
	wg.Wait()
	return groups, errs
}

// TestCheckpointsAreWrittenTogether: those that wait go as one, in order; each goes once.
func TestCheckpointsAreWrittenTogether(t *testing.T) {
	groups, errs := gather(t, 20, func(*stateWrite) error { return nil })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if len(groups) != 2 || !slices.IsSorted(groups[1]) || len(groups[1]) != 19 {
		t.Errorf("groups %v, want the first alone and the others together in order", groups)
	}
}

// TestGroupLimit: a group ends with the checkpoint that reaches the limit; the rest goes next.
func TestGroupLimit(t *testing.T) {
	for _, c := range []struct{ rows, want int }{{maxGroupRows/2 - 1, 3}, {maxGroupRows / 2, 3}, {maxGroupRows / 4, 2}, {maxGroupRows, 5}} {
		groups, errs := gather(t, 5, func(w *stateWrite) error {
			w.changes.Puts = make([]KV, c.rows-1)
			return nil
		})
		if err := errors.Join(errs...); err != nil || len(groups) != c.want {
			t.Errorf("%d rows each: groups %v (%v), want %d", c.rows, groups, err, c.want)
		}
	}
}

// TestFailedGroup: what can't be made ready is not written, and says so.
func TestFailedGroup(t *testing.T) {
	broken := errors.New("broken")
	groups, errs := gather(t, 3, func(*stateWrite) error { return broken })
	if len(groups) != 1 || errs[0] != nil || errs[1] != broken || errs[2] != broken {
		t.Errorf("groups %v, errors %v", groups, errs)
	}
}

// TestGroupOfChanges: shards with and without changes are ingested together, several times over the same keys, and every
// checkpoint and row is there.
func TestGroupOfChanges(t *testing.T) {
	w := newCluster(t, 1, 1, nil)
	d := w.nodes[1].store.Load().state
	const shards = 6
	for round := uint64(1); round <= 3; round++ {
		var writes []*stateWrite
		for shard := uint32(10); shard < 10+shards; shard++ {
			sw := &stateWrite{shard: shard, c: checkpoint{index: round, term: 1, conf: &pb.ConfState{Voters: []uint64{1}}}}
			if shard%3 != 0 {
				sw.changes.Puts = []KV{{[]byte("b"), []byte{byte(round)}}, {[]byte("a"), []byte{byte(shard)}}}
			}
			if round == 3 && shard%3 == 1 {
				sw.changes.Puts, sw.changes.Deletes = nil, [][]byte{[]byte("a")}
			}
			writes = append(writes, sw)
		}
		if err := d.write(fmt.Sprintf("test-%d", round), writes, nil); err != nil {
			t.Fatal(err)
		}
	}
	for shard := uint32(10); shard < 10+shards; shard++ {
		c, found, err := d.checkpoint(shard)
		if err != nil || !found || c.index != 3 {
			t.Errorf("shard %d: checkpoint %+v, %v, %v", shard, c, found, err)
		}
		_, found, err = stateReader{d, shard}.Get([]byte("a"))
		if want := shard%3 == 2; err != nil || found != want {
			t.Errorf("shard %d: row found %v (%v), want %v", shard, found, err, want)
		}
	}
}
