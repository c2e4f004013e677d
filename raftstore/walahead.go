package raftstore

import "github.com/cockroachdb/pebble/v2/vfs"

// A small write that makes its file longer costs its fsync the file's new size and extents beside the data: two writes
// to the disk instead of one. So a write-ahead log is filled with zeros ahead of what is written to it, as Pebble does by
// reusing old logs; but those are there only after some minutes of little load. A log that ends in zeros reads as one
// that ends.
//
// 4 KiB appended and fdatasynced, on ext4, beside compilers: p50 0.45 to 0.57 ms, p90 1.3 to 2.8; into zeros 0.24 to
// 0.31 and 0.6 to 1.5.
const (
	aheadBytes = 256 << 10 // zeros at a time: one fsync in some hundred carries them, a millisecond at 256 MiB/s
	// aheadWrite is the largest write that is worth it. Beyond, the disk is busy with data, and writing the zeros
	// before it would halve what it takes.
	aheadWrite = 16 << 10
)

const walCategory = "pebble-wal" // as Pebble names it

var zeros [aheadBytes]byte

// aheadFS fills the write-ahead logs made through it.
type aheadFS struct{ vfs.FS }

// Create implements vfs.FS.
func (fs aheadFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return fillAhead(f, category), err
}

// ReuseForWrite implements vfs.FS.
func (fs aheadFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	return fillAhead(f, category), err
}

// Unwrap implements vfs.FS.
func (fs aheadFS) Unwrap() vfs.FS { return fs.FS }

// fillAhead leaves alone what is no log, or not on a disk.
func fillAhead(f vfs.File, category vfs.DiskWriteCategory) vfs.File {
	if f == nil || category != walCategory || f.Fd() == vfs.InvalidFd {
		return f
	}
	info, err := f.Stat()
	if err != nil {
		return f
	}
	return &aheadFile{File: f, filled: info.Size()}
}

// aheadFile is a log. Pebble has one goroutine write it.
type aheadFile struct {
	vfs.File
	end    int64 // of what was written
	filled int64 // the file's size, at least
	full   bool  // no zeros any more: the disk would not take them
}

// Write implements vfs.File.
func (f *aheadFile) Write(p []byte) (int, error) {
	if end := f.end + int64(len(p)); end > f.filled && len(p) <= aheadWrite && !f.full {
		// It is the log's own write that decides whether there is room.
		n, err := f.WriteAt(zeros[:], f.filled)
		f.filled += int64(n)
		f.full = err != nil
	}
	n, err := f.File.Write(p)
	f.end += int64(n)
	f.filled = max(f.filled, f.end)
	return n, err
}
