package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node/api"
	qclient "github.com/quorate/quorate/node/client"
)

// IdleConfig says what [Idle] measures. Zero fields take the default given.
type IdleConfig struct {
	Binary   string        // the quorate executable; default: this one
	Preset   string        // of the nodes: "edge", or empty for none
	Shards   int           // task shards; default 4, 1 with a preset
	Agents   int           // connected over streams, spread over the nodes; default 0, at most 4096
	Settle   time.Duration // after forming, before anything counts; default 5 s
	Duration time.Duration // default 20 s
	JSON     bool
	Out      io.Writer
}

// IdleReport is what three nodes cost when nothing happens.
type IdleReport struct {
	TaskShards       int        `json:"task_shards"`
	Agents           int        `json:"agents"`
	Seconds          float64    `json:"duration_seconds"`
	Nodes            []IdleNode `json:"nodes"`
	GeneratorPercent float64    `json:"agents_core_percent"` // of all agents, which are in this process; 100: one core
}

// IdleNode is one of them.
type IdleNode struct {
	NodeID      string  `json:"node_id"`
	CorePercent float64 `json:"core_percent"` // 100: one core
	RSSMiB      float64 `json:"rss_mib"`
}

// Idle measures three node processes that have nothing to do.
func Idle(ctx context.Context, cfg IdleConfig) (IdleReport, error) {
	var args []string
	if cfg.Preset != "" {
		args = []string{"--preset", cfg.Preset}
		cfg.Shards = cmp.Or(cfg.Shards, 1)
	}
	cfg.Shards = cmp.Or(cfg.Shards, 4)
	cfg.Settle, cfg.Duration = cmp.Or(cfg.Settle, 5*time.Second), cmp.Or(cfg.Duration, 20*time.Second)
	if cfg.Duration > maxDuration || cfg.Settle > maxDuration {
		return IdleReport{}, fmt.Errorf("bench: duration %v, settle %v: want at most %v", cfg.Duration, cfg.Settle, maxDuration)
	}
	if cfg.Agents < 0 || cfg.Agents > maxAgents {
		return IdleReport{}, fmt.Errorf("bench: idle: agents %d: want 0 to %d", cfg.Agents, maxAgents)
	}
	c, err := proc.Start(ctx, proc.Config{Binary: cfg.Binary, Shards: cfg.Shards, Args: args})
	if err != nil {
		return IdleReport{}, fmt.Errorf("bench: %w", err)
	}
	defer c.Close()
	r := IdleReport{TaskShards: cfg.Shards, Agents: cfg.Agents}
	disconnect, err := idlers(ctx, c, cfg.Agents)
	if err != nil {
		return r, err
	}
	defer disconnect()
	if !pause(ctx, cfg.Settle) {
		return r, ctx.Err()
	}
	before, err := cpus(c)
	if err != nil {
		return r, err
	}
	start, self := time.Now(), selfCPU()
	if !pause(ctx, cfg.Duration) {
		return r, ctx.Err()
	}
	self = selfCPU() - self
	after, err := cpus(c)
	if err != nil {
		return r, err
	}
	r.Seconds = time.Since(start).Seconds()
	r.GeneratorPercent = 100 * self.Seconds() / r.Seconds
	for i, n := range c.Nodes() {
		rss, err := n.Process().RSS()
		if err != nil {
			return r, fmt.Errorf("bench: %w", err)
		}
		r.Nodes = append(r.Nodes, IdleNode{n.ID, 100 * (after[i] - before[i]).Seconds() / r.Seconds, float64(rss) / (1 << 20)})
	}
	return r, r.print(cfg)
}

// idlers connects agents that find nothing to do, each over a connection of its
// own, and waits until all are there.
func idlers(ctx context.Context, c *proc.Cluster, n int) (disconnect func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	disconnect = func() {
		cancel()
		running.Wait()
	}
	urls := c.URLs()
	for i := range n {
		k := i % len(urls)
		q, err := qclient.New(qclient.Config{URLs: append(urls[k:len(urls):len(urls)], urls[:k]...)})
		if err != nil {
			disconnect()
			return nil, fmt.Errorf("bench: %w", err)
		}
		running.Go(func() {
			defer q.Close()
			_ = q.Work(ctx, api.Manifest{AgentID: fmt.Sprintf("idle-%d", i+1), Capabilities: []api.Capability{{Action: "bench", Target: "task"}}},
				func(context.Context, *qclient.Task) (any, error) { return nil, nil })
		})
	}
	for connected := 0; connected < n; {
		if !pause(ctx, 10*retryPause) {
			disconnect()
			return nil, fmt.Errorf("bench: %w", ctx.Err())
		}
		connected = 0
		for _, u := range urls {
			m, err := scrape(ctx, http.DefaultClient, u, "quorate_l3_agent_sessions")
			if err != nil {
				disconnect()
				return nil, err
			}
			connected += int(m.GetGauge().GetValue())
		}
	}
	return disconnect, nil
}

func cpus(c *proc.Cluster) ([]time.Duration, error) {
	var out []time.Duration
	for _, n := range c.Nodes() {
		d, err := n.Process().CPU()
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}

func (r IdleReport) print(cfg IdleConfig) error {
	if cfg.Out == nil {
		return nil
	}
	if cfg.JSON {
		return json.NewEncoder(cfg.Out).Encode(r)
	}
	fmt.Fprintf(cfg.Out, "three idle nodes, %d task shards and the control shard, %.0f s\n", r.TaskShards, r.Seconds)
	if r.Agents > 0 {
		fmt.Fprintf(cfg.Out, "  %d agents connected; they themselves, in one process, %.2f %% of a core\n", r.Agents, r.GeneratorPercent)
	}
	for _, n := range r.Nodes {
		fmt.Fprintf(cfg.Out, "  %s  %.2f %% of a core, %.0f MiB resident\n", n.NodeID, n.CorePercent, n.RSSMiB)
	}
	return nil
}
