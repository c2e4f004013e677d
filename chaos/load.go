package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/api"
)

// The load of a run: enough to keep every shard busy, little enough that two
// cores carry it beside the faults.
const (
	submitters     = 3
	workers        = 4
	submitInterval = 80 * time.Millisecond // per submitter
	maxSubmitBatch = 12
	maxLeaseBatch  = 24
	leaseWait      = 500 * time.Millisecond
	requestTimeout = 5 * time.Second // then the outcome is unknown
	retryPause     = 100 * time.Millisecond
	taskLease      = 2.0 // seconds; an abandoned task is back after that
)

// Streams of the random sources drawn from a run's seed.
const (
	seedNemesis uint64 = iota
	seedSubmitter
	seedWorker = seedSubmitter + submitters
)

var capabilities = []string{"count:up", "count:down"}

// load drives submitters and workers over a cluster and records all of it.
type load struct {
	h      *History
	nodes  []wire.Client
	seed   uint64
	calm   atomic.Bool  // the faults are over: workers complete all they get, and nobody dies
	deaths atomic.Int64 // of actors
	lie    bool         // tests: who verifies says that nothing happened
}

func (l *load) any(rng *rand.Rand) wire.Client { return l.nodes[rng.IntN(len(l.nodes))] }

// submit submits until ctx ends, every key until it is acknowledged or drain
// ends. A key in six is submitted again later.
func (l *load) submit(ctx, drain context.Context, n int) {
	rng := rand.New(rand.NewPCG(l.seed, seedSubmitter+uint64(n)))
	var old []api.TaskSpec
	for i := 0; pause(ctx, submitInterval); {
		specs := make([]api.TaskSpec, 1+rng.IntN(maxSubmitBatch))
		for k := range specs {
			if len(old) > 0 && rng.IntN(6) == 0 {
				specs[k] = old[rng.IntN(len(old))]
				continue
			}
			specs[k] = spec(fmt.Sprintf("s%d-%d", n, i), i)
			i++
			old = append(old, specs[k])
		}
		l.submitUntilAcked(drain, rng, unique(specs))
	}
}

// unique drops a key drawn twice for one request.
func unique(specs []api.TaskSpec) []api.TaskSpec {
	seen := map[string]bool{}
	return slices.DeleteFunc(specs, func(s api.TaskSpec) bool {
		dup := seen[s.IdempotencyKey]
		seen[s.IdempotencyKey] = true
		return dup
	})
}

func spec(key string, i int) api.TaskSpec {
	action, target, _ := api.SplitCapability(capabilities[i%len(capabilities)])
	retries := 1000 // an abandoned attempt counts; none may be the last
	return api.TaskSpec{
		Action: action, Target: target, IdempotencyKey: key, LeaseSeconds: taskLease,
		Input:       json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)),
		Priority:    []string{"low", "normal", "high"}[i%3],
		RetryPolicy: &api.RetryPolicy{MaxRetries: &retries, Backoff: "fixed", InitialDelaySeconds: 0.1},
	}
}

// submitUntilAcked asks node after node, keeping the keys, as a client that
// does not know what became of its request.
func (l *load) submitUntilAcked(ctx context.Context, rng *rand.Rand, specs []api.TaskSpec) {
	for len(specs) > 0 && ctx.Err() == nil {
		began := l.h.tick()
		rctx, cancel := context.WithTimeout(ctx, requestTimeout)
		verdicts, err := l.any(rng).Submit(rctx, specs)
		cancel()
		span := Span{began, l.h.tick()}
		var left []api.TaskSpec
		for i, s := range specs {
			sub := Submission{Span: span, Key: s.IdempotencyKey, Answer: answerOf(err)}
			if err == nil {
				v := verdicts[i]
				sub.Answer = answerOf(refusal(v.Error))
				sub.TaskID, sub.State, sub.Replayed = v.TaskID, v.State, v.Replayed
			}
			if sub.Answer != Acked {
				left = append(left, s)
			}
			l.h.submitted(sub)
		}
		if specs = left; len(specs) > 0 {
			pause(ctx, retryPause)
		}
	}
}

// refusal keeps a nil *api.Error a nil error.
func refusal(e *api.Error) error {
	if e == nil {
		return nil
	}
	return e
}

func answerOf(err error) Answer {
	switch {
	case err == nil:
		return Acked
	case wire.Certain(err):
		return Refused
	}
	return Unknown
}

