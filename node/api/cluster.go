package api

import (
	"encoding/json"
	"time"
)

// Cluster is what GET /v1/cluster and `quorate status` show.
type Cluster struct {
	Cluster   string         `json:"cluster"`
	ClusterID string         `json:"cluster_id"`
	NodeID    string         `json:"node_id" doc:"Who answered"`
	Phase     string         `json:"phase" enum:"forming,member,gateway"`
	Waiting   string         `json:"waiting,omitempty" doc:"forming: for what"`
	Version   string         `json:"version"`
	Nodes     []NodeStatus   `json:"nodes"`
	Shards    []ShardStatus  `json:"shards"`
	Queue     []QueueStatus  `json:"queue"`
	Tasks     map[string]int `json:"tasks_by_state"`
	Agents    map[string]int `json:"agents_by_state"`
	Steals    Steals         `json:"steals" doc:"Tasks that idle agents took from others, since the nodes started"`
}

// Steals counts tasks that agents stole.
type Steals struct {
	Nodes  []NodeSteals  `json:"nodes,omitempty" doc:"By the nodes of the victim and the thief"`
	Agents []AgentSteals `json:"agents,omitempty" doc:"The agents with most"`
}

// NodeSteals counts tasks that went from agents of one node to agents of another, or the same.
type NodeSteals struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Tasks uint64 `json:"tasks"`
}

// AgentSteals counts the tasks an agent stole, and those stolen from it.
type AgentSteals struct {
	AgentID    string `json:"agent_id"`
	Stole      uint64 `json:"stole"`
	StolenFrom uint64 `json:"stolen_from"`
}

// NodeStatus is one peer.
type NodeStatus struct {
	NodeID     string      `json:"node_id"`
	RaftID     string      `json:"raft_id"`
	APIAddr    string      `json:"api_addr"`
	PeerAddr   string      `json:"peer_addr"`
	GossipAddr string      `json:"gossip_addr"`
	State      string      `json:"state" enum:"alive,unreachable,left"`
	Role       string      `json:"role" enum:"member,gateway,joining,draining,removing"`
	Leads      int         `json:"leads_shards"`
	Agents     int         `json:"connected_agents"`
	Version    string      `json:"version,omitempty"`
	Disk       *DiskStatus `json:"disk,omitempty"`
}

// DiskStatus is how the disk under a node's data directory does.
type DiskStatus struct {
	FreeBytes    int64 `json:"free_bytes" doc:"-1: the file system does not say"`
	ReserveBytes int64 `json:"reserve_bytes" doc:"With less free, new tasks are refused"`
	UsedBytes    int64 `json:"used_bytes,omitempty" doc:"In the data directory; only with a budget"`
	BudgetBytes  int64 `json:"budget_bytes,omitempty" doc:"With seven eighths of it used, new tasks are refused"`
	Low          bool  `json:"low" doc:"New tasks are being refused"`
	Stalled      bool  `json:"stalled" doc:"A log write takes too long, or did within the last ten seconds: leaderships are handed over"`

	Parts DiskParts `json:"parts" doc:"Bytes of files, as of the last five seconds"`
}

// DiskParts is what the parts of a node's data take on disk, in bytes.
type DiskParts struct {
	Log     int64 `json:"log" doc:"The replicated log, as far as it is not in state checkpoints"`
	State   int64 `json:"state" doc:"State checkpoints"`
	Journal int64 `json:"journal" doc:"Audit records; they leave it when their fleets' record retention is over"`
	Hashes  int64 `json:"hashes" doc:"Of audit records, 64 bytes each: they stay, so that any old checkpoint can be proved"`
	Index   int64 `json:"index" doc:"Of audit records in the journal"`
	Archive int64 `json:"archive" doc:"Audit records that left the journal, wherever the archive directory is"`
	Other   int64 `json:"other" doc:"Identity, and what was put away"`
	Total   int64 `json:"total"`
}

// ShardStatus is one raft group, as its leader sees it (or the answering node).
type ShardStatus struct {
	Shard        uint32   `json:"shard"`
	Kind         string   `json:"kind" enum:"control,tasks"`
	Leader       string   `json:"leader" doc:"Node ID; empty when none is known"`
	Term         uint64   `json:"term"`
	Commit       uint64   `json:"commit_index"`
	Applied      uint64   `json:"applied_index"`
	Checkpoint   uint64   `json:"checkpoint_index"`
	LogEntries   uint64   `json:"log_entries"`
	Voters       []string `json:"voters"`
	Learners     []string `json:"learners,omitempty"`
	Placed       []string `json:"placed" doc:"Where its voters belong; the first should lead"`
	Epoch        uint64   `json:"placement_epoch"`
	Moving       bool     `json:"moving" doc:"Its voters are not where they belong yet"`
	Lagging      []string `json:"lagging,omitempty"`
	LedgerSize   uint64   `json:"ledger_records"`
	LedgerHead   string   `json:"ledger_head" doc:"Hex SHA-256 of the chain"`
	JournalBytes int64    `json:"journal_bytes" doc:"Of the audit records that are still in it"`
	AgreedIndex  uint64   `json:"agreed_index" doc:"Last index at which a majority was seen in the same state; 0: none since the leader started"`
	Diverged     []string `json:"diverged,omitempty" doc:"Nodes whose state was seen to differ from the leader's"`
}

