package proc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

const (
	pollInterval  = 50 * time.Millisecond
	probeTimeout  = 3 * time.Second
	maxProbeBytes = 4 << 20 // of an answer: a few hundred bytes a node, shard or class
)

// probes share no connection with the work that is measured or disturbed.
var probes = &http.Client{
	Timeout:   probeTimeout,
	Transport: &http.Transport{DisableKeepAlives: true},
}

// get asks for a path and decodes the JSON answer into v unless v is nil.
func get(ctx context.Context, url string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	resp, err := probes.Do(req)
	if err != nil {
		return fmt.Errorf("proc: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBytes))
	if err != nil {
		return fmt.Errorf("proc: GET %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("proc: GET %s: %s: %.300s", url, resp.Status, body)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("proc: GET %s: %w", url, err)
	}
	return nil
}

func ready(ctx context.Context, url string) error { return get(ctx, url+"/readyz", nil) }

// View is the cluster as the node sees it.
func (n *Node) View(ctx context.Context) (api.Cluster, error) {
	var v api.Cluster
	err := get(ctx, n.URL()+"/v1/cluster", &v)
	return v, err
}

// AwaitFormed waits until every running node is ready, all name one cluster,
// and every shard has a leader that is running, as each of them sees it.
func (c *Cluster) AwaitFormed(ctx context.Context) error {
	var clusterID string
	for _, n := range c.nodes {
		if !n.Running() {
			if p := n.Process(); p != nil {
				return p.exited()
			}
			continue
		}
		err := n.await(ctx, "to see a formed cluster", func(ctx context.Context) error {
			if err := ready(ctx, n.URL()); err != nil {
				return err
			}
			v, err := n.View(ctx)
			if err != nil {
				return err
			}
			if clusterID == "" {
				clusterID = v.ClusterID
			}
			return c.formed(v, clusterID)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// formed says what is missing in one node's view.
func (c *Cluster) formed(v api.Cluster, clusterID string) error {
	switch {
	case v.ClusterID == "":
		return fmt.Errorf("proc: %s is %s: %s", v.NodeID, v.Phase, v.Waiting)
	case v.ClusterID != clusterID:
		return fmt.Errorf("proc: two clusters: %s is in %s, others in %s", v.NodeID, v.ClusterID, clusterID)
	case len(v.Shards) < 2:
		return fmt.Errorf("proc: %s sees %d shards: want the control shard and a task shard", v.NodeID, len(v.Shards))
	}
	for _, s := range v.Shards {
		if l := c.Node(s.Leader); s.Leader == "" || l != nil && !l.Running() {
			return fmt.Errorf("proc: %s sees no running leader of shard %d", v.NodeID, s.Shard)
		}
	}
	return nil
}

// Leaders gives the node that leads each shard: of all running nodes' views,
// the one with the highest term.
func (c *Cluster) Leaders(ctx context.Context) (map[uint32]string, error) {
	leaders := map[uint32]string{}
	terms := map[uint32]uint64{}
	var lastErr error
	for _, n := range c.nodes {
		if !n.Running() {
			continue
		}
		v, err := n.View(ctx)
		if err != nil {
			lastErr = err
			continue
		}
		for _, s := range v.Shards {
			if s.Leader != "" && s.Term >= terms[s.Shard] {
				leaders[s.Shard], terms[s.Shard] = s.Leader, s.Term
			}
		}
	}
	if len(leaders) == 0 {
		return nil, fmt.Errorf("proc: no node names a leader: %w", lastErr)
	}
	return leaders, nil
}

// complaints are what the running nodes' doctors find fault with, for the error
// about a node that did not get where it should.
func (c *Cluster) complaints() string {
	var b strings.Builder
	for _, n := range c.nodes {
		if !n.Running() {
			continue
		}
		var d api.Doctor
		if err := get(context.Background(), n.URL()+"/v1/doctor", &d); err != nil {
			fmt.Fprintf(&b, "\n%s's doctor: %v", n.ID, err)
			continue
		}
		for _, x := range d.Checks {
			if x.Status == "fail" || x.Status == "warn" {
				fmt.Fprintf(&b, "\n%s's doctor: %s %s: %s", n.ID, x.Name, x.Status, x.Detail)
			}
		}
	}
	return b.String()
}
