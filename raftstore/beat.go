package raftstore

import "time"

// Beat is the grid that periodic work of a process is put on: what fires together shares a wake-up. An idle node with
// a timer of its own phase for each loop woke 60 times a second for them, half of what it did at all.
const Beat = 100 * time.Millisecond

// UntilBeat is how long to wait before a ticker of a multiple of Beat is started. The phase, from the raft ID, keeps
// processes apart: replicas whose clocks tick as one campaign as one.
func UntilBeat(now time.Time, raftID uint64) time.Duration {
	at := time.Duration(now.UnixNano()) - time.Duration(raftID%uint64(Beat))
	return Beat - at%Beat
}
