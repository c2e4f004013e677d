package raftstore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A journal is a flat sequence of frames: length u32, CRC32C of the record u32, record; little-endian. What counts of
// it is the size in the state checkpoint plus what was appended since: bytes beyond are from entries that replay appends
// again, to the same place and with the same content, so that nothing needs to be cut off. It stands in segments, files
// of about JournalSegmentBytes that begin with a frame; offsets count from the first byte that ever was. The state
// checkpoint also says where it begins by now (floor).
const (
	journalFrameBytes  = 8
	maxJournalRecord   = 16 << 20
	journalBufferBytes = 256 << 10 // appended to the file at once
	journalReadBytes   = 128 << 10
)

// journal implements Journal. Append and reset are the shard goroutine's; everybody may read.
type journal struct {
	fs           vfs.FS
	dir, name    string
	shard        uint32
	segmentBytes int64
	fatal        func(error)
	mu           struct {
		sync.Mutex
		segs    []*segment // in order, at least one; replaced, never changed
		size    int64      // including buf
		rollAt  int64      // size at which the next segment begins
		durable int64      // up to here, since reset; -1: nothing is known
		newFile bool       // its directory entry may not be durable
		resets  int
		buf     []byte // not written yet: the last len(buf) bytes
		sum     uint32 // CRC32C of everything that was ever appended but what follows buf[summed]; in large pieces it costs a third
		summed  int
		closed  bool
		err     error // the first failed write: there is a hole since, so nothing may become durable

		floor journalFloor // what the next state checkpoint says
		kept  journalFloor // what the last one said
		pins  int
	}
}

func openJournal(fs vfs.FS, dir string, shard uint32, c checkpoint, segmentBytes int64, fatal func(error)) (*journal, error) {
	j := &journal{fs: fs, dir: dir, name: journalName(shard), shard: shard, segmentBytes: segmentBytes, fatal: fatal}
	return j, j.reset(c)
}

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

