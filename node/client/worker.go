package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Bounds of what a worker sends.
const (
	startedAfter  = 50 * time.Millisecond
	drainedWithin = 10 * time.Second // for the last answers, after the last call
)

// worker is an agent at work: what it holds outlives the sessions.
type worker struct {
	cfg      WorkConfig
	manifest []byte
	wake     chan struct{} // capacity 1: there is something to send
	calls    sync.WaitGroup
	running  context.Context // of the calls
	stop     context.CancelCauseFunc

	mu struct {
		sync.Mutex
		held     map[string]*holding
		queue    []Task // no call has begun with them
		busy     int    // calls
		young    []*holding
		reports  map[string]api.HeldClaim // newest progress of each
		settle   []api.Settlement
		later    []postponed // answered "later": they join settle when due
		again    *time.Timer // fires at due: the earliest of later, or shortly after
		due      time.Time
		flight   map[uint64][]api.Settlement
		seq      uint64
		grant    int64 // credit to give with the next message
		owed     int64 // credit of recalled tasks: given when a call ends
		returned []api.Held
		kept     []api.Held // recalled, but begun with
		draining bool
		drained  bool // said to the node
		token    string
	}
}

// holding is one task the agent has.
type holding struct {
	id     string
	epoch  uint64
	once   bool                    // exactly_once
	ended  bool                    // its settlement is on its way
	pause  time.Duration           // of its settlement, if that is to be sent again
	cancel context.CancelCauseFunc // nil before its call, and of a batch
}

// Causes that end a call's context.
var (
	ErrRevoked = errors.New("client: the task is over, or somebody else's") // what the call returns is dropped
	ErrStopped = errors.New("client: the agent was stopped")
)

func newWorker(cfg WorkConfig) (*worker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(cfg.Manifest)
	if err != nil {
		return nil, fmt.Errorf("client: manifest: %w", err)
	}
	w := &worker{cfg: cfg, manifest: manifest, wake: make(chan struct{}, 1)}
	w.running, w.stop = context.WithCancelCause(context.Background())
	w.mu.held = map[string]*holding{}
	w.mu.reports = map[string]api.HeldClaim{}
	w.mu.flight = map[uint64][]api.Settlement{}
	return w, nil
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run keeps a session open until ctx ended and everything is settled.
func (w *worker) run(ctx context.Context, r route) error {
	defer w.calls.Wait()
	defer w.stop(ErrStopped)
	session, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stop := context.AfterFunc(ctx, func() {
		w.drain()
		select {
		case <-session.Done(): // it drained
			return
		case <-time.After(w.cfg.Drain):
		}
		w.stop(ErrStopped)
		select {
		case <-session.Done():
		case <-time.After(drainedWithin):
			end()
		}
	})
	defer stop()
	pause := rounds{}
	for {
		began := time.Now()
		err := w.session(session, r)
		if ctx.Err() != nil && (w.empty() || session.Err() != nil) {
			return nil
		}
		err = r.judge(err)
		var e *api.Error
		switch {
		case errors.As(err, &e) && e.Code == "message_too_large" && w.shrink(e):
			continue // the same node: nothing is wrong with it
		case errors.As(err, &e) && e.Retry == api.RetryNo:
			return err
		}
		r.next()
		if time.Since(began) > worthwhile || errors.Is(err, errNodeLeaves) {
			pause = rounds{}
		}
		w.cfg.Logger.Info("session ended, opening another", "layer", 2, "agent", w.cfg.Manifest.AgentID, "node", r.node(), "error", err)
		if !pause.since.IsZero() || r.alone() {
			pause.again(session, err)
		} else {
			pause.since, pause.pause = time.Now(), firstPause // the first other node is asked at once
		}
	}
}

// drain takes no more work and gives back what no call has begun with.
func (w *worker) drain() {
	w.mu.Lock()
	w.mu.draining = true
	for _, t := range w.mu.queue {
		w.mu.returned = append(w.mu.returned, api.Held{TaskID: t.TaskID, Epoch: t.Epoch})
		delete(w.mu.held, t.TaskID)
	}
	w.mu.queue = nil
	w.mu.Unlock()
	w.poke()
}

// empty says that nothing is held, or waits to be sent or answered.
func (w *worker) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.mu.held) == 0 && len(w.mu.returned) == 0
}

