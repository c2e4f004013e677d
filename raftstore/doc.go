// Package raftstore replicates commands over etcd raft and applies them durably, shard by shard.
//
// # Types
//
// A Replica is one member of one raft group: synchronous, without goroutine or clock, its I/O behind Log and a few
// functions. A Store drives one Replica per shard on two Pebble databases and flat journals; an engine, one goroutine,
// drives several of them, so that one log write, one fsync and one frame to each peer carry what all of them have. The
// caller brings a Machine per shard, which turns commands into state and outcomes, and a Transport.
//
// # Life of a command
//
// Store.Propose puts it in the shard's mailbox. Its engine packs what is there into one entry (two entries
// go at once, further ones when full, at most MaxInflightEntries), hands it to raft, sends it to the followers, and
// while its own fsync runs applies what was committed before. A quorum's fsyncs commit it; Machine.Apply changes
// memory and appends to the Journal; Done gets the outcome. Every two seconds Machine.Freeze fixes what changed: a
// writer takes it in parts, beside Apply, makes the journal durable, then ingests sorted tables with the changes and
// the applied index; only then the log is truncated. After a crash the Machine is restored from there and the log is
// applied again. Backup streams a shard's checkpoint; a Seed makes another cluster of such streams, or of a Survivor.
//
// # Directory
//
//	log/      Pebble: raft entries and hard states of all shards; one write-ahead log, the only one fsynced per command
//	state/    Pebble: state checkpoints, written by ingest only
//	journal/  files of 64 MiB a shard; what counts begins and ends where the state checkpoint says, replay appends the rest
//	marks     how far each log reached, outside Pebble
//	staging/  unfinished tables and snapshots, emptied at open
//	removed/  journals of replicas that were put away
//
// # Invariants, and where they are kept (faults_test.go: the table of fault tests)
//
//	nothing is acknowledged before a quorum's fsync           Replica.handleReady: responses in Log.Sync's then
//	nobody leads in a term that is not on its disk            Replica.handleReady: requests for votes after Log.Sync
//	applied once, in order                                    Replica.apply; checkpoint key in the ingest (stateDB.write)
//	applied index and state can't part                        one atomic Ingest per checkpoint
//	journal durable before its log entries go                 stateWrite.prepare, stateGroup.next
//	journal files go after a checkpoint that says so           Store.TrimJournal, journal.drop; streams pin them
//	log truncated behind durable state only                   shard.checkpointWritten
//	a command is lost only if another entry has its index     pendingBatches.take, Replica.failUnlogged; otherwise ErrUnknown
//	Lead only after an entry of the own term was applied      Replica.apply
//	no stale read, also with one voter                        Replica.startReads; a context per attempt
//	a log that lost its end is never opened                   marks, checked in disk.openShard, lowered before the log
//	a flipped bit in a log is noticed                         FormatNewest, and disk.initialize replaces the first WAL
//	data of another raft ID is refused                        disk.identify, readMarks
//	a snapshot counts whole or not at all                     readSnapshot; shard.install and shardLog.finishInstall
//	raft hears how every snapshot ended                       shard.startStream
//	a seeded cluster knows no vote or epoch of the old one    Seed.writeLog: new IDs, termRaise, a first entry
//	after a failed fsync nothing goes on                      pebbleLogger.Fatalf, Store.fatal
//	replicas of one log are in one state                      digests, compared between peers; the minority stops
//	one membership change at a time, each by its own name      Replica.proposeChange, assignChange
//	no change that can wedge the group                        Replica.changeFlaw
//	what a put-away replica promised it still keeps           disk.putAway, disk.create, Replica.silent, .noteAppended
//	every Done is called once                                 mailbox.close, Replica.Stop
//
// # Goroutines
//
//	name        owner   stops
//	engine.run  Store   Close: after last checkpoints; a fatal error: at once
//	sync waiter engine  with it
//	installer   engine  when a snapshot is installed; the engine waits
//	tick, marks, space  Store  Close
//	checkpoint  shard   when written; Close waits
//	sender      shard   when streamed, or when Close ends its context; Close waits
//	guard       Store   with the call it serves (Open, Bootstrap, Close): Pebble's fatal errors may end it
//
// # What was measured
//
// Three stores in one process on two cores, 128-byte commands, real disk (go test -bench .): about 0.5 M commands/s
// with 8,192 in flight, 90,000/s with 64, one at a time p50 0.41 ms. Three processes, and what was tried for throughput:
// THROUGHPUT.md; latency at a rate: node/LATENCY.md.
//
// Rejected: waiting for the own fsync before sending to the followers (a round trip more for a lone command); a
// goroutine per shard that also waits for its fsync (three nodes at 2,000 lifecycles/s, completed p50 / p99: 12.6 / 49 ms
// against 8.0 / 30 ms with engines); a Pebble snapshot for streams (an excise takes keys away under it).
// Large states, snapshots, restarts: STATE.md.
//
// # What it does not do
//
// It routes nothing, knows no cluster beyond raft IDs, decides no membership (Change, Create, Drop: an administrator's).
// Damage in the last moments of a log, since the marks were last written, looks like a crash in mid-write.
package raftstore
