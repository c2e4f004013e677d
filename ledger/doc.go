// Package ledger decides, deterministically, what each command does, and
// chains the proof.
//
// It is the state machine behind every shard: [Tasks] for task shards,
// [Control] for the control shard. Apply takes one command and the time its
// proposer stamped, and changes typed memory, appends one audit record to the
// chain, and says which events follow. The same log gives the same state, the
// same records and the same bytes on every replica.
//
// # Purity
//
// No clock, randomness, goroutine, lock, float or I/O is in here, and no order
// of a map shows. Time is input: ledger time is the largest stamp so far, and
// everything that time brings about (expiry, delay, deadline) is a command
// that someone proposed and that is checked again here.
//
// # Refusals, failures, bugs
//
// A refusal is data: an [Outcome] with a code, and a record where it matters
// (an epoch that was over). Checkpointed state that can't be read, and a
// command that does not decode, panic: the replica must stop, not guess.
//
// # Memory
//
// Open tasks are rows in slabs, with the submitted part kept encoded. A task
// that ended stays until the state checkpoint that holds it is durable (Freeze,
// then Thaw), and is read from Cold afterwards. Idempotency keys follow their
// tasks; a bloom filter over the old ones keeps Cold out of a submit's way.
// Writing Cold in Apply instead costs about 2 µs a key and replica.
//
// # Files
//
//	command.go  the commands and their codec (codec.go)
//	apply.go    what each does: read this first
//	tasks.go    rows, checkpoints, reads     list.go  queries
//	control.go  nodes and agents
//	record.go   the audit record, to the byte, and its chain
package ledger
