package raftstore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A snapshot stream is the magic "QSNP", version u8, then chunks:
//
//	kind u8, raw length u32, packed length u32, CRC32C u32 of the 9 bytes before and of the packed bytes,
//	packed bytes (zstd; as they are if the kind's highest bit is set)
//
//	kind 1, once, first: shard u32, leader's term u64, base, checkpoint (encodeCheckpoint)
//	kind 2: pairs of state key and value, each with its length as uvarint, keys ascending, no pair split
//	kind 3: the journal from the base on, cut anywhere
//	kind 4, once, last: SHA-256 over kind, raw length and raw bytes of every chunk before
//
// Numbers are little-endian. The journal's length and CRC32C in the checkpoint must match too. The base is how much of
// the journal the receiver said that it has: length u64 and CRC32C u32, both 0 for nothing: the
// journal then begins at the checkpoint's floor. Version 1 has no base and packs every chunk.
const (
	streamMagic      = "QSNP"
	streamVersion    = 2
	chunkStored      = 0x80 // flag of a kind
	chunkHeadBytes   = 1 + 4 + 4 + 4
	chunkBytes       = 256 << 10
	maxChunkBytes    = 80 << 20 // one chunk holds at least one pair: the largest value and room for its key
	chunkHeader      = 1
	chunkState       = 2
	chunkJournal     = 3
	chunkEnd         = 4
	snapshotHeadSize = 4 + 8
	baseSize         = 8 + 4

	// What packing leaves above seven eighths of a chunk is not worth the receiver's time; then so many chunks of the
	// kind are not even tried.
	unpackable = 8
)

// codec is shared by all streams: an encoder's and a decoder's tables are large, and both are safe to share.
var codec = sync.OnceValue(func() (c struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}) {
	var err, derr error
	c.enc, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(maxSenders),
		zstd.WithWindowSize(chunkBytes), zstd.WithLowerEncoderMem(true))
	c.dec, derr = zstd.NewReader(nil, zstd.WithDecoderConcurrency(maxSenders), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxChunkBytes))
	if err != nil || derr != nil {
		panic(fmt.Sprint(err, derr)) // constant options
	}
	return c
})

// journalBase is the beginning of a journal, by length and CRC32C.
type journalBase struct {
	bytes int64
	sum   uint32
}

// snapshotHeader is the first chunk of a stream.
type snapshotHeader struct {
	shard      uint32
	term       uint64 // of the leader that sends it
	base       journalBase
	checkpoint checkpoint
}

// snapshotWriter writes a stream.
type snapshotWriter struct {
	w    io.Writer
	sum  hash.Hash
	raw  []byte
	kind byte
	out  []byte
	skip int // chunks that are not worth packing
}

func newSnapshotWriter(w io.Writer) (*snapshotWriter, error) {
	if _, err := w.Write(append([]byte(streamMagic), streamVersion)); err != nil {
		return nil, err
	}
	return &snapshotWriter{w: w, sum: sha256.New()}, nil
}

func (s *snapshotWriter) header(h snapshotHeader) error {
	c, err := encodeCheckpoint(h.checkpoint)
	if err != nil {
		return err
	}
	s.kind = chunkHeader
	s.raw = binary.LittleEndian.AppendUint32(s.raw[:0], h.shard)
	s.raw = binary.LittleEndian.AppendUint64(s.raw, h.term)
	s.raw = binary.LittleEndian.AppendUint64(s.raw, uint64(h.base.bytes))
	s.raw = binary.LittleEndian.AppendUint32(s.raw, h.base.sum)
	s.raw = append(s.raw, c...)
	defer func() { s.skip = 0 }() // that this one is too short to pack says nothing about others
	return s.flush()
}

func (s *snapshotWriter) put(key, value []byte) error {
	s.kind = chunkState
	s.raw = append(binary.AppendUvarint(s.raw, uint64(len(key))), key...)
	s.raw = append(binary.AppendUvarint(s.raw, uint64(len(value))), value...)
	if len(s.raw) < chunkBytes {
		return nil
	}
	return s.flush()
}