// QueueStatus counts one class (capability).
type QueueStatus struct {
	Capability    string  `json:"capability"`
	Queued        int     `json:"queued"`
	Leased        int     `json:"leased"`
	Delayed       int     `json:"delayed"`
	OldestSeconds float64 `json:"oldest_seconds"`
	Workers       int     `json:"workers" doc:"Healthy agents able to do it"`
}

// Doctor is the layer-by-layer health report.
type Doctor struct {
	Healthy bool          `json:"healthy"`
	NodeID  string        `json:"node_id"`
	Checks  []DoctorCheck `json:"checks"`
}

// DoctorCheck is one thing looked at.
type DoctorCheck struct {
	Layer  int    `json:"layer"`
	Name   string `json:"name"`
	Status string `json:"status" enum:"ok,warn,fail,off"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty" doc:"What to do"`
}

// AuditFilter selects ledger records; zero fields match all.
type AuditFilter struct {
	AgentID, Verb, TaskID, FleetID, RegulationRef, GuaranteeLevel string
	SessionID, Action, Target                                     string
	From, To                                                      time.Time
	Shard                                                         int // -1 = all
	Limit                                                         int
	Cursor                                                        string
}

// Record is one audit entry.
type Record struct {
	Shard      uint32    `json:"shard"`
	Seq        uint64    `json:"seq" doc:"Dense from 1 within the shard"`
	Index      uint64    `json:"log_index"`
	Time       time.Time `json:"time"`
	Verb       string    `json:"verb"`
	TaskID     string    `json:"task_id,omitempty"`
	FleetID    string    `json:"fleet_id,omitempty"`
	Action     string    `json:"action,omitempty"`
	Target     string    `json:"target,omitempty"`
	Guarantee  string    `json:"guarantee_level,omitempty"`
	From       string    `json:"state_before,omitempty"`
	To         string    `json:"state_after,omitempty"`
	AgentID    string    `json:"agent_id,omitempty"`
	Actor      string    `json:"actor,omitempty"`
	Epoch      uint64    `json:"epoch,omitempty"`
	Attempt    int       `json:"attempt,omitempty"`
	Code       string    `json:"code,omitempty"`
	Detail     string    `json:"detail,omitempty"`
	AssignedAt time.Time `json:"assigned_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	StolenFrom string    `json:"stolen_from,omitempty"`
	Request    string    `json:"request_digest,omitempty" doc:"Hex SHA-256"`
	Result     string    `json:"result_digest,omitempty" doc:"Hex SHA-256"`

	Params         string   `json:"params_digest,omitempty" doc:"Hex SHA-256"`
	Approver       string   `json:"approver,omitempty"`
	SessionID      string   `json:"session_id,omitempty"`
	ParentTaskID   string   `json:"parent_task_id,omitempty"`
	VerifyTaskID   string   `json:"verify_task_id,omitempty"`
	RollbackTaskID string   `json:"rollback_task_id,omitempty"`
	Classification string   `json:"data_classification,omitempty"`
	RegulationRefs []string `json:"regulation_refs,omitempty"`
	RulePack       string   `json:"rule_pack,omitempty" doc:"id@version"`
	Evidence       string   `json:"evidence,omitempty"`
	StolenFromLoad uint32   `json:"stolen_from_load_thousandths,omitempty"`
	StolenToLoad   uint32   `json:"stolen_to_load_thousandths,omitempty"`

	Hash  string `json:"hash" doc:"Hex hash of the record as a leaf of the shard's Merkle tree: SHA-256 of a zero byte and its canonical bytes (RFC 6962)"`
	Bytes []byte `json:"bytes,omitempty" doc:"export: the canonical bytes, base64"`
}

// RecordPage is one page of records in shard, sequence order.
type RecordPage struct {
	Records    []Record `json:"records"`
	NextCursor string   `json:"next_cursor,omitempty"`
	// Archived says, of the shards looked at, which records are not in the
	// journals any more, and so not in any page.
	Archived []Archived `json:"archived,omitempty"`
}

// Archived says which records of a shard are not in its journals any more:
// those from the first on.
type Archived struct {
	Shard   uint32 `json:"shard"`
	Records uint64 `json:"records" doc:"So many, from the first on"`
	File    string `json:"file,omitempty" doc:"The archive with the last of them; none: dropped without one"`
	NodeID  string `json:"node_id,omitempty" doc:"Whose archive directory"`
}

// LedgerHead is the end of one shard's chain on the answering node.
type LedgerHead struct {
	Shard uint32 `json:"shard"`
	Size  uint64 `json:"size"`
	Hash  string `json:"hash"`
}

// LedgerVerification is what a node found re-reading its own chains from disk.
type LedgerVerification struct {
	NodeID string       `json:"node_id"`
	OK     bool         `json:"ok"`
	Heads  []LedgerHead `json:"heads"`
	Bad    []BadRecord  `json:"bad,omitempty"`
}

// BadRecord names the first record of a shard that does not verify.
type BadRecord struct {
	Shard  uint32 `json:"shard"`
	Seq    uint64 `json:"seq"`
	Reason string `json:"reason"`
}

// Raw is any JSON object.
type Raw = json.RawMessage
