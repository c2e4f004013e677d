package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A journal is a flat file of frames: length u32, CRC32C of the record u32, record; little-endian. What counts of it
// is the size in the state checkpoint plus what was appended since: bytes beyond are from entries that replay appends
// again, to the same place and with the same content, so that nothing needs to be cut off.
const (
	journalFrameBytes  = 8
	maxJournalRecord   = 16 << 20
	journalBufferBytes = 256 << 10 // appended to the file at once
	journalReadBytes   = 128 << 10
)

// journal implements Journal. Append and reset are the shard goroutine's; everybody may read.
type journal struct {
	fs        vfs.FS
	dir, name string
	fatal     func(error)
	sum       uint32 // CRC32C of everything appended; the shard goroutine's alone
	mu        struct {
		sync.Mutex
		file    vfs.File
		size    int64  // including buf
		durable int64  // up to here, since reset; -1: nothing is known
		buf     []byte // not written yet: the last len(buf) bytes
		closed  bool
		err     error            // the first failed write: there is a hole since, so nothing may become durable
		refs    map[vfs.File]int // readers; a replaced file is closed by its last one
	}
}

func openJournal(fs vfs.FS, dir string, shard uint32, size int64, sum uint32, fatal func(error)) (*journal, error) {
	j := &journal{fs: fs, dir: dir, name: journalName(shard), fatal: fatal}
	j.mu.refs = map[vfs.File]int{}
	return j, j.reset(size, sum)
}

func journalName(shard uint32) string { return fmt.Sprintf("%04d.qj", shard) }

// nextFrame takes the first record off b; n is 0 when b ends before it does.
func nextFrame(b []byte) (record []byte, n int, err error) {
	if len(b) < journalFrameBytes {
		return nil, 0, nil
	}
	length, sum := int(binary.LittleEndian.Uint32(b)), binary.LittleEndian.Uint32(b[4:])
	if length == 0 || length > maxJournalRecord {
		return nil, 0, fmt.Errorf("a record of %d bytes: %w", length, ErrCorrupt)
	}
	if n = journalFrameBytes + length; len(b) < n {
		return nil, 0, nil
	}
	if record = b[journalFrameBytes:n]; crcOf(record) != sum {
		return nil, 0, fmt.Errorf("checksum mismatch: %w", ErrCorrupt)
	}
	return record, n, nil
}

func (j *journal) path() string { return j.fs.PathJoin(j.dir, j.name) }

// reset opens the file anew and makes size its end.
func (j *journal) reset(size int64, sum uint32) error {
	path := j.path()
	f, err := j.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		err = syncDir(j.fs, j.dir)
	}
	if err == nil && st.Size() < size {
		err = fmt.Errorf("%s has %d bytes, the state checkpoint needs %d: %w", path, st.Size(), size, ErrCorrupt)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	old := j.mu.file
	j.mu.file, j.mu.size, j.mu.buf, j.mu.durable = f, size, nil, -1
	j.sum = sum
	if old != nil && j.mu.refs[old] == 0 {
		return old.Close()
	}
	return nil
}

func (j *journal) Append(record []byte) {
	if len(record) == 0 || len(record) > maxJournalRecord {
		panic(fmt.Sprintf("journal record of %d bytes", len(record)))
	}
	sum := crcOf(record)
	j.mu.Lock()
	defer j.mu.Unlock()
	start := len(j.mu.buf)
	j.mu.buf = binary.LittleEndian.AppendUint32(j.mu.buf, uint32(len(record)))
	j.mu.buf = append(binary.LittleEndian.AppendUint32(j.mu.buf, sum), record...)
	j.sum = crc32.Update(j.sum, castagnoli, j.mu.buf[start:])
	j.mu.size += int64(journalFrameBytes + len(record))
	if len(j.mu.buf) >= journalBufferBytes {
		if err := j.flushLocked(); err != nil {
			j.fatal(fmt.Errorf("journal %s: %w", j.name, err))
		}
	}
}

