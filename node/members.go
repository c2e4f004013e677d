package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// The operations on the cluster's nodes. They change who is a member; the
// administrator moves the replicas.

// nodesRequest is an operation on nodes, run on the control shard's leader,
// which alone knows how the learners stand.
type nodesRequest struct {
	Verb     string          `json:"verb"` // list, add, promote, drain, remove, join
	NodeID   string          `json:"node_id,omitempty"`
	PeerAddr string          `json:"peer_addr,omitempty"`
	By       string          `json:"by,omitempty"`
	Join     api.JoinRequest `json:"join"`
}

type nodesAnswer struct {
	Nodes  []api.ClusterNode `json:"nodes,omitempty"`
	Joined api.JoinAnswer    `json:"joined"`
}

func (n *core) onNodes(ctx context.Context, q nodesRequest) (nodesAnswer, error) {
	return onLeader(ctx, n, controlShard, methodNodes, q, n.nodesHere)
}

// Nodes lists the cluster's nodes: members, admitted ones that have not come,
// and removed ones.
func (n *core) Nodes(ctx context.Context) (api.NodeList, error) {
	a, err := n.onNodes(ctx, nodesRequest{Verb: "list"})
	return api.NodeList{Nodes: a.Nodes}, err
}

// AddNode admits a node that is to be started.
func (n *core) AddNode(ctx context.Context, nodeID, peerAddr, by string) (api.ClusterNode, error) {
	if len(nodeID) > maxNodeIDBytes || !nodeIDPattern.MatchString(nodeID) {
		return api.ClusterNode{}, api.Errorf(422, 5, "invalid_node_id", api.RetryNo, "node ID %q: want up to %d letters, digits, '.', '_' or '-'", nodeID, maxNodeIDBytes)
	}
	return n.changeNode(ctx, nodesRequest{Verb: "add", NodeID: nodeID, PeerAddr: peerAddr, By: by})
}

// PromoteNode makes a joining node a full member at once, or ends a drain.
func (n *core) PromoteNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error) {
	return n.changeNode(ctx, nodesRequest{Verb: "promote", NodeID: nodeID, By: by})
}

// DrainNode has a node's replicas and leaders move away.
func (n *core) DrainNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error) {
	return n.changeNode(ctx, nodesRequest{Verb: "drain", NodeID: nodeID, By: by})
}

// RemoveNode has a node leave for good; one that was only admitted is not any
// more.
func (n *core) RemoveNode(ctx context.Context, nodeID, by string) (api.ClusterNode, error) {
	return n.changeNode(ctx, nodesRequest{Verb: "remove", NodeID: nodeID, By: by})
}

func (n *core) changeNode(ctx context.Context, q nodesRequest) (api.ClusterNode, error) {
	a, err := n.onNodes(ctx, q)
	if err != nil || len(a.Nodes) == 0 {
		return api.ClusterNode{}, err
	}
	return a.Nodes[0], nil
}

// Join is asked by a node that wants to be a member; see join.go.
func (n *core) Join(ctx context.Context, j api.JoinRequest) (api.JoinAnswer, error) {
	a, err := n.onNodes(ctx, nodesRequest{Verb: "join", Join: j})
	return a.Joined, err
}

// nodesHere runs an operation on the control shard's leader.
func (n *core) nodesHere(ctx context.Context, q nodesRequest) (nodesAnswer, error) {
	if e := checkNames("by, or a node's ID", q.By, q.NodeID, q.Join.NodeID); e != nil {
		return nodesAnswer{}, e
	}
	if _, err := n.store.ReadIndex(ctx, controlShard); err != nil {
		return nodesAnswer{}, err
	}
	var cmd ledger.Command
	switch q.Verb {
	case "list":
		return nodesAnswer{Nodes: n.listNodes("")}, nil
	case "join":
		return n.joinHere(ctx, q.Join)
	case "add":
		cmd = &ledger.NodeAdmit{NodeID: q.NodeID, PeerAddr: q.PeerAddr, By: q.By}
	default:
		var err error
		if cmd, err = n.stateCommand(q); err != nil {
			return nodesAnswer{}, err
		}
	}
	if err := n.decideNode(ctx, cmd); err != nil {
		return nodesAnswer{}, err
	}
	return nodesAnswer{Nodes: n.listNodes(q.NodeID)}, nil
}

// decideNode has a command about nodes decided; a refusal is an error.
func (n *core) decideNode(ctx context.Context, cmd ledger.Command) error {
	a := n.doHere(ctx, controlShard, []ledger.Command{cmd})[0]
	if a.err != nil {
		return a.err
	}
	if a.outcome.Code == ledger.OK {
		return nil
	}
	status, hint := 409, ""
	switch a.outcome.Code {
	case ledger.NotFound:
		status = 404
	case ledger.Invalid:
		status = 422
	case ledger.NotAdmitted:
		status = 403
	case ledger.MembersBusy:
		hint = "`quorate node list` shows it; wait until it is through, or take it back: quorate node promote ID"
	case ledger.LastMembers:
		hint = "quorate node add --node-id ID, then start that node with --join"
	}
	return api.Errorf(status, 5, a.outcome.Code.String(), api.RetryNo, "%s", a.outcome.Detail).WithHint("%s", hint)
}