// journal comes after the last put.
func (s *snapshotWriter) journal(p []byte) error {
	if s.kind == chunkState {
		if err := s.flush(); err != nil {
			return err
		}
		s.skip = 0
	}
	s.kind = chunkJournal
	for len(p) > 0 {
		n := min(len(p), chunkBytes)
		s.raw = append(s.raw, p[:n]...)
		p = p[n:]
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshotWriter) end() error {
	if err := s.flush(); err != nil {
		return err
	}
	s.kind, s.raw = chunkEnd, s.sum.Sum(nil)
	return s.flush()
}

func (s *snapshotWriter) flush() error {
	if len(s.raw) == 0 {
		return nil
	}
	const head = chunkHeadBytes
	s.out = append(s.out[:0], make([]byte, head)...)
	if s.skip == 0 {
		s.out = codec().enc.EncodeAll(s.raw, s.out)
	}
	s.out[0] = s.kind
	if s.skip > 0 || len(s.out)-head > len(s.raw)/8*7 {
		if s.skip--; s.skip < 0 {
			s.skip = unpackable
		}
		s.out = append(s.out[:head], s.raw...)
		s.out[0] |= chunkStored
	}
	binary.LittleEndian.PutUint32(s.out[1:], uint32(len(s.raw)))
	binary.LittleEndian.PutUint32(s.out[5:], uint32(len(s.out)-head))
	s.sum.Write(s.out[:5])
	s.sum.Write(s.raw)
	crc := crcOf(s.out[:9])
	binary.LittleEndian.PutUint32(s.out[9:], crc32.Update(crc, castagnoli, s.out[head:]))
	s.raw = s.raw[:0]
	_, err := s.w.Write(s.out)
	runtime.Gosched() // a chunk is a millisecond of work: nobody should wait for ten of them
	return err
}

// snapshotSink takes in a stream. What it was given counts only when readSnapshot returns nil.
type snapshotSink interface {
	begin(snapshotHeader) error
	put(key, value []byte) error
	journal(p []byte) error
}

// snapshotReader checks a stream.
type snapshotReader struct {
	r          *bufio.Reader
	version    byte
	sum        hash.Hash
	packed     bytes.Buffer
	raw        []byte
	sink       snapshotSink
	header     *snapshotHeader
	inJournal  bool
	lastKey    []byte
	keys       int
	journalGot int64
	journalSum uint32
}

// readSnapshot reads one stream and no byte of what follows it, save for read-ahead.
func readSnapshot(r io.Reader, sink snapshotSink) error {
	s := &snapshotReader{r: bufio.NewReaderSize(r, chunkBytes), sum: sha256.New(), sink: sink}
	magic := make([]byte, len(streamMagic)+1)
	if _, err := io.ReadFull(s.r, magic); err != nil {
		return fmt.Errorf("snapshot: %w: %w", err, ErrMalformed)
	}
	if s.version = magic[len(streamMagic)]; string(magic[:len(streamMagic)]) != streamMagic || s.version < 1 || s.version > streamVersion {
		return fmt.Errorf("snapshot: not a stream of a known version: %w", ErrMalformed)
	}
	for {
		if end, err := s.chunk(); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		} else if end {
			return nil
		}
	}
}

func (s *snapshotReader) chunk() (end bool, err error) {
	var head [chunkHeadBytes]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return false, fmt.Errorf("cut short: %w: %w", err, ErrMalformed)
	}
	kind, rawLen, packedLen := head[0], binary.LittleEndian.Uint32(head[1:]), binary.LittleEndian.Uint32(head[5:])
	if rawLen == 0 || rawLen > maxChunkBytes || packedLen > rawLen+chunkBytes {
		return false, fmt.Errorf("chunk of %d bytes: %w", rawLen, ErrMalformed)
	}
	s.packed.Reset()
	if _, err := io.CopyN(&s.packed, s.r, int64(packedLen)); err != nil {
		return false, fmt.Errorf("cut short: %w: %w", err, ErrMalformed)
	}
	crc := crc32.Update(crcOf(head[:9]), castagnoli, s.packed.Bytes())
	if crc != binary.LittleEndian.Uint32(head[9:]) {
		return false, fmt.Errorf("chunk checksum mismatch: %w", ErrCorrupt)
	}
	if stored := kind&chunkStored != 0 && s.version > 1; stored {
		kind &^= chunkStored
		s.raw = append(s.raw[:0], s.packed.Bytes()...)
	} else {
		s.raw, err = codec().dec.DecodeAll(s.packed.Bytes(), s.raw[:0])
	}
	if err != nil || len(s.raw) != int(rawLen) {
		return false, fmt.Errorf("chunk does not unpack: %v: %w", err, ErrCorrupt)
	}
	runtime.Gosched() // as in flush
	if kind == chunkEnd {
		return true, s.end()
	}
	s.sum.Write(head[:5])
	s.sum.Write(s.raw)
	switch {
	case kind == chunkHeader && s.header == nil:
		return false, s.begin()
	case s.header == nil:
		return false, fmt.Errorf("no header: %w", ErrMalformed)
	case kind == chunkState && !s.inJournal:
		return false, s.pairs()
	case kind == chunkJournal:
		s.inJournal = true
		if s.journalGot += int64(len(s.raw)); s.journalGot > s.header.checkpoint.journalBytes {
			return false, fmt.Errorf("journal longer than announced: %w", ErrMalformed)
		}
		s.journalSum = crc32.Update(s.journalSum, castagnoli, s.raw)
		return false, s.sink.journal(s.raw)
	}
	return false, fmt.Errorf("chunk of kind %d out of place: %w", kind, ErrMalformed)
}

