package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/quorate/quorate/chaos/proc"
)

// IdleConfig says what [Idle] measures. Zero fields take the default given.
type IdleConfig struct {
	Binary   string        // the quorate executable; default: this one
	Shards   int           // task shards; default 4
	Settle   time.Duration // after forming, before anything counts; default 5 s
	Duration time.Duration // default 20 s
	JSON     bool
	Out      io.Writer
}

// IdleReport is what three nodes cost when nothing happens.
type IdleReport struct {
	TaskShards int        `json:"task_shards"`
	Seconds    float64    `json:"duration_seconds"`
	Nodes      []IdleNode `json:"nodes"`
}

// IdleNode is one of them.
type IdleNode struct {
	NodeID      string  `json:"node_id"`
	CorePercent float64 `json:"core_percent"` // 100: one core
	RSSMiB      float64 `json:"rss_mib"`
}

// Idle measures three node processes that have nothing to do.
func Idle(ctx context.Context, cfg IdleConfig) (IdleReport, error) {
	cfg.Shards = cmp.Or(cfg.Shards, 4)
	cfg.Settle, cfg.Duration = cmp.Or(cfg.Settle, 5*time.Second), cmp.Or(cfg.Duration, 20*time.Second)
	if cfg.Duration > maxDuration || cfg.Settle > maxDuration {
		return IdleReport{}, fmt.Errorf("bench: duration %v, settle %v: want at most %v", cfg.Duration, cfg.Settle, maxDuration)
	}
	c, err := proc.Start(ctx, proc.Config{Binary: cfg.Binary, Args: []string{"--shards", strconv.Itoa(cfg.Shards)}})
	if err != nil {
		return IdleReport{}, fmt.Errorf("bench: %w", err)
	}
	defer c.Close()
	r := IdleReport{TaskShards: cfg.Shards}
	if !pause(ctx, cfg.Settle) {
		return r, ctx.Err()
	}
	before, err := cpus(c)
	if err != nil {
		return r, err
	}
	start := time.Now()
	if !pause(ctx, cfg.Duration) {
		return r, ctx.Err()
	}
	after, err := cpus(c)
	if err != nil {
		return r, err
	}
	r.Seconds = time.Since(start).Seconds()
	for i, n := range c.Nodes() {
		rss, err := n.Process().RSS()
		if err != nil {
			return r, fmt.Errorf("bench: %w", err)
		}
		r.Nodes = append(r.Nodes, IdleNode{n.ID, 100 * (after[i] - before[i]).Seconds() / r.Seconds, float64(rss) / (1 << 20)})
	}
	return r, r.print(cfg)
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
	for _, n := range r.Nodes {
		fmt.Fprintf(cfg.Out, "  %s  %.2f %% of a core, %.0f MiB resident\n", n.NodeID, n.CorePercent, n.RSSMiB)
	}
	return nil
}
