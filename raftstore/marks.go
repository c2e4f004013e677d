package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The marks file remembers, outside Pebble's write-ahead log, how far each shard's log is known to reach. Damage at
// the end of a write-ahead log looks like a crash in the middle of a write and is cut off silently; a replica that
// lost its last vote or entries that way must not take part again.
//
//	magic "QMRK", version u8, raft ID u64, n u32, n × { shard u32, term, vote, last index u64 }, CRC32C u32
//
// little-endian, replaced by rename. The file trails the log by up to marksInterval, and is lowered before a log is
// shortened on purpose.
const (
	marksMagic   = "QMRK"
	marksVersion = 1
	markBytes    = 4 + 8 + 8 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type mark struct{ term, vote, last uint64 }

type marks struct {
	fs     vfs.FS
	dir    string
	raftID uint64
	mu     struct {
		sync.Mutex
		now     map[uint32]mark // what is durable in the log
		written map[uint32]mark // what the file says
		dirty   bool
	}
	file sync.Mutex // held while the file is written; taken before mu
}

func newMarks(fs vfs.FS, dir string, raftID uint64) *marks {
	m := &marks{fs: fs, dir: dir, raftID: raftID}
	m.mu.now, m.mu.written = map[uint32]mark{}, map[uint32]mark{}
	return m
}

// readMarks reads the file; it is an error if there is none.
func readMarks(fs vfs.FS, dir string, raftID uint64) (*marks, error) {
	name := fs.PathJoin(dir, "marks")
	b, err := readFile(fs, name)
	if err != nil {
		return nil, err
	}
	bad := func(what string) error { return fmt.Errorf("%s: %s: %w", name, what, ErrCorrupt) }
	const head = 4 + 1 + 8 + 4
	if len(b) < head+4 || string(b[:4]) != marksMagic {
		return nil, bad("not a marks file")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crcOf(body) != sum {
		return nil, bad("checksum mismatch")
	}
	if body[4] != marksVersion {
		return nil, fmt.Errorf("%s: version %d is not known", name, body[4])
	}
	if id := binary.LittleEndian.Uint64(body[5:]); id != raftID {
		return nil, fmt.Errorf("%s: written by raft ID %x, this is %x", name, id, raftID)
	}
	n, rest := binary.LittleEndian.Uint32(body[13:]), body[head:]
	if uint64(len(rest)) != uint64(n)*markBytes {
		return nil, bad("wrong length")
	}
	m := newMarks(fs, dir, raftID)
	for ; len(rest) > 0; rest = rest[markBytes:] {
		m.mu.now[binary.LittleEndian.Uint32(rest)] = mark{
			term: binary.LittleEndian.Uint64(rest[4:]),
			vote: binary.LittleEndian.Uint64(rest[12:]),
			last: binary.LittleEndian.Uint64(rest[20:]),
		}
	}
	for s, v := range m.mu.now {
		m.mu.written[s] = v
	}
	return m, nil
}

// check compares a log as found at open with its mark.
func (m *marks) check(shard uint32, found mark) error {
	m.mu.Lock()
	want, ok := m.mu.now[shard]
	m.mu.Unlock()
	switch {
	case !ok:
		return nil
	case found.term < want.term:
		return fmt.Errorf("the log is at term %d but was at %d: it lost its end: %w", found.term, want.term, ErrCorrupt)
	case found.term == want.term && want.vote != 0 && found.vote != want.vote:
		return fmt.Errorf("the log has a vote for %x in term %d but it was for %x: it lost its end: %w", found.vote, found.term, want.vote, ErrCorrupt)
	case found.last < want.last:
		return fmt.Errorf("the log ends at %d but reached %d: it lost its end: %w", found.last, want.last, ErrCorrupt)
	}
	return nil
}

// raise notes what is durable now. The file follows later.
func (m *marks) raise(shard uint32, v mark) {
	m.mu.Lock()
	m.mu.now[shard] = v
	m.mu.dirty = true
	m.mu.Unlock()
}

// lower makes the file say no more than last, before the log is shortened to it.
func (m *marks) lower(shard uint32, last uint64) error {
	m.file.Lock()
	defer m.file.Unlock()
	m.mu.Lock()
	v := m.mu.now[shard]
	v.last = min(v.last, last)
	m.mu.now[shard] = v
	needed := m.mu.written[shard].last > last
	m.mu.Unlock()
	if !needed {
		return nil
	}
	return m.write()
}

// forget drops a shard whose replica is about to be put away.
func (m *marks) forget(shard uint32) error {
	m.file.Lock()
	defer m.file.Unlock()
	m.mu.Lock()
	delete(m.mu.now, shard)
	m.mu.Unlock()
	return m.write()
}

// flush writes the file if something changed.
func (m *marks) flush() error {
	m.file.Lock()
	defer m.file.Unlock()
	m.mu.Lock()
	dirty := m.mu.dirty
	m.mu.Unlock()
	if !dirty {
		return nil
	}
	return m.write()
}

func (m *marks) write() error {
	m.mu.Lock()
	b := append([]byte(marksMagic), marksVersion)
	b = binary.LittleEndian.AppendUint64(b, m.raftID)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.mu.now)))
	shards := make([]uint32, 0, len(m.mu.now))
	for s := range m.mu.now {
		shards = append(shards, s)
	}
	slices.Sort(shards)
	written := make(map[uint32]mark, len(shards))
	for _, s := range shards {
		v := m.mu.now[s]
		written[s] = v
		b = binary.LittleEndian.AppendUint32(b, s)
		b = append(b, u64s(v.term, v.vote, v.last)...)
	}
	m.mu.dirty = false
	m.mu.Unlock()
	b = binary.LittleEndian.AppendUint32(b, crcOf(b))
	if err := replaceFile(m.fs, m.dir, "marks", b); err != nil {
		return err
	}
	m.mu.Lock()
	m.mu.written = written
	m.mu.Unlock()
	return nil
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// replaceFile writes dir/name so that after a crash either the old or the new content is there.
func replaceFile(fs vfs.FS, dir, name string, content []byte) error {
	tmp := fs.PathJoin(dir, name+".new")
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(tmp, fs.PathJoin(dir, name)); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
