package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// dispatchInterval is the least time between two requests at a rate: at 8,000
// tasks a second a request then carries eight, not one. What a task waits for
// its request counts as latency.
const dispatchInterval = time.Millisecond

// schedule says which tasks are due. Task i of an open loop is due i/rate after
// the beginning, however the ones before fared.
type schedule struct {
	rate int
	mu   struct {
		sync.Mutex
		taken int64         // tasks handed out
		last  time.Duration // when
	}
}

func newSchedule(rate int) *schedule { return &schedule{rate: rate} }

// due is when task i is.
func (s *schedule) due(i int64) time.Duration {
	return time.Duration(float64(i) / float64(s.rate) * float64(time.Second))
}

// take waits until tasks are due and takes at most limit of them. One taker
// waits for the clock, the others for the taker.
func (s *schedule) take(ctx context.Context, now func() time.Duration, limit int) (first int64, n int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return 0, 0, false
	}
	if wait := max(s.due(s.mu.taken), s.mu.last+dispatchInterval) - now(); wait > 0 && !pause(ctx, wait) {
		return 0, 0, false
	}
	s.mu.last = now()
	due := int64(s.mu.last.Seconds()*float64(s.rate)) + 1 // tasks 0 to due-1
	n = int(min(max(due-s.mu.taken, 1), int64(limit)))
	first = s.mu.taken
	s.mu.taken += int64(n)
	return first, n, true
}

// submit submits until ctx ends; what it has begun it ends within drain.
func (m *measurement) submit(ctx, drain context.Context, id int) {
	at := id
	for {
		first, due, ok := m.Next(ctx)
		if !ok || first+int64(len(due)) > maxTasks {
			return
		}
		specs := make([]api.TaskSpec, len(due))
		for i := range specs {
			specs[i] = m.spec(first+int64(i), due[i])
		}
		m.submitUntilAcked(drain, &at, first, specs, due)
	}
}

// input is what a task carries: enough to know it again without a table.
type input struct {
	Seq  int64         `json:"s"`
	Due  time.Duration `json:"d"`
	Fill string        `json:"p"`
}

// encodeInput writes an input of exactly size bytes, if size allows.
func encodeInput(seq int64, due time.Duration, size int) json.RawMessage {
	b := make([]byte, 0, size)
	b = append(b, `{"s":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, `,"d":`...)
	b = strconv.AppendInt(b, int64(due), 10)
	b = append(b, `,"p":"`...)
	b = append(b, strings.Repeat("x", max(size-len(b)-2, 0))...)
	return append(b, `"}`...)
}

func (m *measurement) spec(seq int64, due time.Duration) api.TaskSpec {
	action, target, _ := api.SplitCapability(capability)
	s := api.TaskSpec{
		Action: action, Target: target, IdempotencyKey: m.key(seq), LeaseSeconds: leaseSeconds,
		Input: encodeInput(seq, due, m.cfg.PayloadBytes), Guarantee: m.cfg.Guarantee,
	}
	switch m.cfg.Guarantee {
	case ledger.BestEffort.String():
		s.IdempotencyKey = "" // a key asks which task has it, and waits for the answer
	case ledger.ExactlyOnce.String():
		s.Verify = json.RawMessage(`{"action":"check"}`)
	}
	return s
}

// submitUntilAcked submits the tasks from sequence number first on, node after
// node until all are acknowledged; at is the node to ask.
func (m *measurement) submitUntilAcked(ctx context.Context, at *int, first int64, specs []api.TaskSpec, due []time.Duration) {
	left := make([]int, len(specs)) // indexes not acknowledged yet
	for i := range left {
		left[i] = i
	}
	for len(left) > 0 && ctx.Err() == nil {
		batch := specs
		if len(left) < len(specs) {
			batch = make([]api.TaskSpec, len(left))
			for k, i := range left {
				batch[k] = specs[i]
			}
		}
		verdicts, err := call(ctx, func(ctx context.Context) ([]api.SubmitVerdict, error) {
			return m.nodes[*at%len(m.nodes)].Submit(ctx, batch)
		})
		if err != nil {
			m.failed.Add(1)
			*at++
			pause(ctx, retryPause)
			continue
		}
		again, acked := left[:0], make([]time.Duration, 0, len(left))
		for k, i := range left {
			if v := verdicts[k]; v.Error != nil {
				again = append(again, i)
				continue
			}
			m.acked.set(first + int64(i))
			acked = append(acked, due[i])
		}
		m.Submitted(acked)
		if left = again; len(left) > 0 {
			m.failed.Add(1)
			pause(ctx, retryPause)
		}
	}
}

// call bounds one request.
func call[T any](ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return do(ctx)
}

// register enters the worker's agent at any node.
func (w *worker) register(ctx context.Context) error {
	var last error
	for range 3 * len(w.m.nodes) {
		_, last = call(ctx, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, w.node().Register(ctx, w.id, capability)
		})
		if last == nil || ctx.Err() != nil {
			return last
		}
		if p := wire.Problem(last); p != nil && p.Retry == api.RetryNo {
			return last
		}
		w.at.Add(1)
		pause(ctx, 10*retryPause)
	}
	return fmt.Errorf("bench: register %s: %w", w.id, last)
}
