// Package bare is a node with nothing but its replication: raftstore's shards over the transport between nodes, with
// a state machine that counts. It exists to be measured: what a command costs here, no scheduler, lease or face adds
// to. Everything else is as in a node: the same log, the same fsync on a quorum before an answer, the same state
// checkpoints and truncation.
package bare
