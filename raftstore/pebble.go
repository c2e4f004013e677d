package raftstore

import (
	"fmt"
	"log/slog"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleLogger turns Pebble's fatal errors into a stop of the store. Pebble does not expect Fatalf to return, so the
// calling goroutine ends here; it never acknowledges what it was about to.
type pebbleLogger struct {
	name  string
	log   *slog.Logger
	fatal func(error)
}

func (l *pebbleLogger) Infof(string, ...any) {} // Pebble tells of every flush and compaction

func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("raftstore: pebble", "db", l.name, "error", fmt.Sprintf(format, args...))
}

func (l *pebbleLogger) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf("%s: %s", l.name, fmt.Sprintf(format, args...)))
	runtime.Goexit()
}

// openPebble opens one of the two databases. Both use the newest format: at older ones a flipped bit in the
// write-ahead log silently drops every later record.
func openPebble(name, dir string, fs vfs.FS, cache *pebble.Cache, tune func(*pebble.Options), log *slog.Logger, fatal func(error)) (*pebble.DB, *pebble.Options, error) {
	logger := &pebbleLogger{name: name, log: log, fatal: fatal}
	opts := &pebble.Options{
		FS:                          fs,
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		MaxOpenFiles:                512,
		Logger:                      logger,
		EventListener: &pebble.EventListener{
			// A disk that is full, or a table that can't be read; what fsync refused ends the store: gatherFS.
			BackgroundError: func(err error) { logger.Errorf("background work failed, it will be retried: %v", err) },
			// The reader that met it gets the error too; nothing read from this store can be trusted any more.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				fatal(fmt.Errorf("%s: %s: %v: %w", name, info.Path, info.Details, ErrCorrupt))
			},
			DiskSlow: func(info pebble.DiskSlowInfo) { log.Warn("raftstore: slow disk", "db", name, "what", info.String()) },
		},
	}
	// One compaction runs at a time, and the next begins when it ends: the default scheduler's look every 100 ms has
	// nothing to find, and wakes an idle node 20 times a second.
	opts.CompactionConcurrencyRange = func() (lower, upper int) { return 1, 1 }
	opts.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	// The zstd of the stronger settings is slow without cgo.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	if opts.FS == nil {
		opts.WithFSDefaults() // the health checks
	}
	told := &gatherFS{FS: opts.FS, unsynced: fatal}
	told.opening.Store(true)
	opts.FS = told
	tune(opts)
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", dir, err)
	}
	told.opening.Store(false)
	return db, opts, nil
}

// Compacting the log is work for nothing: an entry is truncated seconds after it was written. So the log's tables are not
// compressed, and there may be many of them before they are merged: nearly all of what they hold is deleted by then.
const (
	logTables     = 12 // that overlap, before a compaction; at 32 MiB each 384 MiB
	logTablesStop = 40 // before writes wait for it
)

// logOptions are those of the log database.
func logOptions(memTableBytes int) func(*pebble.Options) {
	return func(o *pebble.Options) {
		o.MemTableSize = uint64(memTableBytes)
		o.L0CompactionThreshold, o.L0StopWritesThreshold = logTables, logTablesStop
		o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
		o.FS = aheadFS{o.FS}
	}
}

// stateMemTableBytes: the state is written by ingest.
const stateMemTableBytes = 1 << 20

// The rows of a checkpoint whose keys are in no order are a table of L0, and every other second there is one (those in
// order of time are not: tops). They are merged when there are many, and are not compressed until then: most rows are
// read never or once.
const (
	stateTables     = 16
	stateTablesStop = 64
	stateBaseBytes  = 256 << 20 // of the first level below
	stateBlockBytes = 16 << 10  // at 4 KiB writing and merging costs a sixth more; at 32 nothing less
)

func stateOptions(o *pebble.Options) {
	o.MemTableSize = stateMemTableBytes
	o.L0CompactionThreshold, o.L0StopWritesThreshold = stateTables, stateTablesStop
	o.LBaseMaxBytes = stateBaseBytes
	for i := range o.Levels {
		o.Levels[i].BlockSize = stateBlockBytes
	}
	o.Levels[0].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
}
