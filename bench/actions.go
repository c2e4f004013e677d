package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node/api"
	qclient "github.com/quorate/quorate/node/client"
)

// ActionsConfig says what [Actions] measures. Zero fields take the default
// given.
type ActionsConfig struct {
	// Binary is the quorate executable the nodes run; default: this one.
	Binary string
	// Duration is how long is measured; default 10 s. WarmUp comes before;
	// default 2 s.
	Duration, WarmUp time.Duration
	// Rate is how many actions a second are declared, open loop; 0: as many as
	// the cluster confirms.
	Rate int
	// Batch is how many actions one request carries at most; default 128.
	Batch int
	// Agents is how many agents declare at once, each with one request under way; default two a node at a rate, as
	// for lifecycles, and four a node without.
	Agents  int
	Profile string // directory for the nodes' CPU profiles; empty: none
	JSON    bool
	Out     io.Writer
}

// ActionsReport is what was measured: an action is an exactly_once intent
// declared, answered with go (its lease is in the log, fsynced on a quorum)
// and confirmed (likewise), auto-approved by a rule.
type ActionsReport struct {
	Rate                int       `json:"rate_per_second"`
	Batch               int       `json:"batch"`
	Agents              int       `json:"agents"`
	Seconds             float64   `json:"duration_seconds"`
	Confirmed           int64     `json:"confirmed"`
	PerSecond           float64   `json:"actions_per_second"`
	Go                  Quantiles `json:"due_to_go"`
	Latency             Quantiles `json:"due_to_confirmed"`
	NodesCoreMicros     float64   `json:"nodes_core_us_per_action"`
	GeneratorCoreMicros float64   `json:"generator_core_us_per_action"`
	Cores               int       `json:"cores"`
	Refused             int64     `json:"refused_or_lost"`
}

func (c ActionsConfig) withDefaults() (ActionsConfig, error) {
	if c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	if c.WarmUp == 0 {
		c.WarmUp = 2 * time.Second
	}
	if c.Batch == 0 {
		c.Batch = 128
	}
	if c.Agents == 0 {
		c.Agents = 6
		if c.Rate == 0 {
			c.Agents = 12
		}
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	if c.Batch < 1 || c.Batch > api.MaxBatch || c.Agents < 1 || c.Agents > 1024 || c.Rate < 0 || c.Rate > maxRate || c.Duration < 0 || c.Duration > maxDuration {
		return c, errors.New("bench: actions: batch 1 to 1024, agents 1 to 1024, rate up to a million, duration up to an hour")
	}
	return c, nil
}

// Actions measures exactly_once actions on three node processes.
func Actions(ctx context.Context, cfg ActionsConfig) (ActionsReport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return ActionsReport{}, err
	}
	args := []string{"--auto-approve", "bench:action"}
	if cfg.Profile != "" {
		args = append(args, "--profile", cfg.Profile)
	}
	cluster, err := proc.Start(ctx, proc.Config{Binary: cfg.Binary, Shards: -1, Args: args})
	if err != nil {
		return ActionsReport{}, err
	}
	defer cluster.Close()
	m := &actions{cfg: cfg, began: time.Now(), cluster: cluster}
	m.from.Store(int64(maxDuration) * 4) // nothing counts before the warm-up is over
	rep, err := m.run(ctx)
	if err == nil && cfg.Profile != "" {
		err = endProfiles(ctx, cluster)
	}
	if err != nil {
		return rep, err
	}
	if cfg.JSON {
		return rep, json.NewEncoder(cfg.Out).Encode(rep)
	}
	rep.print(cfg.Out)
	return rep, nil
}

// actions is one run: what its agents share.
type actions struct {
	cfg       ActionsConfig
	began     time.Time
	cluster   *proc.Cluster
	next      atomic.Int64 // number of the next action
	confirmed atomic.Int64
	refused   atomic.Int64
	goLag     latencies
	endLag    latencies
	from, to  atomic.Int64
}

func (m *actions) since() time.Duration { return time.Since(m.began) }

func (m *actions) run(ctx context.Context) (ActionsReport, error) {
	work, stop := context.WithCancel(ctx)
	defer stop()
	var agents sync.WaitGroup
	urls := m.cluster.URLs()
	for i := range m.cfg.Agents {
		c, err := qclient.New(qclient.Config{URLs: append(urls[i%len(urls):len(urls):len(urls)], urls[:i%len(urls)]...), Patience: callTimeout})
		if err != nil {
			return ActionsReport{}, err
		}
		defer c.Close()
		agents.Go(func() { m.agent(work, c, fmt.Sprint("bench-", i+1)) })
	}
	before, after, err := m.measure(ctx)
	stop()
	agents.Wait()
	if err != nil {
		return ActionsReport{}, err
	}
	n, seconds := after.completed-before.completed, (after.at - before.at).Seconds()
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(n, 1)) }
	return ActionsReport{Rate: m.cfg.Rate, Batch: m.cfg.Batch, Agents: m.cfg.Agents, Seconds: seconds, Confirmed: n, PerSecond: float64(n) / seconds,
		Go: m.goLag.quantiles(), Latency: m.endLag.quantiles(), NodesCoreMicros: each(after.nodes - before.nodes),
		GeneratorCoreMicros: each(after.self - before.self), Cores: runtime.NumCPU(), Refused: m.refused.Load()}, nil
}

