package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
	qclient "github.com/quorate/quorate/node/client"
)

// How the nodes are spoken to.
const (
	ViaStream = "stream"
	ViaHTTP   = "http"
)

// streamCredit is how many tasks all agents have at a time, in batches at work
// and on their way; leastCredit is one agent's share at least.
const (
	streamCredit = 6144
	leastCredit  = 32
)

// dial gives the i-th client, which begins at node i.
func (m *measurement) dial(i int) (*qclient.Client, error) {
	var urls []string
	for k := range m.nodes {
		urls = append(urls, m.nodes[(i+k)%len(m.nodes)].Base)
	}
	return qclient.New(qclient.Config{URLs: urls, Actor: fmt.Sprint("bench-", i)})
}

// startStreamWorkers starts agents that use the Go client's stream, each with
// a connection of its own.
func (m *measurement) startStreamWorkers(work context.Context, workers *sync.WaitGroup) error {
	for i := range m.cfg.Agents {
		c, err := m.dial(i)
		if err != nil {
			return err
		}
		w := &streamWorker{m: m}
		w.mu.of = map[string]started{}
		action, target, _ := api.SplitCapability(capability)
		cfg := qclient.WorkConfig{Manifest: api.Manifest{AgentID: fmt.Sprintf("bench-%d", i+1), Capabilities: []api.Capability{{Action: action, Target: target}}},
			Batch: w.perform, Settled: w.settled, Credit: min(max(streamCredit/m.cfg.Agents, leastCredit), api.MaxBatch), Drain: time.Second}
		workers.Go(func() {
			defer c.Close()
			for work.Err() == nil {
				if err := c.WorkWith(work, cfg); err != nil {
					m.failed.Add(1)
					pause(work, retryPause)
				}
			}
		})
	}
	return nil
}

func (m *measurement) startStreamSubmitters(submit, work context.Context, submitters *sync.WaitGroup) error {
	for i := range m.nodes {
		if m.oneNode {
			i = 0
		}
		c, err := m.dial(i)
		if err != nil {
			return err
		}
		s := c.Submitter()
		var callers sync.WaitGroup
		for range submitterRate {
			callers.Go(func() { m.submitVia(submit, work, s) })
		}
		submitters.Go(func() {
			callers.Wait()
			s.Close()
			c.Close()
		})
	}
	return nil
}

// submitVia submits until ctx ends; what it has begun it ends within drain.
func (m *measurement) submitVia(ctx, drain context.Context, s *qclient.Submitter) {
	for {
		first, due, ok := m.Next(ctx)
		if !ok || first+int64(len(due)) > maxTasks {
			return
		}
		specs := make([]api.TaskSpec, len(due))
		for i := range specs {
			specs[i] = m.spec(first+int64(i), due[i])
		}
		verdicts, err := s.Submit(drain, specs)
		if err != nil {
			m.failed.Add(1)
			continue
		}
		acked := make([]time.Duration, 0, len(due))
		for i, v := range verdicts {
			if v.Error != nil {
				m.failed.Add(1)
				continue
			}
			m.acked.set(first + int64(i))
			m.placed(v.TaskID)
			acked = append(acked, due[i])
		}
		m.Submitted(acked)
	}
}

// streamWorker completes what its agent is given.
type streamWorker struct {
	m  *measurement
	mu struct {
		sync.Mutex
		of map[string]started // tasks without an acknowledgement
	}
}

type started struct {
	in input
	at time.Duration
}

func (w *streamWorker) perform(_ context.Context, tasks []qclient.Task) []api.Settlement {
	list := make([]api.Settlement, len(tasks))
	dues := make([]time.Duration, 0, len(tasks))
	now := w.m.Since()
	w.mu.Lock()
	for i := range tasks {
		t := &tasks[i]
		list[i] = api.Settlement{TaskID: t.TaskID, Epoch: t.Epoch, Verdict: "complete", Result: result}
		var in input
		if json.Unmarshal(t.Input, &in) == nil && in.Seq >= 0 && in.Seq < maxTasks {
			w.mu.of[t.TaskID] = started{in, now}
			dues = append(dues, in.Due)
		}
	}
	w.mu.Unlock()
	w.m.Taken(dues)
	return list
}

func (w *streamWorker) settled(list []api.Settlement) {
	now := w.m.Since()
	dues := make([]time.Duration, 0, len(list))
	w.mu.Lock()
	for i := range list {
		x, ok := w.mu.of[list[i].TaskID]
		delete(w.mu.of, list[i].TaskID)
		if ok && w.m.First(x.in.Seq) {
			dues = append(dues, x.in.Due)
			w.m.kill.completed(list[i].TaskID, x.at, now)
		}
	}
	w.mu.Unlock()
	w.m.completedAt(dues, now)
}
