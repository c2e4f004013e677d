package raftstore

import (
	"context"
	"io"
)

// Store holds the replicas of this process: one goroutine per shard, one write-ahead log for all of them.
type Store struct {
	cfg Config
}

// Open opens what is in cfg.Dir and checks it. A fresh directory gives a store without shards. Damage, data of
// another raft ID, or a log shorter than its high-water mark is an error.
func Open(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Store{cfg: cfg}, nil
}

// Bootstrap creates shards 0..shards-1, replicated by voters, in a fresh directory. It is durable when it returns.
// Every voter must do the same with the same arguments. It refuses when shards exist already. Call it before Start.
func (s *Store) Bootstrap(shards uint32, voters []uint64) error { return ErrStopped }

// Start starts the goroutines. Step may be called from then on.
func (s *Store) Start() {}

// Shards lists the shards of this process in ascending order.
func (s *Store) Shards() []uint32 { return nil }

// Propose queues commands on a shard and never blocks. Each Done is called exactly once.
func (s *Store) Propose(shard uint32, ps []Proposal) {}

// ReadIndex is the linearizable barrier: it returns when this replica, the leader, has applied everything that was
// acknowledged anywhere before the call.
func (s *Store) ReadIndex(ctx context.Context, shard uint32) (index uint64, err error) {
	return 0, ErrStopped
}

// WaitApplied returns when this replica has applied index.
func (s *Store) WaitApplied(ctx context.Context, shard uint32, index uint64) error { return ErrStopped }

// Step takes in a raft message. Malformed ones are refused and change nothing. msg is not kept.
func (s *Store) Step(shard uint32, from uint64, msg []byte) error { return ErrStopped }

// PeerDown says that the connection to a peer broke: shards it leads look for another leader at once.
func (s *Store) PeerDown(raftID uint64) {}

// Receive takes in a snapshot stream. A damaged or truncated one is refused and changes nothing.
func (s *Store) Receive(from uint64, r io.Reader) error { return ErrStopped }

// TransferLeader starts handing the leadership of a shard over; proposals wait meanwhile.
func (s *Store) TransferLeader(shard uint32, to uint64) error { return ErrStopped }

// Status describes every shard. It never blocks.
func (s *Store) Status() []ShardStatus { return nil }

// Reader reads the checkpointed state of a shard; nil when there is none.
func (s *Store) Reader(shard uint32) Reader { return nil }

// Journal is the journal of a shard; nil when there is none.
func (s *Store) Journal(shard uint32) Journal { return nil }

// Close writes a last state checkpoint, stops everything and waits for it.
func (s *Store) Close() error { return nil }
