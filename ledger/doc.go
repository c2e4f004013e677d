// Package ledger decides, deterministically, what each command does, and
// chains the proof.
//
// It is the state machine behind every shard: [Tasks] behind a task shard,
// [Control] behind the control shard. [Tasks.Apply] takes one [Command] of the
// replicated log with the time its proposer stamped; it changes typed memory,
// appends an audit [Record] for each change to the shard's hash chain, and
// returns an [Outcome] and the [Event]s that follow. The same log gives the same state,
// the same outcomes and the same bytes on every replica, for ever.
//
// # Life cycle
//
//	NewTasks → Restore → { Apply | Freeze … Thaw }*
//
// Freeze encodes what changed since the last one; when that is durable, Thaw
// lets ended tasks leave memory. Apply may run between the two: what changed
// after Freeze stays until the next pair. So that a checkpoint stalls nobody
// both come in parts: BeginFreeze fixes what is covered, FreezeSome encodes,
// ThawSome lets go, with Apply between any two parts. Restore starts over from
// a checkpoint. These need exclusion; every other method only reads and may
// run concurrently with others that do.
//
// # Invariants
//
//   - A task is in one state; it leaves a terminal one by Retry only.
//   - Epochs of ended attempts increase strictly per task. What carries one
//     that is not newer is refused, and the refusal recorded.
//   - An idempotency key names one task for as long as it is kept.
//   - Records are dense from 1. Which version they are written in is part of
//     the state, set by [AuditFormat], so old logs give old records.
//   - Nothing but Apply's input decides: no clock, randomness, goroutine,
//     lock, float or order of a map is in here. Where a task is read from
//     (memory or checkpoint) shows nowhere.
//
// A refusal is an Outcome with a [Code]. A log that can't be decoded and a
// checkpoint that can't be read are panics: the replica must stop, not guess.
// Damage found by Restore and by readers is an error.
//
// # Time
//
// Ledger time is the largest stamp so far. What time brings about (lease end,
// delay, deadline) is a command that someone proposes and that is checked
// again here: [Expire], [Due], [Timeout].
//
// # Memory
//
// Open tasks are entries of a slab: hot fields decoded, the rest one encoded
// spec that is never changed, so readers may keep pieces of it. Ended tasks
// stay until thawed. Bloom filters over old keys and IDs (2 bytes each) keep
// the checkpoint out of a submit's way: a read per submit cost 40 % of the
// throughput. A write per command costs more still: 2 µs a key and replica.
//
// # Transactions
//
// A task with terms comes by [Declare]: see [Terms] and [Txn]. Its leases are
// in the log if it is exactly_once, self-leased, approved or to be undone
// ([Lease]; the ledger makes the epoch), those of others are the shard
// leader's, who ends an attempt with its epoch and the ledger sees such a task
// as ready until then. An exactly_once task whose holder disappears is unknown,
// never ready (doubt.go says what follows); verify and rollback are tasks that
// the ledger makes itself, in the same shard. A failure of exactly_once says
// that nothing happened: a session's rollback leaves such a step out, a
// person's request for it alone undoes it. What concerns other shards
// (dependencies, steps of a saga) is a [Letter] in the state, delivered until
// acknowledged. A task waits only for tasks that are there: there is no cycle.
//
// # Files
//
//	apply.go       what each command does to a task: read this first
//	declare.go, doubt.go, links.go  transactions           answer.go  the JSON that is read and written here
//	members_apply.go  who is a node, or never again        placement.go      three voters a shard, even, little moved
//	tasks.go       the state and its one way to change     control_apply.go  likewise for nodes and agents
//	command.go     the commands and their encoding         spec.go, wire.go  the primitives
//	evict.go, retention.go, retention_records.go  what is kept, and how long
//	record2.go     the audit record, to the byte           chain.go, record.go   version 1 and its hash chain
//	checkpoint.go  Freeze, Thaw, Restore                   row.go            the rows
//	read.go        queries                                 slab.go, table.go, order.go, bloom.go, names.go
//
// The package starts no goroutine.
package ledger
