// Package trail hashes the journals of audit records into Merkle trees, off
// the path that applies commands, and signs what they come to.
//
// A [Log] follows one shard's journal and keeps the hashes of its tree in a
// file beside it; all of it can be made again from the journal. What is
// durable is a root at a size, written down after the hashes it stands on:
// when a log is opened, a file that does not give that root is made anew, and
// a journal that does not give it either was altered, which is an error.
//
// A journal may begin later than its shard's first record: its [Floor] has the
// right edge of the tree in front of it. Hashes that are there stay (64 bytes a
// record), so that any checkpoint of old can be proved to be the beginning of a
// new one; a node that had its journal after it was cut lacks them ([ErrGap]).
// What leaves a journal is in an [Archive] before.
//
// A [Signer] has the node's Ed25519 key. Before a signature leaves, what is
// signed is on disk, and a checkpoint is signed only if every shard in it
// agrees with the last one signed: the same log, further on or further back.
//
// The package starts no goroutine: its owner calls [Log.Advance].
package trail
