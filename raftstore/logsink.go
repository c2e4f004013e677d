package raftstore

import "github.com/cockroachdb/pebble/v2"

// logSink gathers what several shards append, so that one write and one fsync carry it. One goroutine uses it.
type logSink struct {
	db      *pebble.DB
	batch   *pebble.Batch // nil: nothing appended since the last commit
	durable []durable
	free    [][]durable
}

// durable is what a shard does once an append is on the disk.
type durable struct {
	log  *shardLog
	then func()
}

// logWrite is one write on its way to the disk.
type logWrite struct {
	batch   *pebble.Batch // nil: only what was written before counts
	durable []durable
}

const sinkBatchBytes = 64 << 10 // a first guess; batches grow

func (k *logSink) writer() *pebble.Batch {
	if k.batch == nil {
		k.batch = k.db.NewBatchWithSize(sinkBatchBytes)
	}
	return k.batch
}

// commit hands what was gathered to the log; ok is false when there is nothing to wait for.
func (k *logSink) commit() (w logWrite, ok bool, err error) {
	if k.batch == nil && len(k.durable) == 0 {
		return w, false, nil
	}
	if k.batch != nil {
		if err := k.db.ApplyNoSyncWait(k.batch, pebble.Sync); err != nil {
			return w, false, err
		}
	}
	w = logWrite{k.batch, k.durable}
	k.batch, k.durable = nil, nil
	if n := len(k.free); n > 0 {
		k.durable, k.free = k.free[n-1], k.free[:n-1]
	}
	return w, true, nil
}

func (k *logSink) recycle(w *logWrite) {
	clear(w.durable)
	k.free = append(k.free, w.durable[:0])
	*w = logWrite{}
}

// wait returns when the write is durable.
func (w *logWrite) wait() error {
	if w.batch == nil {
		return nil
	}
	if err := w.batch.SyncWait(); err != nil {
		return err
	}
	return w.batch.Close()
}
