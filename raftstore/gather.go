package raftstore

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble hands a table's file its blocks in pieces of 4 KiB, and each is a system call: a tenth of a node's CPU at
// saturation. So what is written to a table is gathered first. Tables count for nothing before they were synced whole.
const gatherBytes = 128 << 10

var gatherBuffers = sync.Pool{New: func() any { return new([gatherBytes]byte) }}

// gatherFS gathers what is written to tables. Pebble would write a table anew whose fsync failed, and say no more than
// that; but a disk that lost one write may have lost others, so unsynced is told, and the store stops.
type gatherFS struct {
	vfs.FS
	unsynced func(error)

	// opening: one goroutine works here, and what it syncs next is the directory of the log it has made.
	opening, newLog atomic.Bool
}

// Create implements vfs.FS.
func (fs *gatherFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if fs.opening.Load() {
		fs.newLog.Store(category == walCategory)
	}
	f, err := fs.FS.Create(name, category)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return f, err
	}
	g := gatherInto(f)
	g.unsynced = func(err error) { fs.unsynced(fmt.Errorf("fsync of %s: %w", name, err)) }
	return g, nil
}

// OpenDir implements vfs.FS.
func (fs *gatherFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &toldDir{File: f, fs: fs, name: name}, nil
}

// toldDir is a directory whose failed fsync is told, as a table's is. The one that Pebble keeps for its write-ahead logs
// has succeeded all the same, once the store is open: Pebble would panic while it makes a new log, where the way out
// unlocks a mutex that is not locked, and that ends the process. The store has stopped by then; nothing that is written
// to that log is acknowledged.
type toldDir struct {
	vfs.File
	fs   *gatherFS
	name string
	logs atomic.Bool
}

// Sync implements vfs.File.
func (d *toldDir) Sync() error {
	if d.fs.opening.Load() && d.fs.newLog.Swap(false) {
		d.logs.Store(true)
	}
	err := d.File.Sync()
	if err == nil {
		return nil
	}
	d.fs.unsynced(fmt.Errorf("fsync of %s: %w", d.name, err))
	if d.logs.Load() && !d.fs.opening.Load() {
		return nil
	}
	return err
}

// Unwrap implements vfs.FS.
func (fs *gatherFS) Unwrap() vfs.FS { return fs.FS }

// gatherInto takes a new file.
func gatherInto(f vfs.File) *gatherFile {
	return &gatherFile{File: f, buf: gatherBuffers.Get().(*[gatherBytes]byte)}
}

// gatherFile is a file that is written from its beginning to its end by one goroutine, then synced and closed.
type gatherFile struct {
	vfs.File
	buf     *[gatherBytes]byte // nil once closed
	n       int                // of buf, not written yet
	written int64
	err     error // the first failed write: there is a hole since, so a sync must fail too

	unsynced func(error) // nil: whoever made it looks itself
}

// Write implements vfs.File. An error may be one of an earlier write.
func (f *gatherFile) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		if f.n == gatherBytes {
			if err := f.flush(); err != nil {
				return done, err
			}
		}
		n := copy(f.buf[f.n:], p[done:])
		f.n += n
		done += n
	}
	return len(p), f.err
}

func (f *gatherFile) flush() error {
	if f.err != nil || f.n == 0 {
		return f.err
	}
	var n int
	n, f.err = f.File.Write(f.buf[:f.n])
	f.written += int64(n)
	f.n = 0
	return f.err
}

// Sync implements vfs.File.
func (f *gatherFile) Sync() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.tell(f.File.Sync())
}

// tell passes on what became of a sync.
func (f *gatherFile) tell(err error) error {
	if err != nil && f.unsynced != nil {
		f.unsynced(err)
	}
	return err
}

// SyncData implements vfs.File.
func (f *gatherFile) SyncData() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.tell(f.File.SyncData())
}

// SyncTo implements vfs.File. It promises nothing, so what is still gathered may stay.
func (f *gatherFile) SyncTo(length int64) (bool, error) {
	if f.err != nil || f.written == 0 {
		return false, f.err
	}
	full, err := f.File.SyncTo(min(length, f.written))
	return full && f.n == 0, f.tell(err)
}

// Stat implements vfs.File.
func (f *gatherFile) Stat() (vfs.FileInfo, error) {
	if err := f.flush(); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Close implements vfs.File.
func (f *gatherFile) Close() error {
	if f.buf == nil {
		return f.File.Close()
	}
	err := f.flush()
	gatherBuffers.Put(f.buf)
	f.buf = nil
	if cerr := f.File.Close(); err == nil {
		err = cerr
	}
	return err
}
