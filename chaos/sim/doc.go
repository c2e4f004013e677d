// Package sim simulates clusters of raftstore replicas: one thread, a seed, a
// network and disks of its own.
//
// [Run] drives real [raftstore.Replica]s, real raft and a real machine (the
// ledger's task shard in a sixth of the seeds, registers in the others). What
// they stand on is simulated: a network that drops, delays, repeats, splits
// and reorders messages and cuts links one way or both; disks whose writes are
// volatile until a sync and survive a crash in part; clocks that differ; nodes
// that stand still, crash at any call they make, and come back. Leaders hand
// over, state checkpoints truncate logs, followers catch up by snapshots, members
// are added, promoted, removed and come back.
// [Search] runs many seeds.
//
// # What is checked, and when
//
//	election safety        a term has one leader                      with every message and after every event
//	one vote a term        also across crashes                        with every vote
//	log matching           an index and term is one entry             with every append
//	leader completeness    a new leader has all that was committed    with its first message
//	applied once, in order the same everywhere, same outcomes         with every apply
//	digests                equal at equal applied index               after every event
//	acknowledged           durable on a majority at that moment       with every acknowledgement
//	refused                what was refused is never applied          with every apply
//	linearizable           reads and writes see what was acknowledged or
//	                       read before they began                     with every answer
//	one pending change     of the configuration                       with every append
//	opens again            whatever a crash left                      with every start
//	leaders                once the faults end, soon: each shard has one that its voters, and their machines, name
//	agreement              soon after that; all is answered at the end
//
// The log is the witness of linearizability: operations are ordered by index,
// so that it is enough that none gets an index at or before one that had been
// answered when it began.
//
// A broken invariant is a [Failure] with the command that repeats it. [Plants]
// are mistakes made on purpose: the tests want each of them found.
//
// # What is not simulated
//
// Store: its goroutines, Pebble and the real files are tested on a crashable
// file system in package raftstore. Checkpoints, truncation and installation
// are modelled here after it, step by step.
package sim
