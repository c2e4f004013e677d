package node

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/web"
)

var _ web.Backend = (*Node)(nil)

// The operations every face renders. Each says "not formed" until the node is
// a member.

// on runs an operation of the core.
func on[R any](n *Node, fn func(*core) (R, error)) (R, error) {
	c, err := n.member()
	if err != nil {
		var zero R
		return zero, err
	}
	return fn(c)
}

// Submit declares tasks; see the core's method of the same name, as for all below.
func (n *Node) Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error) {
	return on(n, func(c *core) ([]api.SubmitVerdict, error) { return c.Submit(ctx, specs, by) })
}

// Task reads one task, after waiting up to wait for it to end.
func (n *Node) Task(ctx context.Context, id string, wait time.Duration) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Task(ctx, id, wait) })
}

// Tasks lists tasks.
func (n *Node) Tasks(ctx context.Context, f api.TaskFilter) (api.TaskPage, error) {
	return on(n, func(c *core) (api.TaskPage, error) { return c.Tasks(ctx, f) })
}

// Why says where a task stands and what it waits for.
func (n *Node) Why(ctx context.Context, id string) (api.Why, error) {
	return on(n, func(c *core) (api.Why, error) { return c.Why(ctx, id) })
}

// Cancel ends a task that has not ended.
func (n *Node) Cancel(ctx context.Context, id, by, reason string) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Cancel(ctx, id, by, reason) })
}

// Erase takes the payload out of an ended task.
func (n *Node) Erase(ctx context.Context, id, by, reason string) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Erase(ctx, id, by, reason) })
}

// Retry makes an ended, not completed task ready again.
func (n *Node) Retry(ctx context.Context, id, by string) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Retry(ctx, id, by) })
}

// Declare takes intents of agents that perform them themselves.
func (n *Node) Declare(ctx context.Context, list []api.ActionRequest, by string) ([]api.ActionVerdict, error) {
	return on(n, func(c *core) ([]api.ActionVerdict, error) { return c.Declare(ctx, list, by) })
}

// Approve takes one person's consent.
func (n *Node) Approve(ctx context.Context, id string, j api.Judgement) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Approve(ctx, id, j) })
}

// Reject ends a task that waits for approval.
func (n *Node) Reject(ctx context.Context, id string, j api.Judgement) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Reject(ctx, id, j) })
}

// Resolve settles a task in doubt.
func (n *Node) Resolve(ctx context.Context, id string, r api.Resolution) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Resolve(ctx, id, r) })
}

// Rollback has a task's effect undone.
func (n *Node) Rollback(ctx context.Context, id, by, reason string) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Rollback(ctx, id, by, reason) })
}

// RollbackSession undoes a session, the last step first.
func (n *Node) RollbackSession(ctx context.Context, session string, r api.SessionRollback) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.RollbackSession(ctx, session, r) })
}

// Save keeps a checkpoint, or a snapshot, of a held task.
func (n *Node) Save(ctx context.Context, id string, s api.SaveRequest, snapshot bool) (api.Task, error) {
	return on(n, func(c *core) (api.Task, error) { return c.Save(ctx, id, s, snapshot) })
}

// Lease hands an agent work.
func (n *Node) Lease(ctx context.Context, req api.LeaseRequest) (api.Leases, error) {
	return on(n, func(c *core) (api.Leases, error) { return c.Lease(ctx, req) })
}

// Start marks a held task running.
func (n *Node) Start(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return on(n, func(c *core) (api.Renewal, error) { return c.Start(ctx, id, cl) })
}

// Renew prolongs a lease.
func (n *Node) Renew(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return on(n, func(c *core) (api.Renewal, error) { return c.Renew(ctx, id, cl) })
}

// Progress keeps what the holder reports.
func (n *Node) Progress(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return on(n, func(c *core) (api.Renewal, error) { return c.Progress(ctx, id, cl) })
}

// Settle ends held tasks.
func (n *Node) Settle(ctx context.Context, agentID string, list []api.Settlement) ([]api.SettleVerdict, error) {
	return on(n, func(c *core) ([]api.SettleVerdict, error) { return c.Settle(ctx, agentID, list) })
}

// Register enters an agent's manifest.
func (n *Node) Register(ctx context.Context, m api.Manifest) (api.Agent, error) {
	return on(n, func(c *core) (api.Agent, error) { return c.Register(ctx, m) })
}

// Heartbeat takes what an agent says of itself.
func (n *Node) Heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatAck, error) {
	return on(n, func(c *core) (api.HeartbeatAck, error) { return c.Heartbeat(ctx, id, h) })
}

// Agent reads one agent.
func (n *Node) Agent(ctx context.Context, id string) (api.Agent, error) {
	return on(n, func(c *core) (api.Agent, error) { return c.Agent(ctx, id) })
}

// Agents lists agents.
func (n *Node) Agents(ctx context.Context, f api.AgentFilter) (api.AgentPage, error) {
	return on(n, func(c *core) (api.AgentPage, error) { return c.Agents(ctx, f) })
}

// Deregister removes an agent.
func (n *Node) Deregister(ctx context.Context, id string) error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.Deregister(ctx, id)
}

