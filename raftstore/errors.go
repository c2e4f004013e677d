package raftstore

import (
	"errors"
	"fmt"
)

// The refusals of Propose and ReadIndex. All but ErrUnknown mean: certainly not done.
var (
	// ErrUnknown: the command may or may not take effect, now or later.
	ErrUnknown = errors.New("outcome unknown")
	// ErrOverloaded: the shard's mailbox is full.
	ErrOverloaded = errors.New("overloaded")
	// ErrDiskFull: new work while too little space is free. Later.
	ErrDiskFull = errors.New("disk almost full")
	// ErrTooLarge: the command is over Config.MaxCommandBytes.
	ErrTooLarge = errors.New("command too large")
	// ErrStopped: the store is closed, not started yet, or has failed.
	ErrStopped = errors.New("store stopped")
	// ErrNoShard: this process has no replica of the shard.
	ErrNoShard = errors.New("no such shard here")
	// ErrCorrupt: bytes on disk or on the wire are not what was written.
	ErrCorrupt = errors.New("corrupt")
	// ErrChangePending: another change of the shard's replicas is under way, or may be.
	ErrChangePending = errors.New("another membership change is under way")
	// ErrTrimmed: that part of the journal was given up (Store.TrimJournal).
	ErrTrimmed = errors.New("the journal begins later")
	// ErrMalformed: a message or stream that no correct peer sends.
	ErrMalformed = errors.New("malformed")
)

// NotLeaderError: the command was certainly not done here; Leader, unless 0, is who to ask.
type NotLeaderError struct {
	Shard  uint32
	Leader uint64
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("raftstore: shard %d: no leader known", e.Shard)
	}
	return fmt.Sprintf("raftstore: shard %d: led by %x", e.Shard, e.Leader)
}
