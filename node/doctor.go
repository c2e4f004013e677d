package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Doctor walks the layers and says which is broken and what to do.
func (n *core) Doctor(ctx context.Context) (api.Doctor, error) {
	c, err := n.Cluster(ctx)
	if err != nil {
		return api.Doctor{}, err
	}
	d := api.Doctor{Healthy: true, NodeID: n.id.NodeID}
	add := func(layer int, name, status, hint, format string, args ...any) {
		if status == "fail" {
			d.Healthy = false
		}
		if status == "ok" || status == "off" {
			hint = ""
		}
		d.Checks = append(d.Checks, api.DoctorCheck{Layer: layer, Name: name, Status: status, Detail: fmt.Sprintf(format, args...), Hint: hint})
	}
	n.checkExecution(&c, add)
	n.checkPeers(&c, add)
	checkDiscovery(&c, add)
	add(4, "handoff", "off", "", "handoff is not part of this version; checkpoints of running tasks are")
	checkCoordination(&c, add)
	checkReplicas(&c, add)
	n.checkPlacement(&c, add)
	checkDisks(&c, add)
	n.checkMemory(add)
	add(6, "verification", "off", "", "quality gates are not part of this version")
	if err := n.checkLedger(ctx, add); err != nil {
		return d, err
	}
	n.checkArchive(add)
	return d, nil
}

type addCheck func(layer int, name, status, hint, format string, args ...any)

// checkExecution: is somebody there to do what waits?
func (n *core) checkExecution(c *api.Cluster, add addCheck) {
	var orphans []string
	for _, q := range c.Queue {
		if q.Queued > 0 && q.Workers == 0 {
			orphans = append(orphans, fmt.Sprintf("%s (%d waiting)", q.Capability, q.Queued))
		}
	}
	if len(orphans) > 0 {
		add(1, "execution", "warn", "start an agent for it: quorate agent run --id A --can CAPABILITY -- COMMAND",
			"no healthy agent can do %s", strings.Join(orphans, ", "))
		return
	}
	add(1, "execution", "ok", "", "%d healthy agents; nothing waits for a missing one", c.Agents[api.AgentHealthy])
}

// checkPeers: do the nodes reach each other?
func (n *core) checkPeers(c *api.Cluster, add addCheck) {
	var gone []string
	for _, x := range c.Nodes {
		if x.State != "alive" {
			gone = append(gone, x.NodeID)
		}
	}
	switch {
	case len(gone) == 0:
		add(2, "peers", "ok", "", "all %d nodes reachable from %s", len(c.Nodes), n.id.NodeID)
	case len(gone)*2 < len(c.Nodes):
		add(2, "peers", "warn", "start it again with its own data directory; it catches up by itself", "not reachable: %s", strings.Join(gone, ", "))
	default:
		add(2, "peers", "fail", "a majority must be up: start the missing nodes with their own data directories", "not reachable: %s", strings.Join(gone, ", "))
	}
}

// checkDiscovery: are the agents well?
func checkDiscovery(c *api.Cluster, add addCheck) {
	total := 0
	for _, k := range c.Agents {
		total += k
	}
	sick := c.Agents[api.AgentUnresponsive] + c.Agents[api.AgentOffline]
	if sick > 0 {
		add(3, "agents", "warn", "quorate agent list shows them; deregister those that will not come back", "%d of %d agents unresponsive or offline", sick, total)
		return
	}
	add(3, "agents", "ok", "", "%d agents registered, none silent", total)
}

// checkCoordination: has every shard a leader and its replicas?
func checkCoordination(c *api.Cluster, add addCheck) {
	var headless, lagging []string
	for _, s := range c.Shards {
		if s.Leader == "" {
			headless = append(headless, shardName(s.Shard))
		}
		if len(s.Lagging) > 0 {
			lagging = append(lagging, fmt.Sprintf("%d (%s)", s.Shard, strings.Join(s.Lagging, ", ")))
		}
	}
	switch {
	case len(headless) > 0:
		add(5, "consensus", "fail", "a majority of each shard's replicas must be up and reach each other", "no leader: shard %s", strings.Join(headless, ", "))
	case len(lagging) > 0:
		add(5, "consensus", "warn", "a node that is down or slow catches up by itself; check its log if it stays", "replicas behind: shard %s", strings.Join(lagging, "; "))
	default:
		add(5, "consensus", "ok", "", "%d shards, each with a leader and all replicas", len(c.Shards))
	}
	if k := c.Tasks["failed"]; k > 0 {
		add(5, "dead letters", "warn", "quorate task list --state failed shows why; quorate task retry ID tries again", "%d tasks failed for good", k)
		return
	}
	add(5, "dead letters", "ok", "", "none")
}

// doctorLedgerTime bounds the doctor's reading; a verification of everything
// takes as long as it takes.
const doctorLedgerTime = 2 * time.Second

// checkLedger: does this node's audit trail verify?
func (n *core) checkLedger(ctx context.Context, add addCheck) error {
	limited, cancel := context.WithTimeout(ctx, doctorLedgerTime)
	defer cancel()
	v, err := n.VerifyLedger(limited)
	records := uint64(0)
	for _, h := range v.Heads {
		records += h.Size
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil && v.OK {
		add(7, "audit ledger", "ok", "", "the first %d records on %s verify; `quorate ledger verify` reads them all", records, n.id.NodeID)
		return nil
	}
	if err != nil {
		return err
	}
	if !v.OK {
		add(7, "audit ledger", "fail", "stop this node and keep its data; the other nodes hold equal copies",
			"shard %d record %d: %s", v.Bad[0].Shard, v.Bad[0].Seq, v.Bad[0].Reason)
		return nil
	}
	add(7, "audit ledger", "ok", "", "%d records on %s verify from the first to the last", records, n.id.NodeID)
	return nil
}
