package node

import (
	"sync"
	"testing"
	"time"
)

// Lease calls of one agent that run at once never fill a place twice.
func TestReserveRace(t *testing.T) {
	const limit, callers, turns = 5, 8, 2000
	h := newHolds(time.Now)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for turn := range turns {
				room := h.reserve("a", 1+(i+turn)%limit, limit)
				var held []uint64
				for k := range room {
					id := taskNamed("x")
					id[0], id[1], id[2], id[3] = byte(i), byte(turn), byte(turn>>8), byte(k)
					h.add(id, "a", "", 1, 1000, 0)
					held = append(held, uint64(k))
				}
				if n := h.count("a"); n > limit {
					t.Errorf("%d held, limit %d", n, limit)
				}
				h.release("a", room)
				for _, k := range held {
					id := taskNamed("x")
					id[0], id[1], id[2], id[3] = byte(i), byte(turn), byte(turn>>8), byte(k)
					h.drop(id, 1)
				}
			}
		})
	}
	wg.Wait()
	if h.count("a") != 0 || h.reserve("a", 100, limit) != limit {
		t.Error("room was lost")
	}
}
