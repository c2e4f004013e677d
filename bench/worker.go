package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/api"
)

// settlesInFlight is how many batches a worker settles at once while it leases
// the next; an answer takes an fsync on a quorum.
const settlesInFlight = 4

// worker is one agent: it leases in batches and completes what it gets.
type worker struct {
	m     *measurement
	id    string
	at    atomic.Int64 // index of the node it asks
	slots chan struct{}
	joins sync.WaitGroup
}

func newWorker(m *measurement, i int) *worker {
	w := &worker{m: m, id: fmt.Sprintf("bench-%d", i+1), slots: make(chan struct{}, settlesInFlight)}
	w.at.Store(int64(i))
	return w
}

func (w *worker) node() wire.Client { return w.m.nodes[w.at.Load()%int64(len(w.m.nodes))] }

// run leases and completes until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer w.joins.Wait()
	for {
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		tasks := w.lease(ctx)
		if len(tasks) == 0 {
			<-w.slots
			continue
		}
		w.joins.Go(func() {
			defer func() { <-w.slots }()
			w.complete(ctx, tasks)
		})
	}
}

func (w *worker) lease(ctx context.Context) []api.Lease {
	tasks, err := call(ctx, func(ctx context.Context) ([]api.Lease, error) {
		return w.node().Lease(ctx, w.id, w.m.cfg.Batch, leaseWait)
	})
	if err != nil && ctx.Err() == nil {
		w.m.failed.Add(1)
		w.at.Add(1)
		pause(ctx, retryPause)
	}
	return tasks
}

// result is a completion's result: 40 bytes.
var result = json.RawMessage(`{"done":true,"fill":"xxxxxxxxxxxxxxxxx"}`)

// complete settles tasks until every verdict is known.
func (w *worker) complete(ctx context.Context, tasks []api.Lease) {
	m := w.m
	inputs := make(map[string]input, len(tasks))
	list := make([]api.Settlement, 0, len(tasks))
	dues := make([]time.Duration, 0, len(tasks))
	for _, t := range tasks {
		var in input
		if json.Unmarshal(t.Input, &in) != nil || in.Seq < 0 || in.Seq >= maxTasks {
			continue // not one of ours
		}
		inputs[t.TaskID] = in
		list = append(list, api.Settlement{TaskID: t.TaskID, Epoch: t.Epoch, Verdict: "complete", Result: result})
		dues = append(dues, in.Due)
	}
	m.Taken(dues)
	for len(list) > 0 && ctx.Err() == nil {
		began := m.Since()
		verdicts, err := call(ctx, func(ctx context.Context) ([]api.SettleVerdict, error) {
			return w.node().Settle(ctx, w.id, list)
		})
		now := m.Since()
		if err != nil {
			m.failed.Add(1)
			w.at.Add(1)
			pause(ctx, retryPause)
			continue
		}
		var again []api.Settlement
		dues = dues[:0]
		for i, v := range verdicts {
			in := inputs[list[i].TaskID]
			switch {
			case v.Error == nil && m.First(in.Seq):
				dues = append(dues, in.Due)
				m.kill.completed(list[i].TaskID, began, now)
			case v.Error != nil && v.Error.Retry != api.RetryNo:
				again = append(again, list[i])
			}
		}
		m.completedAt(dues, now)
		if list = again; len(list) > 0 {
			m.failed.Add(1)
			pause(ctx, retryPause)
		}
	}
}
