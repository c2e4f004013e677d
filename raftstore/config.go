package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MaxShards bounds Bootstrap.
const MaxShards = 4096

// maxCommand bounds Config.MaxCommandBytes and Config.MaxBatchBytes.
const maxCommand = 64 << 20

// Config configures a Store. Zero means the default.
type Config struct {
	Dir     string         // data directory; the store keeps log/, state/, journal/, staging/ and marks in it
	RaftID  uint64         // this process, never 0; data written under another ID is refused
	FS      vfs.FS         // nil: the disk, with health checks
	Machine MachineFactory // required
	// Transport carries what is sent; required. What is received goes to Step and Receive.
	Transport Transport
	Logger    *slog.Logger     // nil: discard
	Now       func() time.Time // nil: time.Now. Stamps entries; nothing else depends on it.

	TickInterval   time.Duration // default 100 ms: one step of raft's clock
	ElectionTicks  int           // default 10: a silent leader is replaced after 1–2 × this
	HeartbeatTicks int           // default 3

	Engines            int // default half of GOMAXPROCS: goroutines that drive the shards, each some of them
	MaxCommandBytes    int // default 4 MiB: a larger command is ErrTooLarge
	MaxBatchCommands   int // default 256 commands an entry
	MaxBatchBytes      int // default 64 KiB an entry; one bigger command goes alone
	MaxInflightEntries int // default 16 entries proposed and not yet applied, a shard
	MailboxCommands    int // default 65,536 queued commands a shard, then ErrOverloaded
	MailboxBytes       int // default 64 MiB of queued commands a shard, then ErrOverloaded

	CheckpointInterval time.Duration // default 2 s between state checkpoints of a shard that changes
	CheckpointBytes    int64         // default 32 MiB of applied entries force one earlier
	LogRetainEntries   uint64        // default 512 entries kept behind the state checkpoint for peers that lag
	LogRetainMax       uint64        // default 4,096: a peer further behind gets a snapshot instead

	JournalSegmentBytes int64 // default 64 MiB: size of a journal's files, which TrimJournal deletes whole

	DiskReserveBytes int64         // default 256 MiB: with less free, proposals that are New are refused; negative: never
	DiskBudgetBytes  int64         // default 0, no bound: with seven eighths of it in Dir, proposals that are New are refused
	StallAfter       time.Duration // default 2 s: a log write that takes longer has the leaderships handed over

	// SnapshotBytesPerSecond bounds what snapshots and backups write together, packed; default
	// DefaultSnapshotBytesPerSecond, negative: no bound.
	SnapshotBytesPerSecond int64

	CacheBytes    int64 // default 16 MiB block cache, shared by log and state
	MemTableBytes int   // default 32 MiB for each of up to four memtables of the log

	// OnFatal is called once, when the store must not go on: fsync failure, corruption, divergence. It must not
	// block nor call the store; the process should exit. nil: panic.
	OnFatal func(error)
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.OnFatal == nil {
		c.OnFatal = func(err error) { panic(err) }
	}
	setDefault(&c.TickInterval, 100*time.Millisecond)
	setDefault(&c.ElectionTicks, 10)
	setDefault(&c.HeartbeatTicks, 3)
	setDefault(&c.Engines, max(1, runtime.GOMAXPROCS(0)/2))
	setDefault(&c.MaxCommandBytes, 4<<20)
	setDefault(&c.MaxBatchCommands, 256)
	setDefault(&c.MaxBatchBytes, 64<<10)
	setDefault(&c.MaxInflightEntries, 16)
	setDefault(&c.MailboxCommands, 65536)
	setDefault(&c.MailboxBytes, 64<<20)
	setDefault(&c.CheckpointInterval, 2*time.Second)
	setDefault(&c.CheckpointBytes, 32<<20)
	setDefault(&c.LogRetainEntries, 512)
	setDefault(&c.LogRetainMax, 4096)
	setDefault(&c.JournalSegmentBytes, 64<<20)
	// The log's memtables and their files (4 × 16 MiB each), a table being written and one being compacted (64 MiB each).
	setDefault(&c.DiskReserveBytes, 256<<20)
	setDefault(&c.StallAfter, 2*time.Second)
	setDefault(&c.SnapshotBytesPerSecond, DefaultSnapshotBytesPerSecond)
	setDefault(&c.CacheBytes, 16<<20)
	setDefault(&c.MemTableBytes, 32<<20)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate returns every mistake at once.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "Dir is empty")
	check(c.RaftID != 0 && c.RaftID < 1<<63, "RaftID %d is not in 1..2^63-1", c.RaftID)
	check(c.Machine != nil, "Machine is nil")
	check(c.Transport != nil, "Transport is nil")
	check(c.TickInterval > 0, "TickInterval %v is not positive", c.TickInterval)
	check(c.HeartbeatTicks > 0, "HeartbeatTicks %d is not positive", c.HeartbeatTicks)
	check(c.ElectionTicks > c.HeartbeatTicks, "ElectionTicks %d is not above HeartbeatTicks %d", c.ElectionTicks, c.HeartbeatTicks)
	check(c.Engines > 0, "Engines %d is not positive", c.Engines)
	check(c.MaxCommandBytes > 0 && c.MaxCommandBytes <= maxCommand, "MaxCommandBytes %d is not in 1..64 MiB", c.MaxCommandBytes)
	check(c.MaxBatchCommands > 0 && c.MaxBatchCommands <= maxCommandsPerEntry, "MaxBatchCommands %d is not in 1..%d", c.MaxBatchCommands, maxCommandsPerEntry)
	check(c.MaxBatchBytes > 0 && c.MaxBatchBytes <= maxCommand, "MaxBatchBytes %d is not in 1..64 MiB", c.MaxBatchBytes)
	check(c.MaxInflightEntries > 0, "MaxInflightEntries %d is not positive", c.MaxInflightEntries)
	check(c.MailboxCommands > 0, "MailboxCommands %d is not positive", c.MailboxCommands)
	check(c.MailboxBytes >= c.MaxCommandBytes, "MailboxBytes %d is below MaxCommandBytes %d", c.MailboxBytes, c.MaxCommandBytes)
	check(c.CheckpointInterval > 0, "CheckpointInterval %v is not positive", c.CheckpointInterval)
	check(c.CheckpointBytes > 0, "CheckpointBytes %d is not positive", c.CheckpointBytes)
	check(c.LogRetainMax >= c.LogRetainEntries, "LogRetainMax %d is below LogRetainEntries %d", c.LogRetainMax, c.LogRetainEntries)
	check(c.JournalSegmentBytes > 0, "JournalSegmentBytes %d is not positive", c.JournalSegmentBytes)
	check(c.StallAfter > 0, "StallAfter %v is not positive", c.StallAfter)
	check(c.CacheBytes > 0 && c.MemTableBytes > 0, "CacheBytes and MemTableBytes must be positive")
	return errors.Join(errs...)
}
