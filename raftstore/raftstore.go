package raftstore

import (
	"context"
	"io"
)

// Entry is one committed log entry, as a Machine sees it. Its slices are valid during the call only.
type Entry struct {
	Index, Term uint64
	TimeMillis  int64    // wall clock of the proposer, milliseconds since the Unix epoch
	Commands    [][]byte // in the order proposed, at least one
	Local       bool     // proposed by this process since it started: the outcomes are wanted
}

// Machine is the state machine one shard replicates. Restore, Apply, Freeze, Thaw, Lead and Follow are called from
// the shard's goroutine only, one at a time.
type Machine interface {
	// Restore rebuilds the state from the state checkpoint in r, at open and after a snapshot was installed.
	// A nil meta means that nothing was ever checkpointed.
	Restore(r Reader, meta []byte) error
	// Apply changes the state. It returns nil or one outcome per command; outcomes are ignored unless e.Local.
	// It must be deterministic. A panic is a broken invariant and stops the store.
	Apply(e Entry) (outcomes [][]byte)
	// Freeze returns what changed since the last Freeze. Apply waits for it: what takes longer than a few
	// milliseconds goes into Changes.More. A second Freeze never comes before Thaw.
	Freeze() Changes
	// Thaw says that the changes of the last Freeze are durable and visible in Reader. Apply waits for it too: see
	// Changes.Durable.
	Thaw()
	// Lead says that this replica leads in term and has applied an entry of that term, so everything before it too.
	Lead(term uint64)
	// Follow says that this replica does not lead; leader is 0 when none is known.
	Follow(leader uint64)
	// Digest hashes the logical state: equal on all replicas at equal applied index. It may be costly.
	Digest() uint64
}

// Changes are what a Machine wants written at a state checkpoint, in any order. Keys are local to the shard and
// must be unique across Puts and Deletes. The store owns the slices from then on.
type Changes struct {
	Puts    []KV
	Deletes [][]byte
	Meta    []byte // handed back to Restore

	// More, unless nil, gives further parts of the same Freeze until more is false. It is called beside Apply, from
	// another goroutine, and gives the state as of Freeze all the same.
	More func() (puts []KV, deletes [][]byte, more bool)
	// Durable, unless nil, is called before Thaw, until it returns false, beside Apply and from another goroutine:
	// what is visible in Reader may be let go, a part at a time.
	Durable func() (more bool)
}

// KV is one key and its value.
type KV struct{ Key, Value []byte }

// Reader reads the state of a shard as of its last state checkpoint. It is safe for concurrent use.
type Reader interface {
	// Get returns a copy of the value.
	Get(key []byte) (value []byte, found bool, err error)
	// Scan calls fn with every key in [from, to) in ascending order until fn returns false. A nil to means the end
	// of the shard. Key and value are valid during the call only.
	Scan(from, to []byte, fn func(key, value []byte) bool) error
}

// Journal is the shard's append-only flat file. Records are appended in Apply, durable before the log entries they
// came from are truncated, cut back to the state checkpoint at open and rebuilt by replay.
type Journal interface {
	// Append adds a record, from Apply only. The record is copied.
	Append(record []byte)
	// Size is the length in bytes including what is still buffered, and what was trimmed.
	Size() int64
	// Read calls fn with the records from offset on, until fn returns false: where the record starts, where the
	// next one starts, and its bytes (valid during the call only). Any goroutine may call it. Damage is an error
	// wrapping ErrCorrupt that names the offset; ErrTrimmed says that the journal begins later.
	Read(offset int64, fn func(offset, next int64, record []byte) bool) error
}

// MachineFactory makes the state machine of a shard; Restore follows before anything else.
type MachineFactory func(shard uint32, r Reader, j Journal) (Machine, error)

// Transport carries messages and snapshots to the other processes. raftstore needs no order, no exactly-once and no
// completeness from it.
type Transport interface {
	// Send queues a message and never blocks. It is dropped when the peer is down; raft retries. msg is the
	// transport's from then on.
	Send(to uint64, shard uint32, msg []byte)
	// SendSnapshot opens a stream, lets write fill it, and returns nil only when the other side's Receive did.
	SendSnapshot(ctx context.Context, to uint64, write func(io.Writer) error) error
}

// Batcher is a Transport whose Send may hold messages back until Flush, which an engine calls when all its shards have
// sent what they had: one frame to a peer then carries them.
type Batcher interface{ Flush() }

// JournalAsker is a Transport that can ask a peer what its Store.JournalBase says. Snapshots then leave out what the
// peer has of the journal.
type JournalAsker interface {
	AskJournal(ctx context.Context, to uint64, shard uint32) (size int64, sum uint32, err error)
}

// Proposal is one command and where its result goes.
type Proposal struct {
	Command []byte // not copied before it is packed: do not change it until Done
	New     bool   // new work: refused with ErrDiskFull while space is short, so that what ends work has room
	Async   bool   // answer as soon as it is proposed: Result has the index, no outcome, and it may still be lost
	Done    func(Result)
}

// Result is the one answer to a Proposal. Done is called exactly once, from the shard's goroutine or from Propose
// itself, and must neither block nor call back into the store, save for Propose.
type Result struct {
	Index   uint64 // of the log entry that carries the command; 0 when it was refused
	Outcome []byte // what Apply returned, the caller's to keep
	Err     error
}

// Role is the part a replica plays in its group.
type Role uint8

// The roles, as raft names them.
const (
	RoleFollower Role = iota
	RoleCandidate
	RoleLeader
)

func (r Role) String() string {
	switch r {
	case RoleLeader:
		return "leader"
	case RoleCandidate:
		return "candidate"
	default:
		return "follower"
	}
}

// ShardStatus describes one replica. Commit and Applied are current, the rest is at most a tick old.
type ShardStatus struct {
	Shard           uint32
	Term            uint64
	Leader          uint64 // 0 when none is known
	Role            Role
	Ready           bool // leads and has applied an entry of its own term
	Commit          uint64
	Applied         uint64
	FirstIndex      uint64
	LastIndex       uint64
	CheckpointIndex uint64
	Voters          []uint64
	Learners        []uint64
	Followers       []FollowerStatus // on the leader only
	JournalBytes    int64            // that there ever were
	JournalStart    int64            // so many of them are gone
	QueuedCommands  int
	AgreedIndex     uint64   // last index at which a majority was seen in the same state; 0: none since the start
	Differ          []uint64 // replicas seen in another state than this one since the start
	DigestsEqual    uint64   // digests of other replicas that were found equal, since the start

	statusTick uint64 // when it was made
}

// FollowerStatus is what a leader knows about another replica.
type FollowerStatus struct {
	RaftID   uint64
	Match    uint64 // last index known to be on its disk
	Active   bool   // heard from within two election timeouts
	Snapshot bool   // a snapshot is on its way to it
}
