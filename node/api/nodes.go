package api

import "time"

// ClusterNode is one node of the cluster, as the control shard has it.
type ClusterNode struct {
	NodeID    string    `json:"node_id"`
	RaftID    string    `json:"raft_id,omitempty" doc:"Hex; empty while it has not come"`
	State     string    `json:"state" enum:"admitted,joining,member,draining,removing,removed"`
	Since     time.Time `json:"since,omitzero" doc:"When it came to that state"`
	Reachable bool      `json:"reachable"`
	PeerAddr  string    `json:"peer_addr"`
	APIAddr   string    `json:"api_addr"`
	Shards    []uint32  `json:"shards" doc:"Where it is to be a voter"`
	Leads     int       `json:"should_lead" doc:"Shards it should lead"`
	Hosts     int       `json:"holds_replicas" doc:"Shards of tasks it is a member of now, as their leaders know; -1: not known"`
}

// NodeList is what GET /v1/nodes answers.
type NodeList struct {
	Nodes []ClusterNode `json:"nodes"`
}

// AddNode admits a node.
type AddNode struct {
	NodeID   string `json:"node_id"`
	PeerAddr string `json:"peer_addr,omitempty" doc:"It must listen there; empty: anywhere"`
}

// JoinRequest is what a node that wants to be a member says of itself.
type JoinRequest struct {
	ClusterID  string `json:"cluster_id"`
	RaftID     string `json:"raft_id"`
	NodeID     string `json:"node_id"`
	PeerAddr   string `json:"peer_addr"`
	APIAddr    string `json:"api_addr"`
	GossipAddr string `json:"gossip_addr"`
	Version    string `json:"version,omitempty"`
}

// JoinMember is a node that the new one will talk to.
type JoinMember struct {
	RaftID   string `json:"raft_id"`
	NodeID   string `json:"node_id"`
	PeerAddr string `json:"peer_addr"`
}

// JoinAnswer lets a node in.
type JoinAnswer struct {
	Members []JoinMember `json:"members"`
}

// NodesHeader, in a request of any kind, asks the node that answers for the API
// addresses of the cluster's nodes, separated by commas, in its answer's header
// of the same name. A gateway passes on what a member says.
const NodesHeader = "X-Quorate-Nodes"