func (j *journal) flushLocked() error {
	if len(j.mu.buf) == 0 {
		return nil
	}
	if j.mu.closed {
		return ErrStopped
	}
	if j.mu.err == nil {
		_, j.mu.err = j.mu.file.WriteAt(j.mu.buf, j.mu.size-int64(len(j.mu.buf)))
	}
	j.mu.buf = j.mu.buf[:0]
	return j.mu.err
}

func (j *journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.size
}

// sync makes everything appended so far durable. Any goroutine.
func (j *journal) sync() error {
	f, size, err := j.acquire()
	if err != nil {
		return err
	}
	j.mu.Lock()
	known := j.mu.durable == size && j.mu.file == f
	j.mu.Unlock()
	if known {
		return j.release(f)
	}
	err = f.SyncData()
	if err == nil {
		j.mu.Lock()
		if j.mu.file == f {
			j.mu.durable = size
		}
		j.mu.Unlock()
	}
	return errors.Join(err, j.release(f))
}

// acquire flushes the buffer and returns the file, kept open until release, and its size.
func (j *journal) acquire() (vfs.File, int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.closed {
		return nil, 0, ErrStopped
	}
	if err := errors.Join(j.mu.err, j.flushLocked()); err != nil {
		return nil, 0, err
	}
	j.mu.refs[j.mu.file]++
	return j.mu.file, j.mu.size, nil
}

func (j *journal) release(f vfs.File) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.refs[f]--; j.mu.refs[f] > 0 {
		return nil
	}
	delete(j.mu.refs, f)
	if f != j.mu.file || j.mu.closed {
		return f.Close()
	}
	return nil
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.closed {
		return nil
	}
	j.mu.closed = true
	if j.mu.refs[j.mu.file] > 0 {
		return nil
	}
	return j.mu.file.Close()
}

func (j *journal) Read(offset int64, fn func(offset, next int64, record []byte) bool) error {
	f, size, err := j.acquire()
	if err != nil {
		return fmt.Errorf("raftstore: journal %s: %w", j.name, err)
	}
	defer func() { _ = j.release(f) }()
	corrupt := func(what string) error {
		return fmt.Errorf("raftstore: journal %s: offset %d: %s: %w", j.name, offset, what, ErrCorrupt)
	}
	if offset < 0 || offset > size {
		return fmt.Errorf("raftstore: journal %s: offset %d is not within its %d bytes", j.name, offset, size)
	}
	r := journalReader{f: f, at: offset, end: size}
	for offset < size {
		head, err := r.next(journalFrameBytes)
		if err != nil {
			return corrupt(err.Error())
		}
		length, sum := int64(binary.LittleEndian.Uint32(head)), binary.LittleEndian.Uint32(head[4:])
		if length == 0 || length > maxJournalRecord || offset+journalFrameBytes+length > size {
			return corrupt(fmt.Sprintf("a record of %d bytes", length))
		}
		record, err := r.next(int(length))
		if err != nil {
			return corrupt(err.Error())
		}
		if crcOf(record) != sum {
			return corrupt("checksum mismatch")
		}
		next := offset + journalFrameBytes + length
		if !fn(offset, next, record) {
			return nil
		}
		offset = next
	}
	return nil
}

// journalReader reads ahead in large pieces.
type journalReader struct {
	f       vfs.File
	at, end int64 // of the file: what comes after buf
	buf     []byte
	start   int
}

// next returns the next n bytes, valid until the next call.
func (r *journalReader) next(n int) ([]byte, error) {
	if len(r.buf)-r.start < n {
		rest := copy(r.buf, r.buf[r.start:])
		want := int(min(int64(max(n-rest, journalReadBytes)), r.end-r.at))
		if rest+want < n {
			return nil, io.ErrUnexpectedEOF
		}
		if cap(r.buf) < rest+want {
			r.buf = append(make([]byte, 0, rest+want), r.buf[:rest]...)
		}
		r.buf, r.start = r.buf[:rest+want], 0
		if _, err := r.f.ReadAt(r.buf[rest:], r.at); err != nil {
			return nil, err
		}
		r.at += int64(want)
	}
	b := r.buf[r.start : r.start+n]
	r.start += n
	return b, nil
}