func (m *actions) measure(ctx context.Context) (before, after mark, err error) {
	look := func() (k mark, err error) {
		k = mark{at: m.since(), completed: m.confirmed.Load(), self: selfCPU()}
		for _, n := range m.cluster.Nodes() {
			cpu, err := n.Process().CPU()
			if err != nil {
				return k, err
			}
			k.nodes += cpu
		}
		return k, nil
	}
	if !pause(ctx, m.cfg.WarmUp) {
		return before, after, fmt.Errorf("bench: %w", ctx.Err())
	}
	if before, err = look(); err != nil {
		return before, after, err
	}
	m.from.Store(int64(before.at))
	if !pause(ctx, m.cfg.Duration) {
		return before, after, fmt.Errorf("bench: %w", ctx.Err())
	}
	after, err = look()
	m.to.Store(int64(after.at))
	return before, after, err
}

// take gives an agent its next actions, each with the time it was due; at a
// rate it waits until one is.
func (m *actions) take(ctx context.Context) (first int64, dues []time.Duration) {
	if m.cfg.Rate == 0 {
		dues = make([]time.Duration, m.cfg.Batch)
		now := m.since()
		for i := range dues {
			dues[i] = now
		}
		return m.next.Add(int64(len(dues))) - int64(len(dues)), dues
	}
	due := func(seq int64) time.Duration { return time.Duration(seq * int64(time.Second) / int64(m.cfg.Rate)) }
	for {
		next, now := m.next.Load(), m.since()
		ready := int64(now.Seconds()*float64(m.cfg.Rate)) - next + 1
		if ready <= 0 {
			if !pause(ctx, due(next)-now) {
				return 0, nil
			}
			continue
		}
		n := min(ready, int64(m.cfg.Batch))
		if !m.next.CompareAndSwap(next, next+n) {
			continue
		}
		for i := range n {
			dues = append(dues, due(next+i))
		}
		return next, dues
	}
}

// agent declares, has no effect, and confirms.
func (m *actions) agent(ctx context.Context, c *qclient.Client, id string) {
	for ctx.Err() == nil {
		first, dues := m.take(ctx)
		if len(dues) == 0 {
			return
		}
		list := make([]api.ActionRequest, len(dues))
		for i := range list {
			list[i] = api.ActionRequest{AgentID: id, TaskSpec: api.TaskSpec{Action: "bench", Target: "action", Guarantee: "exactly_once",
				IdempotencyKey: fmt.Sprint("action-", first+int64(i)), Verify: json.RawMessage(`{"action":"check"}`), Input: json.RawMessage(`{"fill":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`)}}
		}
		verdicts, err := c.DeclareBatch(ctx, list)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if m.refused.Add(int64(len(list))); !pause(ctx, retryPause) {
				return
			}
			continue
		}
		m.goLag.record(m.since(), m.from.Load(), m.to.Load(), dues)
		settle := make([]api.Settlement, 0, len(verdicts))
		for _, v := range verdicts {
			if v.Decision == api.DecisionGo {
				settle = append(settle, api.Settlement{TaskID: v.TaskID, Epoch: v.Epoch, Verdict: "complete", Result: result})
			} else {
				m.refused.Add(1)
			}
		}
		done, err := c.Settle(context.WithoutCancel(ctx), id, settle) // what has its go is confirmed
		for _, v := range done {
			if v.Error == nil {
				m.confirmed.Add(1)
			} else {
				m.refused.Add(1)
			}
		}
		if err == nil {
			m.endLag.record(m.since(), m.from.Load(), m.to.Load(), dues[:len(done)])
		}
	}
}

func (r ActionsReport) print(out io.Writer) {
	load := "as fast as they are confirmed"
	if r.Rate > 0 {
		load = fmt.Sprintf("open loop, %d/s", r.Rate)
	}
	fmt.Fprintf(out, "three nodes, exactly_once: intent with its lease, and confirmation, each fsynced on a quorum; %d agents, batches of up to %d, %s; %d cores\n", r.Agents, r.Batch, load, r.Cores)
	fmt.Fprintf(out, "  actions               %.0f /s (%d in %.1f s)\n", r.PerSecond, r.Confirmed, r.Seconds)
	for _, l := range []struct {
		name string
		q    Quantiles
	}{{"go", r.Go}, {"confirmed", r.Latency}} {
		fmt.Fprintf(out, "  %-21s p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f ms after it was due\n", l.name, l.q.P50Millis, l.q.P99Millis, l.q.P999Millis, l.q.MaxMillis)
	}
	fmt.Fprintf(out, "  CPU per action        nodes %.1f core-µs, generator %.1f core-µs\n", r.NodesCoreMicros, r.GeneratorCoreMicros)
	if r.Refused > 0 {
		fmt.Fprintf(out, "  refused or lost       %d\n", r.Refused)
	}
}