// Session keeps an agent connected until ctx or the connection ends.
func (n *Node) Session(ctx context.Context, agentID string, held []api.Held, send func(api.SessionEvent) error) error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.Session(ctx, agentID, held, send)
}

// Audit lists records of this node's ledger.
func (n *Node) Audit(ctx context.Context, f api.AuditFilter) (api.RecordPage, error) {
	return on(n, func(c *core) (api.RecordPage, error) { return c.Audit(ctx, f) })
}

// ExportAudit streams records with their canonical bytes.
func (n *Node) ExportAudit(ctx context.Context, f api.AuditFilter, fn func(api.Record) error) error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.ExportAudit(ctx, f, fn)
}

// Export streams an audit export.
func (n *Node) Export(ctx context.Context, sizes map[uint32]uint64, w io.Writer) error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.Export(ctx, sizes, w)
}

// Checkpoint makes an audit checkpoint, signed by this node and its peers.
func (n *Node) Checkpoint(ctx context.Context) ([]byte, error) {
	return on(n, func(c *core) ([]byte, error) { return c.Checkpoint(ctx) })
}

// AuditKeys are the public keys that checkpoints are signed with.
func (n *Node) AuditKeys(ctx context.Context) (string, error) {
	return on(n, func(c *core) (string, error) { return c.AuditKeys(ctx) })
}

// Prove proves a record or, when seq is 0, that a shard's log extends what it
// was at size from; the answer is a proof of package ledger/proof.
func (n *Node) Prove(ctx context.Context, shard uint32, seq, from uint64) (any, error) {
	return on(n, func(c *core) (any, error) {
		if seq == 0 {
			return c.ProveConsistency(ctx, shard, from)
		}
		return c.ProveRecord(ctx, shard, seq)
	})
}

// LedgerHeads is where this node's chains end.
func (n *Node) LedgerHeads(ctx context.Context) ([]api.LedgerHead, error) {
	return on(n, func(c *core) ([]api.LedgerHead, error) { return c.LedgerHeads(ctx) })
}

// VerifyLedger re-reads this node's chains.
func (n *Node) VerifyLedger(ctx context.Context) (api.LedgerVerification, error) {
	return on(n, func(c *core) (api.LedgerVerification, error) { return c.VerifyLedger(ctx) })
}

// Cluster is the whole picture; while forming, what is waited for.
func (n *Node) Cluster(ctx context.Context) (api.Cluster, error) {
	if c := n.core.Load(); c != nil {
		return c.Cluster(ctx)
	}
	c := api.Cluster{Cluster: n.id.Cluster, NodeID: n.id.NodeID, Phase: "forming", Waiting: n.former.Waiting(), Version: Version(),
		Nodes: []api.NodeStatus{}, Shards: []api.ShardStatus{}, Queue: []api.QueueStatus{}, Tasks: map[string]int{}, Agents: map[string]int{}}
	for _, m := range n.members() {
		c.Nodes = append(c.Nodes, api.NodeStatus{NodeID: m.NodeID, APIAddr: m.Meta.APIAddr, PeerAddr: m.Meta.PeerAddr, GossipAddr: m.Addr, State: "alive", Version: m.Meta.Version})
	}
	return c, nil
}

// Doctor walks the layers.
func (n *Node) Doctor(ctx context.Context) (api.Doctor, error) {
	if c := n.core.Load(); c != nil {
		return c.Doctor(ctx)
	}
	_, err := n.member()
	e := asAPIError(err)
	return api.Doctor{NodeID: n.id.NodeID, Checks: []api.DoctorCheck{{Layer: e.Layer, Name: "forming", Status: "fail", Detail: e.Detail, Hint: e.Hint}}}, nil
}

// Nodes lists the cluster's nodes.
func (n *Node) Nodes(ctx context.Context) (api.NodeList, error) {
	return on(n, func(c *core) (api.NodeList, error) { return c.Nodes(ctx) })
}

// AddNode admits a node that is to be started.
func (n *Node) AddNode(ctx context.Context, nodeID, peerAddr, by string) (api.ClusterNode, error) {
	return on(n, func(c *core) (api.ClusterNode, error) { return c.AddNode(ctx, nodeID, peerAddr, by) })
}

// PromoteNode makes a joining node a full member, or ends a drain.
func (n *Node) PromoteNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error) {
	return on(n, func(c *core) (api.ClusterNode, error) { return c.PromoteNode(ctx, nodeID, by) })
}

// DrainNode has a node's replicas move away.
func (n *Node) DrainNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error) {
	return on(n, func(c *core) (api.ClusterNode, error) { return c.DrainNode(ctx, nodeID, by) })
}

// RemoveNode has a node leave for good.
func (n *Node) RemoveNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error) {
	return on(n, func(c *core) (api.ClusterNode, error) { return c.RemoveNode(ctx, nodeID, by) })
}

// Join lets an admitted node in.
func (n *Node) Join(ctx context.Context, j api.JoinRequest) (api.JoinAnswer, error) {
	return on(n, func(c *core) (api.JoinAnswer, error) { return c.Join(ctx, j) })
}

// Ready is nil when the node serves.
func (n *Node) Ready() error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.Ready()
}

// Metrics serves the Prometheus text format.
func (n *Node) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := n.member()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		c.Metrics().ServeHTTP(w, r)
	})
}