// reset opens the files anew and takes beginning and end from a state checkpoint. Files that do not belong to it are
// deleted.
func (j *journal) reset(c checkpoint) error {
	used, left, err := openSegments(j.fs, j.dir, j.shard, c.extent())
	if err != nil {
		return fmt.Errorf("journal %s: %w", j.name, err)
	}
	if err := errors.Join(removeSegments(j.fs, left), syncDir(j.fs, j.dir)); err != nil {
		return errors.Join(err, closeSegments(used))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range j.mu.segs {
		errs = append(errs, j.letGoLocked(s))
	}
	for _, s := range used[:len(used)-1] {
		s.durable = true // or the state checkpoint would not be there
	}
	j.mu.segs, j.mu.size, j.mu.buf, j.mu.durable, j.mu.newFile = used, c.journalBytes, nil, -1, false
	j.mu.floor, j.mu.kept, j.mu.rollAt = c.floor, c.floor, used[len(used)-1].start+j.segmentBytes
	j.mu.resets++
	j.mu.sum, j.mu.summed = c.journalSum, 0
	return errors.Join(errs...)
}

func (j *journal) Append(record []byte) {
	if len(record) == 0 || len(record) > maxJournalRecord {
		panic(fmt.Sprintf("journal record of %d bytes", len(record)))
	}
	sum := crcOf(record)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.buf = binary.LittleEndian.AppendUint32(j.mu.buf, uint32(len(record)))
	j.mu.buf = append(binary.LittleEndian.AppendUint32(j.mu.buf, sum), record...)
	j.mu.size += int64(journalFrameBytes + len(record))
	if full := j.mu.size >= j.mu.rollAt; full || len(j.mu.buf) >= journalBufferBytes {
		if err := j.flushLocked(); err != nil {
			j.fatal(fmt.Errorf("journal %s: %w", j.name, err))
		} else if full {
			_ = j.rollLocked() // tried again
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
		last := j.mu.segs[len(j.mu.segs)-1]
		_, j.mu.err = last.file.WriteAt(j.mu.buf, j.mu.size-int64(len(j.mu.buf))-last.start)
	}
	j.sumLocked()
	j.mu.buf, j.mu.summed = j.mu.buf[:0], 0
	return j.mu.err
}

func (j *journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.size
}

// end is the size, and the CRC32C of everything up to there.
func (j *journal) end() (size int64, sum uint32) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.size, j.sumLocked()
}

func (j *journal) sumLocked() uint32 {
	j.mu.sum = crc32.Update(j.mu.sum, castagnoli, j.mu.buf[j.mu.summed:])
	j.mu.summed = len(j.mu.buf)
	return j.mu.sum
}

// sync makes everything appended so far durable. Any goroutine.
func (j *journal) sync() error {
	segs, size, err := j.acquire()
	if err != nil {
		return err
	}
	j.mu.Lock()
	known, resets, newFile := j.mu.durable == size, j.mu.resets, j.mu.newFile
	todo := make([]*segment, 0, 2)
	for _, s := range segs {
		if !s.durable {
			todo = append(todo, s)
		}
	}
	j.mu.Unlock()
	if known {
		return j.release(segs)
	}
	for _, s := range todo {
		err = errors.Join(err, s.file.SyncData())
	}
	if newFile {
		err = errors.Join(err, syncDir(j.fs, j.dir))
	}
	if err == nil {
		j.mu.Lock()
		if j.mu.resets == resets {
			j.mu.durable = size
			for _, s := range todo {
				s.durable = s != segs[len(segs)-1]
			}
			j.mu.newFile = j.mu.newFile && j.mu.segs[len(j.mu.segs)-1] != segs[len(segs)-1]
		}
		j.mu.Unlock()
	}
	return errors.Join(err, j.release(segs))
}

// acquire flushes the buffer and returns the files, kept open until release, and the size.
func (j *journal) acquire() ([]*segment, int64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.readableLocked(); err != nil {
		return nil, 0, err
	}
	for _, s := range j.mu.segs {
		s.refs++
	}
	return j.mu.segs, j.mu.size, nil
}

func (j *journal) readableLocked() error {
	if j.mu.closed {
		return ErrStopped
	}
	return errors.Join(j.mu.err, j.flushLocked())
}

// acquireAt is acquire for the file that offset is in, with where it ends.
func (j *journal) acquireAt(offset int64) (s *segment, end int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.readableLocked(); err != nil {
		return nil, 0, err
	}
	segs := j.mu.segs
	switch {
	case offset < 0 || offset > j.mu.size:
		return nil, 0, fmt.Errorf("offset %d is not within its %d bytes", offset, j.mu.size)
	case offset < segs[0].start:
		return nil, 0, fmt.Errorf("offset %d: it begins at %d: %w", offset, segs[0].start, ErrTrimmed)
	}
	i, found := slices.BinarySearchFunc(segs, offset, func(s *segment, at int64) int { return cmp.Compare(s.start, at) })
	if !found {
		i--
	}
	end = j.mu.size
	if i+1 < len(segs) {
		end = segs[i+1].start
	}
	segs[i].refs++
	return segs[i], end, nil
}

func (j *journal) release(segs []*segment) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range segs {
		if s.refs--; s.refs == 0 && (s.gone || j.mu.closed) {
			errs = append(errs, s.file.Close())
		}
	}
	return errors.Join(errs...)
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mu.closed {
		return nil
	}
	j.mu.closed = true
	var errs []error
	for _, s := range j.mu.segs {
		if s.refs == 0 {
			errs = append(errs, s.file.Close())
		}
	}
	return errors.Join(errs...)
}

func (j *journal) Read(offset int64, fn func(offset, next int64, record []byte) bool) error {
	limit := j.Size()
	for more := true; more; {
		s, end, err := j.acquireAt(offset)
		if err != nil {
			return fmt.Errorf("raftstore: journal %s: %w", j.name, err)
		}
		end = min(end, max(limit, offset)) // what comes meanwhile is for another call
		if offset == end {
			return j.release([]*segment{s})
		}
		offset, more, err = j.readSegment(s, offset, end, fn)
		if err = errors.Join(err, j.release([]*segment{s})); err != nil {
			return err
		}
	}
	return nil
}

// readSegment reads the records of one file up to end, and says where and whether to go on.
func (j *journal) readSegment(s *segment, offset, end int64, fn func(offset, next int64, record []byte) bool) (int64, bool, error) {
	corrupt := func(what string) (int64, bool, error) {
		return offset, false, fmt.Errorf("raftstore: journal %s: offset %d: %s: %w", j.name, offset, what, ErrCorrupt)
	}
	r := journalReader{f: s.file, at: offset - s.start, end: end - s.start}
	for offset < end {
		head, err := r.next(journalFrameBytes)
		if err != nil {
			return corrupt(err.Error())
		}
		length, sum := int64(binary.LittleEndian.Uint32(head)), binary.LittleEndian.Uint32(head[4:])
		if length == 0 || length > maxJournalRecord || offset+journalFrameBytes+length > end {
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
			return next, false, nil
		}
		offset = next
	}
	return offset, true, nil
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
