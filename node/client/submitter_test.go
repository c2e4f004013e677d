package client

import (
	"errors"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// TestSentOnce: when a stream breaks, tasks with keys wait for the next one, in front; tasks without fail, their outcome
// unknown; a caller who has left is not served.
func TestSentOnce(t *testing.T) {
	s := &Submitter{}
	keyed := &submission{done: make(chan struct{})}
	once := &submission{once: true, done: make(chan struct{})}
	left := &submission{given: true, done: make(chan struct{})}
	waiting := &submission{done: make(chan struct{})}
	s.mu.flight = map[uint64][]*submission{7: {keyed, once, left}}
	s.mu.queue = []*submission{waiting}
	s.requeue()
	if len(s.mu.flight) != 0 || len(s.mu.queue) != 2 || s.mu.queue[0] != keyed || s.mu.queue[1] != waiting {
		t.Errorf("queue %v, on their way %v", s.mu.queue, s.mu.flight)
	}
	<-once.done
	e := (*api.Error)(nil)
	if !errors.As(once.err, &e) || e.Code != "outcome_unknown" || e.Retry != api.RetryNo {
		t.Errorf("sent once: %v", once.err)
	}
}

// TestKeys: all tasks get a key, but those of a batch that is best_effort as a whole and has none.
func TestKeys(t *testing.T) {
	for _, tc := range []struct {
		name  string
		specs []api.TaskSpec
		keys  []bool
	}{
		{"default", []api.TaskSpec{{}, {Guarantee: "exactly_once"}}, []bool{true, true}},
		{"best effort", []api.TaskSpec{{Guarantee: "best_effort"}, {Guarantee: "atp-1"}}, []bool{false, false}},
		{"mixed", []api.TaskSpec{{Guarantee: "best_effort"}, {}}, []bool{true, true}},
		{"one with a key", []api.TaskSpec{{Guarantee: "best_effort", IdempotencyKey: "k"}, {Guarantee: "atp-1"}}, []bool{true, true}},
	} {
		if once := giveKeys(tc.specs); once == tc.keys[0] {
			t.Errorf("%s: sent once %v", tc.name, once)
		}
		for i, s := range tc.specs {
			if (s.IdempotencyKey != "") != tc.keys[i] {
				t.Errorf("%s: task %d has key %q", tc.name, i, s.IdempotencyKey)
			}
		}
	}
}