// take enters tasks that were pushed and starts calls for them.
func (w *worker) take(list []api.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.queue = slices.Grow(w.mu.queue, len(list)) // Batch takes the queue whole: it always begins anew
	for _, l := range list {
		if old := w.mu.held[l.TaskID]; old != nil && old.epoch >= l.Epoch {
			w.mu.grant++ // it cost a credit, and nothing ends for it
			continue
		} else if old != nil && !old.ended {
			w.over(old) // given again: the earlier epoch is over
		}
		if w.mu.draining {
			w.mu.returned = append(w.mu.returned, api.Held{TaskID: l.TaskID, Epoch: l.Epoch})
			continue
		}
		w.mu.held[l.TaskID] = &holding{id: l.TaskID, epoch: l.Epoch, once: api.ExactlyOnce(l.Guarantee)}
		w.mu.queue = append(w.mu.queue, Task{Lease: l, w: w})
	}
	calls := min(w.cfg.Concurrency-w.mu.busy, len(w.mu.queue))
	if w.cfg.Batch != nil {
		calls = min(calls, 1) // one call takes all there is
	}
	for range calls {
		w.mu.busy++
		w.calls.Go(w.work)
	}
	if len(w.mu.returned) > 0 || w.mu.grant > 0 {
		w.poke()
	}
}

// work makes calls until the queue is empty.
func (w *worker) work() {
	for {
		w.mu.Lock()
		n := len(w.mu.queue)
		if n == 0 || w.running.Err() != nil {
			w.mu.busy--
			w.mu.Unlock()
			return
		}
		if w.cfg.Batch == nil {
			t := w.mu.queue[0]
			w.mu.queue = w.mu.queue[1:]
			h := w.mu.held[t.TaskID]
			ctx, cancel := context.WithCancelCause(w.running)
			if h != nil {
				h.cancel = cancel
				if w.mu.young = append(w.mu.young, h); len(w.mu.young) == 1 {
					w.poke()
				}
			}
			w.mu.Unlock()
			w.perform(ctx, &t)
			cancel(nil)
			continue
		}
		list := w.mu.queue
		w.mu.queue = nil
		w.mu.Unlock()
		w.settle(w.cfg.Batch(w.running, list))
	}
}

// perform makes one call of the handler.
func (w *worker) perform(ctx context.Context, t *Task) {
	s := w.cfg.Perform(ctx, t)
	if errors.Is(context.Cause(ctx), ErrRevoked) {
		w.settle(nil)
		return
	}
	s.TaskID, s.Epoch = t.TaskID, t.Epoch
	w.settle([]api.Settlement{s})
}

func (w *worker) progress(t *Task, b []byte) {
	w.mu.Lock()
	if h := w.mu.held[t.TaskID]; h != nil && h.epoch == t.Epoch && !h.ended {
		w.mu.reports[t.TaskID] = api.HeldClaim{Held: api.Held{TaskID: t.TaskID, Epoch: t.Epoch}, Progress: b}
	}
	w.mu.Unlock()
	w.poke()
}

// revoke stops tasks that are over.
func (w *worker) revoke(id string, epoch uint64, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.mu.held[id]
	if h == nil || h.epoch > epoch || h.ended {
		return // an ended one has its own answer
	}
	w.cfg.Logger.Info("task revoked", "layer", 5, "task", id, "reason", reason)
	w.over(h)
}

// over ends a task that is somebody else's now, or nobody's. Call with the
// lock held.
func (w *worker) over(h *holding) {
	if h.cancel != nil {
		h.cancel(ErrRevoked)
	}
	w.drop(h)
}

// drop forgets a task that has not ended; its credit comes back. Call with the
// lock held.
func (w *worker) drop(h *holding) {
	delete(w.mu.held, h.id)
	for i := range w.mu.queue {
		if w.mu.queue[i].TaskID == h.id {
			w.mu.queue = append(w.mu.queue[:i:i], w.mu.queue[i+1:]...)
			break
		}
	}
	w.mu.grant++
	w.poke()
}

// recall gives back what no call has begun with, and says of the other that it
// was started.
func (w *worker) recall(id string, epoch uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.mu.held[id]
	if h == nil || h.epoch != epoch || h.ended {
		return // its end is on its way
	}
	for i := range w.mu.queue {
		if w.mu.queue[i].TaskID == id {
			w.drop(h)
			w.mu.grant-- // not before a call ends: the node has somebody else in mind
			w.mu.owed++
			w.mu.returned = append(w.mu.returned, api.Held{TaskID: id, Epoch: epoch})
			return
		}
	}
	w.mu.kept = append(w.mu.kept, api.Held{TaskID: id, Epoch: epoch})
	w.poke()
}