// stateCommand finds the member that is meant, and what is to become of it.
func (n *core) stateCommand(q nodesRequest) (ledger.Command, error) {
	var m ledger.Member
	invited, retired := false, false
	n.control.view(func(c *ledger.Control) {
		for _, x := range c.Members() {
			if x.NodeID == q.NodeID {
				m = x
			}
		}
		invited = slices.ContainsFunc(c.Invites(), func(v ledger.Invite) bool { return v.NodeID == q.NodeID })
		retired = slices.ContainsFunc(c.Retired(), func(v ledger.RemovedNode) bool { return v.NodeID == q.NodeID })
	})
	switch {
	case m.RaftID == 0 && invited && q.Verb == "remove":
		return &ledger.NodeUninvite{NodeID: q.NodeID, By: q.By}, nil
	case m.RaftID == 0 && invited:
		return nil, api.Errorf(409, 5, "bad_state", api.RetryNo, "node %s is admitted and has not come yet", q.NodeID).WithHint("start it with --join ADDRESS of a member")
	case m.RaftID == 0 && retired:
		return nil, api.Errorf(409, 5, "node_removed", api.RetryNo, "node %s was removed from the cluster and never returns", q.NodeID)
	case m.RaftID == 0:
		return nil, api.Errorf(404, 5, "not_found", api.RetryNo, "there is no node %q in this cluster", q.NodeID).WithHint("quorate node list")
	}
	to := map[string]ledger.MemberState{"promote": ledger.MemberActive, "drain": ledger.MemberDraining, "remove": ledger.MemberRemoving}[q.Verb]
	if to == ledger.MemberActive && m.State == ledger.MemberJoining {
		if v, err := n.shardHere(context.Background(), controlShard); err != nil {
			return nil, err
		} else if !slices.Contains(v.Learners, m.RaftID) || !slices.Contains(v.Well, m.RaftID) {
			return nil, api.Errorf(409, 5, "not_caught_up", api.RetryLater, "node %s has not caught up with the control shard", q.NodeID).
				WithHint("it is promoted by itself once it has kept up for %v", healthyFor)
		}
	}
	return &ledger.NodeState{RaftID: m.RaftID, State: to, By: q.By}, nil
}

// joinHere enters an admitted node and tells it whom it will talk to.
func (n *core) joinHere(ctx context.Context, j api.JoinRequest) (nodesAnswer, error) {
	raftID, err := strconv.ParseUint(j.RaftID, 16, 64)
	if err != nil || j.ClusterID != hex.EncodeToString(n.id.ClusterID[:]) {
		return nodesAnswer{}, api.Errorf(422, 5, "invalid_join", api.RetryNo, "a node joins with its raft ID and the ID of this cluster, %x", n.id.ClusterID)
	}
	err = n.decideNode(ctx, &ledger.NodeJoin{RaftID: raftID, NodeID: j.NodeID, PeerAddr: j.PeerAddr, APIAddr: j.APIAddr, GossipAddr: j.GossipAddr, Version: j.Version})
	if err != nil {
		return nodesAnswer{}, err
	}
	var a nodesAnswer
	for _, x := range n.nodes() {
		a.Joined.Members = append(a.Joined.Members, api.JoinMember{RaftID: fmt.Sprintf("%016x", x.RaftID), NodeID: x.NodeID, PeerAddr: x.PeerAddr})
	}
	return a, nil
}

// listNodes renders the nodes; of one ID only, if it is given.
func (n *core) listNodes(nodeID string) []api.ClusterNode {
	out := []api.ClusterNode{}
	n.control.view(func(c *ledger.Control) {
		addrs := map[uint64]ledger.Node{}
		for _, x := range c.Nodes() {
			addrs[x.RaftID] = x
		}
		for _, m := range c.Members() {
			x := addrs[m.RaftID]
			cn := api.ClusterNode{NodeID: m.NodeID, RaftID: fmt.Sprintf("%016x", m.RaftID), State: m.State.String(), Since: timeOf(m.SinceMillis),
				PeerAddr: x.PeerAddr, APIAddr: x.APIAddr, Reachable: m.RaftID == n.id.RaftID || n.peers.Up(m.RaftID), Shards: []uint32{}, Hosts: -1}
			if h := n.hosts.Load(); h != nil {
				cn.Hosts = (*h)[m.RaftID]
			}
			for _, p := range c.Placements() {
				if slices.Contains(p.Voters, m.RaftID) {
					cn.Shards = append(cn.Shards, p.Shard)
				}
				if p.Voters[0] == m.RaftID {
					cn.Leads++
				}
			}
			out = append(out, cn)
		}
		for _, v := range c.Invites() {
			out = append(out, api.ClusterNode{NodeID: v.NodeID, State: "admitted", PeerAddr: v.PeerAddr, Since: timeOf(v.SinceMillis), Shards: []uint32{}})
		}
		for _, v := range c.Retired() {
			out = append(out, api.ClusterNode{NodeID: v.NodeID, RaftID: fmt.Sprintf("%016x", v.RaftID), State: "removed", Shards: []uint32{}})
		}
	})
	slices.SortStableFunc(out, func(a, b api.ClusterNode) int {
		return cmp.Or(cmp.Compare(listOrder(a.State), listOrder(b.State)), strings.Compare(a.NodeID, b.NodeID))
	})
	if nodeID != "" {
		out = slices.DeleteFunc(out, func(x api.ClusterNode) bool { return x.NodeID != nodeID })
	}
	return out
}

// joinPause is how long a node that is not admitted waits before it asks again.
const joinPause = time.Second

// listOrder puts members before those that are to come, and those that left
// last.
func listOrder(state string) int {
	switch state {
	case "admitted":
		return 1
	case "removed":
		return 2
	}
	return 0
}