func (s *snapshotReader) begin() error {
	if len(s.raw) < snapshotHeadSize {
		return fmt.Errorf("header: %w", ErrMalformed)
	}
	h := snapshotHeader{shard: binary.LittleEndian.Uint32(s.raw), term: binary.LittleEndian.Uint64(s.raw[4:])}
	rest := s.raw[snapshotHeadSize:]
	if s.version > 1 {
		if len(rest) < baseSize {
			return fmt.Errorf("header: %w", ErrMalformed)
		}
		h.base = journalBase{int64(binary.LittleEndian.Uint64(rest)), binary.LittleEndian.Uint32(rest[8:])}
		rest = rest[baseSize:]
	}
	var err error
	if h.checkpoint, err = decodeCheckpoint(rest); err != nil {
		return err
	}
	if h.base.bytes < 0 || h.base.bytes > h.checkpoint.journalBytes {
		return fmt.Errorf("a journal from %d of %d bytes on: %w", h.base.bytes, h.checkpoint.journalBytes, ErrMalformed)
	}
	start := h.base
	if floor := h.checkpoint.floor; start.bytes == 0 {
		start = floor.journalBase
	} else if start.bytes < floor.bytes { // it would be in the receiver's way
		return fmt.Errorf("a journal from %d on, which begins at %d: %w", start.bytes, floor.bytes, ErrMalformed)
	}
	s.journalGot, s.journalSum = start.bytes, start.sum
	if h.term < h.checkpoint.term || h.term >= maxIndex || h.checkpoint.index >= maxIndex {
		return fmt.Errorf("header out of range: %w", ErrMalformed)
	}
	s.header = &h
	return s.sink.begin(h)
}

func (s *snapshotReader) pairs() error {
	rest := s.raw
	next := func() ([]byte, bool) {
		n, k := binary.Uvarint(rest)
		if k <= 0 || n > uint64(len(rest)-k) {
			return nil, false
		}
		b := rest[k : k+int(n)]
		rest = rest[k+int(n):]
		return b, true
	}
	for len(rest) > 0 {
		key, ok := next()
		if !ok {
			return fmt.Errorf("state key: %w", ErrMalformed)
		}
		value, ok := next()
		if !ok {
			return fmt.Errorf("state value: %w", ErrMalformed)
		}
		if s.keys > 0 && bytes.Compare(s.lastKey, key) >= 0 {
			return fmt.Errorf("state keys out of order: %w", ErrMalformed)
		}
		s.keys++
		s.lastKey = append(s.lastKey[:0], key...)
		if err := s.sink.put(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshotReader) end() error {
	if s.header == nil {
		return fmt.Errorf("no header: %w", ErrMalformed)
	}
	if !bytes.Equal(s.raw, s.sum.Sum(nil)) {
		return fmt.Errorf("checksum of the whole does not match: %w", ErrCorrupt)
	}
	c := s.header.checkpoint
	if s.journalGot != c.journalBytes || s.journalSum != c.journalSum {
		return fmt.Errorf("journal of %d bytes is not the one announced (%d): %w", s.journalGot, c.journalBytes, ErrCorrupt)
	}
	return nil
}
