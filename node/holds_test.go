package node

import (
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
)

// What a node said it does not hold it does not take afterwards, however late
// the lease arrives: somebody else may have it.
func TestAdmitKeepsWord(t *testing.T) {
	h := newHolds(time.Now)
	id, other := ledger.NewTaskID(3, 1000, 1), ledger.NewTaskID(4, 1000, 2)
	lease := func(id ledger.TaskID, term, n uint64, logged bool) *grant {
		return &grant{id: id, epoch: term<<epochTermShift | n, leaseMillis: 1000, logged: logged}
	}
	if !h.admit(lease(id, 5, 1, false), "a", "", 0) {
		t.Fatal("a first lease is refused")
	}
	if list := h.told(3, 7, 9); len(list) != 1 || list[0].agent != "a" || list[0].node != 9 {
		t.Fatalf("told %+v", list)
	}
	if got := h.told(4, 7, 9); len(got) != 0 {
		t.Fatalf("told %+v of another shard", got)
	}
	for _, c := range []struct {
		name string
		g    *grant
		want bool
	}{
		{"older than what the leader of term 7 was told", lease(id, 6, 9, false), false},
		{"of another shard, older", lease(other, 6, 9, false), false},
		{"in the log", lease(other, 6, 9, true), true},
		{"of term 7", lease(id, 7, 1, false), true},
	} {
		if got := h.admit(c.g, "a", "", 0); got != c.want {
			t.Errorf("%s: admitted=%v", c.name, got)
		}
	}
	h.told(3, 6, 9) // a report for an older term takes nothing back
	if h.admit(lease(id, 6, 99, false), "a", "", 0) {
		t.Error("a lease of term 6 after a report for term 7")
	}

	third := ledger.NewTaskID(3, 1000, 3)
	epoch := uint64(8)<<epochTermShift | 5
	if h.holding(third, epoch, 0) {
		t.Error("it holds what it was not given")
	}
	if h.admit(&grant{id: third, epoch: epoch}, "a", "", 1) || h.admit(&grant{id: third, epoch: epoch, logged: true}, "a", "", 1) {
		t.Error("taken after it was denied")
	}
	if !h.admit(&grant{id: third, epoch: epoch + 1}, "a", "", 1) || !h.holding(third, epoch+1, 1) {
		t.Error("a newer lease is refused")
	}
	h.holding(other, 1, deniedMillis+2)
	if len(h.mu.word.denied) != 1 {
		t.Errorf("%d denials are kept, want the newest", len(h.mu.word.denied))
	}
}
