package raftstore

// The fault tests. Each was seen to fail with its rule taken out of the code, as the last column says.
//
//	fault                                rule                                              test                                     fails without
//	bit flip in the log                  FormatNewest; the first write-ahead log replaced  TestFirstLog, TestDamagedLog             FormatMajorVersion; the Flush in disk.initialize
//	log cut short, its end damaged       a log shorter than its mark is not opened         TestMarks, TestDamagedLog                marks.check
//	bit flip in a table                  nothing read from a damaged store counts          TestDamagedState                         (Pebble's own checksums)
//	journal cut or flipped               lengths and sums; corrupt is not absent           TestDamagedState, TestDamagedJournal,    the checksum in journal.Read
//	                                                                                       FuzzJournal
//	snapshot cut, flipped, incomplete    a checksum per chunk and over the whole           TestSnapshotStream, TestMissingChunk     the comparison in chunk; in end
//	fsync fails                          stop, never acknowledge, never try again          TestFsyncFailure, TestFatalfEnds,          the check in engine.waitForSyncs; pebbleLogger.Fatalf
//	                                                                                       TestDirectoryFsyncFailure
//	disk full                            stop; with space again nothing is lost            TestFullDisk                             as above
//	disk almost full                     new work is refused, the rest goes on             TestDiskReserve, TestDiskReserveOfOthers Store.refuseNew
//	disk stands still                    leaderships are handed over                       TestStalledDisk                          shard.handOver
//	power cut, anywhere                  fsync on a quorum before the acknowledgement      TestPowerCuts; chaos/sim, ack-before-sync  Log.Sync
//	power cut between checkpoint and log truncation behind durable state only              TestPowerCuts; chaos/sim, truncate-ahead truncateLog up to applied
//	power cut with a journal unwritten   the journal is durable before its entries go      TestPowerCuts, TestLeaderCrash;          journal.sync in writeCheckpoint
//	                                                                                       chaos/sim, journal-unsynced
//	power cut during an installation     noted first; completed or undone at open          TestInstallCrash; chaos/sim, install-half  beginInstall
//	power cut after a vote               term and vote are durable before they are told    chaos/sim, vote-forgotten, hard-state-skipped  Log.Append, Log.Sync
//	power cut of a candidate             votes are asked for when the own one is durable   TestCandidacyIsDurable; chaos/sim        the wait in handleReady
//	restart                              applied once: index and state in one ingest       TestCommitAndRestart; chaos/sim, applied-twice  stateDB.write
//	data of another node or cluster      refused                                           TestMarks                                disk.identify
//	state differs from the majority's    the minority stops, for good, with evidence       TestDivergence, TestDigestJudge          shard.judge
//	leader cut off                       unknown is answered as unknown; reads wait        TestUnknownAndLost, TestReads;           a context per attempt
//	                                                                                       chaos/sim, stale-read-context
//	one voter, just elected              no read before an entry of the own term           testdata/replica/single                  the gate in startReads
//	an entry of an earlier term          counts as committed with one of the own only      chaos/sim, old-term-commit               (raft's rule)
//	a replica put away comes back        it keeps its vote, and is silent                  TestComesBackSilent; chaos/sim, tomb-forgotten  disk.putAway
//	malformed frames, entries, notes     refused, nothing changes                          FuzzMessage, FuzzEntryPayload, FuzzNote, TestDigestNotes, TestDiskNotes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// TestMissingChunk takes whole chunks out of a stream, and repeats them: each is good by itself.
func TestMissingChunk(t *testing.T) {
	b := sampleSnapshot(3000).stream(t)
	type span struct {
		from, to int
		kind     byte
	}
	var chunks []span
	for at := len(streamMagic) + 1; at < len(b); {
		size := chunkHeadBytes + int(binary.LittleEndian.Uint32(b[at+5:]))
		chunks = append(chunks, span{at, at + size, b[at] &^ chunkStored})
		at += size
	}
	if len(chunks) < 6 {
		t.Fatalf("%d chunks", len(chunks))
	}
	for i, c := range chunks {
		without := append(bytes.Clone(b[:c.from]), b[c.to:]...)
		twice := append(bytes.Clone(b[:c.to]), b[c.from:]...)
		for what, stream := range map[string][]byte{"missing": without, "twice": twice} {
			if what == "twice" && c.kind == chunkEnd {
				continue // what follows a stream is not read
			}
			if err := readSnapshot(bytes.NewReader(stream), &memorySink{}); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMalformed) {
				t.Errorf("chunk %d of kind %d %s: %v", i, c.kind, what, err)
			}
		}
	}
}

// TestFatalfEnds: Pebble does not expect its logger's Fatalf to return; what it was about to do must not be done.
func TestFatalfEnds(t *testing.T) {
	var reason error
	returned := false
	done := make(chan struct{})
	go func() { // ended by Fatalf
		defer close(done)
		l := &pebbleLogger{name: "log", log: testDiscard, fatal: func(err error) { reason = err }}
		l.Fatalf("no %s today", "fsync")
		returned = true
	}()
	<-done
	if returned || reason == nil || reason.Error() != "log: no fsync today" {
		t.Fatalf("returned %v, reason %v", returned, reason)
	}
}
