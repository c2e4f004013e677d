package raftstore

import (
	"context"
	"fmt"
	"testing"
)

func TestCommitAndRestart(t *testing.T) {
	w := newCluster(t, 3, 2, nil)
	for i := range 200 {
		for shard := range uint32(2) {
			r := w.must(shard, fmt.Sprintf("k%d=%d", i%10, i))
			if r.Index == 0 || r.Outcome == nil {
				t.Fatalf("result %+v", r)
			}
		}
	}
	w.converge(2)
	for _, n := range w.nodes {
		s := n.store.Swap(nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range w.nodes {
		n.open(t)
	}
	w.must(0, "after=restart")
	w.converge(2)
	if got := w.nodes[1].toy(1).get("k9"); got != "199" {
		t.Fatalf("k9 = %q", got)
	}
	idx, err := w.leader(0).store.Load().ReadIndex(context.Background(), 0)
	if err != nil || idx == 0 {
		t.Fatalf("read index %d: %v", idx, err)
	}
}