// worker leases and settles until ctx ends. Most tasks it completes; some it
// fails, some it forgets, some it settles long after its lease is over.
func (l *load) worker(ctx context.Context, n int) {
	w := &worker{
		load: l, id: fmt.Sprintf("w%d", n), rng: rand.New(rand.NewPCG(l.seed, seedWorker+uint64(n))),
	}
	w.node = l.any(w.rng)
	defer w.late.Wait()
	can := capabilities
	if n == workers-1 {
		can = can[:1] // one half of the work only
	}
	for !w.register(ctx, can...) {
		if !pause(ctx, retryPause) {
			return
		}
	}
	for ctx.Err() == nil {
		tasks, ok := w.lease(ctx)
		if !ok {
			w.node = l.any(w.rng)
			pause(ctx, retryPause)
			continue
		}
		w.work(ctx, tasks)
	}
}

type worker struct {
	*load
	id   string
	rng  *rand.Rand // of the worker's goroutine
	node wire.Client
	late sync.WaitGroup // settlements that come too late on purpose
}

// register enters the agent.
func (w *worker) register(ctx context.Context, can ...string) bool {
	rctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := w.node.Register(rctx, w.id, can...); err != nil {
		w.node = w.any(w.rng)
		return false
	}
	return true
}

func (w *worker) lease(ctx context.Context) ([]api.Lease, bool) {
	began := w.h.tick()
	rctx, cancel := context.WithTimeout(ctx, leaseWait+requestTimeout)
	defer cancel()
	tasks, err := w.node.Lease(rctx, w.id, 1+w.rng.IntN(maxLeaseBatch), leaseWait)
	if err != nil {
		return nil, false
	}
	span := Span{began, w.h.tick()}
	for _, t := range tasks {
		w.h.granted(Grant{Span: span, TaskID: t.TaskID, AgentID: w.id, Epoch: t.Epoch})
	}
	return tasks, true
}

// Of a hundred tasks a worker fails, forgets and delays that many.
const (
	failShare, forgetShare, lateShare = 5, 3, 4
	lateBy                            = time.Duration(1.5 * taskLease * float64(time.Second))
)

func (w *worker) work(ctx context.Context, tasks []api.Lease) {
	var now, later []api.Settlement
	for _, t := range tasks {
		s := api.Settlement{TaskID: t.TaskID, Epoch: t.Epoch, Verdict: "complete", Result: json.RawMessage(fmt.Sprintf(`"%s@%d"`, w.id, t.Epoch))}
		switch draw := w.rng.IntN(100); {
		case w.calm.Load():
			now = append(now, s)
		case draw < failShare:
			s.Verdict, s.Result, s.Error = "fail", nil, "drawn to fail"
			now = append(now, s)
		case draw < failShare+forgetShare:
		case draw < failShare+forgetShare+lateShare:
			later = append(later, s)
		default:
			now = append(now, s)
		}
	}
	w.settle(ctx, w.rng, now)
	if len(later) > 0 {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), 0))
		w.late.Go(func() {
			if pause(ctx, lateBy) {
				w.settle(ctx, rng, later)
			}
		})
	}
}

// settle asks until every verdict is known: an unknown outcome is asked again,
// with the same epoch, from another node.
func (w *worker) settle(ctx context.Context, rng *rand.Rand, list []api.Settlement) {
	for first := true; len(list) > 0 && ctx.Err() == nil; first = false {
		node := w.any(rng)
		if !first {
			pause(ctx, retryPause)
		}
		began := w.h.tick()
		rctx, cancel := context.WithTimeout(ctx, requestTimeout)
		verdicts, err := node.Settle(rctx, w.id, list)
		cancel()
		span := Span{began, w.h.tick()}
		var left []api.Settlement
		for i, s := range list {
			rec := Settling{Span: span, TaskID: s.TaskID, AgentID: w.id, Epoch: s.Epoch, Verdict: s.Verdict, Result: string(s.Result), Answer: answerOf(err)}
			again := err != nil
			if err == nil {
				v := verdicts[i]
				rec.Answer = answerOf(refusal(v.Error))
				rec.State, rec.Replayed = v.State, v.Replayed
				if v.Error != nil {
					rec.Code = v.Error.Code
					again = v.Error.Retry != api.RetryNo
				}
			}
			if again {
				left = append(left, s)
			}
			w.h.settled(rec)
		}
		list = left
	}
}
