package node

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Hundreds of held tasks that are over at once: the session is told of each,
// however late it reads.
func TestEveryRevocationIsTold(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, nil)
	n := c.nodes[0]
	w := c.openWork(n, "w", "")
	const count = 600
	ids := c.submitMany(n, count, api.TaskSpec{Action: "do", Target: "it", Guarantee: "at_least_once", LeaseSeconds: 60})
	held := map[string]uint64{}
	for len(held) < count {
		got, err := w.Take(t.Context(), count-len(held))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range got {
			held[l.TaskID] = l.Epoch
		}
	}
	var jobs sync.WaitGroup
	for k := range 8 {
		jobs.Go(func() {
			for i := k; i < count; i += 8 {
				if _, err := n.Cancel(t.Context(), ids[i], "test", ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	jobs.Wait()
	c.eventually("all are told", func() error {
		list, err := w.Events(100)
		if err != nil || len(list) > 100 {
			t.Fatalf("%d events, %v", len(list), err)
		}
		for _, e := range list {
			if e.Type != "revoked" || held[e.TaskID] != e.Epoch || e.Reason != "cancelled" {
				t.Errorf("%+v", e)
			}
			delete(held, e.TaskID)
		}
		if len(held) > 0 {
			return fmt.Errorf("%d of %d were not told", len(held), count)
		}
		return nil
	})
}

// What waits for a slow reader is bounded: beyond it the session ends, and says
// why.
func TestSlowReaderOfRevocations(t *testing.T) {
	s := newSessions(time.Now)
	x := s.openWork("w", 1)
	for i := range sessionQueue {
		x.revoke(api.SessionEvent{Type: "revoked", TaskID: fmt.Sprint(i)})
	}
	next := 0
	for range 3 {
		<-x.bell // rings as long as there is more
		list, err := x.told(100)
		if err != nil || len(list) != 100 || list[0].TaskID != fmt.Sprint(next) {
			t.Fatalf("%d events from %v, %v", len(list), list[0], err)
		}
		next += len(list)
	}
	for range 301 {
		x.revoke(api.SessionEvent{Type: "revoked"})
	}
	<-x.bell
	if list, err := x.told(100); err == nil || asAPIError(err).Code != "slow_reader" || asAPIError(err).Layer != 2 || len(list) > 0 {
		t.Errorf("one over: %d events, %v", len(list), err)
	}
}
