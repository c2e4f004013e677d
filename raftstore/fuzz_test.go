package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func FuzzEntryPayload(f *testing.F) {
	f.Add(packEntry(entryHeader{1, 2, 3}, []Proposal{{Command: []byte("a")}}))
	f.Add(packEntry(entryHeader{-1, 1 << 62, 1}, []Proposal{{}, {Command: bytes.Repeat([]byte{1}, 300)}}))
	f.Add([]byte{entryVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, commands, err := unpackEntry(b, nil)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		var ps []Proposal
		for _, c := range commands {
			ps = append(ps, Proposal{Command: c})
		}
		if again := packEntry(h, ps); !bytes.Equal(again, b) {
			t.Fatalf("%x unpacks and packs to %x", b, again)
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range goodMessages() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(1, 2, b)
		if err == nil && (m.GetFrom() != 2 || m.GetTo() != 1 || m.GetTerm() == 0) {
			t.Fatalf("accepted %v", m)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	c, err := encodeCheckpoint(checkpoint{index: 5, term: 2, conf: &pb.ConfState{Voters: []uint64{1, 2}}, machine: []byte("m")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c)
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = decodeCheckpoint(b) })
}

// memorySink collects a stream.
type memorySink struct {
	h        snapshotHeader
	keys     [][]byte
	values   [][]byte
	journals []byte
}

func (m *memorySink) begin(h snapshotHeader) error { m.h = h; return nil }
func (m *memorySink) put(k, v []byte) error {
	m.keys, m.values = append(m.keys, slices.Clone(k)), append(m.values, slices.Clone(v))
	return nil
}
func (m *memorySink) journal(p []byte) error { m.journals = append(m.journals, p...); return nil }

func (m *memorySink) stream(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newSnapshotWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	err = w.header(m.h)
	for i := range m.keys {
		err = errors.Join(err, w.put(m.keys[i], m.values[i]))
	}
	if err = errors.Join(err, w.journal(m.journals), w.end()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sampleSnapshot(pairs int) *memorySink {
	m := &memorySink{journals: bytes.Repeat([]byte("journal "), pairs)}
	m.h = snapshotHeader{shard: 3, term: 7, checkpoint: checkpoint{
		index: 9, term: 6, conf: &pb.ConfState{Voters: []uint64{1, 2, 3}}, machine: []byte("meta"),
		journalBytes: int64(len(m.journals)), journalSum: crcOf(m.journals),
	}}
	for i := range pairs {
		m.keys = append(m.keys, []byte{byte(i >> 8), byte(i)})
		m.values = append(m.values, bytes.Repeat([]byte{byte(i)}, i%900))
	}
	return m
}

func TestSnapshotStream(t *testing.T) {
	for _, pairs := range []int{0, 1, 3000} {
		want := sampleSnapshot(pairs)
		b := want.stream(t)
		got := &memorySink{}
		if err := readSnapshot(bytes.NewReader(append(b, "what follows"...)), got); err != nil {
			t.Fatal(err)
		}
		if len(got.keys) != pairs || !bytes.Equal(got.journals, want.journals) || got.h.checkpoint.index != 9 ||
			got.h.term != 7 || got.h.shard != 3 || string(got.h.checkpoint.machine) != "meta" {
			t.Fatalf("%d pairs: read %d, header %+v", pairs, len(got.keys), got.h)
		}
		// Every cut and every flipped bit is noticed.
		step := max(1, len(b)/100)
		for i := 0; i < len(b); i += step {
			if err := readSnapshot(bytes.NewReader(b[:i]), &memorySink{}); err == nil {
				t.Fatalf("%d pairs: accepted the first %d of %d bytes", pairs, i, len(b))
			}
			bad := slices.Clone(b)
			bad[i] ^= 1 << (i % 8)
			if err := readSnapshot(bytes.NewReader(bad), &memorySink{}); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("%d pairs: flipped byte %d: %v", pairs, i, err)
			}
		}
	}
	wrong := sampleSnapshot(2)
	wrong.h.checkpoint.journalSum++
	if err := readSnapshot(bytes.NewReader(wrong.stream(t)), &memorySink{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("another journal than announced: %v", err)
	}
	wrong = sampleSnapshot(3)
	wrong.keys[0], wrong.keys[1] = wrong.keys[1], wrong.keys[0]
	if err := readSnapshot(bytes.NewReader(wrong.stream(t)), &memorySink{}); !errors.Is(err, ErrMalformed) {
		t.Fatalf("keys out of order: %v", err)
	}
}

// TestOldSnapshotStream: streams of version 1 are read for ever, backups are made of them.
func TestOldSnapshotStream(t *testing.T) {
	b, err := os.ReadFile("testdata/snapshot_v1.bin")
	if err != nil {
		t.Fatal(err)
	}
	m := &memorySink{}
	if err := readSnapshot(bytes.NewReader(b), m); err != nil {
		t.Fatal(err)
	}
	c := m.h.checkpoint
	if m.h.shard != 2 || m.h.term != 5 || m.h.base.bytes != 0 || c.index != 7 || c.term != 3 || string(c.machine) != "meta" ||
		len(m.keys) != 2 || string(m.values[1]) != strings.Repeat("22", 50) || string(m.journals) != "journal bytes, journal bytes" {
		t.Errorf("read as %+v, %q, %q", m.h, m.keys, m.journals)
	}
}

// TestStoredChunks: what does not pack is sent as it is, and what does is packed.
func TestStoredChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, packs := range []bool{true, false} {
		m := sampleSnapshot(0)
		m.journals = make([]byte, 20*chunkBytes)
		for i := range m.journals {
			if !packs || i%64 == 0 {
				m.journals[i] = byte(r.Uint32())
			}
		}
		m.h.checkpoint.journalBytes, m.h.checkpoint.journalSum = int64(len(m.journals)), crcOf(m.journals)
		b := m.stream(t)
		if small := len(b) < len(m.journals)/2; small != packs || len(b) > len(m.journals)+1000 {
			t.Errorf("a journal of %d bytes became a stream of %d (packs: %v)", len(m.journals), len(b), packs)
		}
		got := &memorySink{}
		if err := readSnapshot(bytes.NewReader(b), got); err != nil || !bytes.Equal(got.journals, m.journals) {
			t.Errorf("read back: %v", err)
		}
	}
}

// TestJournalBase: a stream may leave out what the receiver has; the sum of the whole still counts.
func TestJournalBase(t *testing.T) {
	m := sampleSnapshot(5)
	all := m.journals
	m.h.base = journalBase{10, crcOf(all[:10])}
	m.journals = all[10:]
	got := &memorySink{}
	if err := readSnapshot(bytes.NewReader(m.stream(t)), got); err != nil || got.h.base != m.h.base {
		t.Fatalf("%+v, %v", got.h, err)
	}
	m.h.base.sum++
	if err := readSnapshot(bytes.NewReader(m.stream(t)), &memorySink{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another beginning: %v", err)
	}
	m.h.base = journalBase{int64(len(all)) + 1, 0}
	if err := readSnapshot(bytes.NewReader(m.stream(t)), &memorySink{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a beginning longer than the journal: %v", err)
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limiter{perSecond: 1000}
		start := time.Now()
		for range 11 {
			if err := l.wait(t.Context(), 100); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("1,100 bytes at 1,000 a second took %v: the last begins after one", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.wait(ctx, 1); err == nil {
			t.Error("a wait whose context ended came through")
		}
		if err := (&limiter{perSecond: -1}).wait(t.Context(), 1<<40); err != nil {
			t.Error(err)
		}
	})
}

func FuzzSnapshotStream(f *testing.F) {
	f.Add(sampleSnapshot(0).stream(f))
	f.Add(sampleSnapshot(5).stream(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := &memorySink{}
		if err := readSnapshot(bytes.NewReader(b), got); err != nil {
			return
		}
		again := &memorySink{}
		if err := readSnapshot(bytes.NewReader(got.stream(t)), again); err != nil || len(again.keys) != len(got.keys) {
			t.Fatalf("accepted, but does not survive being written again: %v", err)
		}
	})
}

func FuzzNote(f *testing.F) {
	f.Add(encodeDigest(digestPoint{3 * digestEvery, 1 << 60}))
	f.Add([]byte{noteByte, noteDisk, diskLow | diskStall})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeDigest(b); err == nil && !bytes.Equal(encodeDigest(p), b) {
			t.Fatalf("%x is taken for %+v", b, p)
		} else if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		if flags, err := decodeDiskNote(b); err == nil && (len(b) != 3 || flags != b[2]) {
			t.Fatalf("%x is taken for flags %x", b, flags)
		}
	})
}

// FuzzMarks: a marks file is read as it was written, or refused; never half.
func FuzzMarks(f *testing.F) {
	fs := vfs.NewMem()
	m := newMarks(fs, "", 7)
	m.raise(0, mark{3, 2, 1000})
	m.raise(9, mark{4, 0, 1})
	if err := m.flush(); err != nil {
		f.Fatal(err)
	}
	good, err := readFile(fs, "marks")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-4], true)
	f.Add(good, false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed { // behind the checksum, where plain fuzzing does not get
			b = binary.LittleEndian.AppendUint32(bytes.Clone(b), crcOf(b))
		}
		fs := vfs.NewMem()
		if err := replaceFile(fs, "", "marks", b); err != nil {
			t.Fatal(err)
		}
		m, err := readMarks(fs, "", 7)
		if err != nil {
			return
		}
		if err := m.write(); err != nil {
			t.Fatal(err)
		}
		again, err := readMarks(fs, "", 7)
		if err != nil || !maps.Equal(again.mu.now, m.mu.now) {
			t.Fatalf("%v, then %v: %v", m.mu.now, again, err)
		}
	})
}

// FuzzJournal: every record that comes out of a journal went in; what else is in the file is an error.
func FuzzJournal(f *testing.F) {
	f.Add([]byte("first"), []byte("second"), 3, byte(1))
	f.Add([]byte("x"), bytes.Repeat([]byte("y"), 300), 12, byte(0x80))
	f.Fuzz(func(t *testing.T, first, second []byte, at int, flip byte) {
		if len(first) == 0 || len(second) == 0 {
			return
		}
		fs := vfs.NewMem()
		j, err := openJournal(fs, "", 0, checkpoint{}, 1<<30, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		defer j.close()
		j.Append(first)
		j.Append(second)
		if err := j.sync(); err != nil {
			t.Fatal(err)
		}
		size := j.Size()
		if flip != 0 && at >= 0 && int64(at) < size {
			damage(t, fs, journalName(0), int64(at), flip)
		} else {
			flip = 0
		}
		var got [][]byte
		err = j.Read(0, func(_, _ int64, record []byte) bool { got = append(got, bytes.Clone(record)); return true })
		for i, r := range got {
			if want := [][]byte{first, second}[i]; !bytes.Equal(r, want) {
				t.Fatalf("record %d is %x, written was %x", i, r, want)
			}
		}
		if (flip == 0) != (err == nil && len(got) == 2) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("flip %x at %d of %d: %d records, %v", flip, at, size, len(got), err)
		}
	})
}

func damage(t *testing.T, fs vfs.FS, name string, at int64, flip byte) {
	t.Helper()
	file, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	b[0] ^= flip
	if _, err := file.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
