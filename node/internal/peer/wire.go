package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
)

// A frame, all integers little-endian:
//
//	u32 length of what follows the checksum
//	u32 CRC-32C of what follows it
//	u8  type
//	u8  flags (bit 0: the body is one s2 block)
//	    prefix, its length given by the type (prefixBytes)
//	    body
//
// The layout of a frame never changes; the protocol version in the hello covers
// types, prefixes and bodies.
const (
	frameHeaderBytes = 10
	maxPrefixBytes   = 13
	flagS2           = 1
)

const (
	typeHello    = 1
	typeWelcome  = 2
	typeRefuse   = 3
	typeRaft     = 4  // prefix: shard u32
	typeNotify   = 5  // prefix: kind u8
	typeRequest  = 6  // prefix: id u64, timeout in ms u32 (0 = none), method u8
	typeResponse = 7  // prefix: id u64, status u8
	typeCancel   = 8  // prefix: id u64
	typePing     = 9  // prefix: opaque u64
	typePong     = 10 // prefix: the ping's
	typeChunk    = 11
	typeEnd      = 12 // prefix: bytes u64, CRC-32C of them all u32
	typeVerdict  = 13 // prefix: status u8
	typeForm     = 14
	typeAnswer   = 15
	typeLast     = typeAnswer
)

var prefixBytes = [typeLast + 1]int{typeRaft: 4, typeNotify: 1, typeRequest: 13, typeResponse: 9,
	typeCancel: 8, typePing: 8, typePong: 8, typeEnd: 12, typeVerdict: 1}

// What became of a request or a snapshot.
const (
	statusOK         = 0
	statusError      = 1 // body: u8 length of the code, code, text
	statusOverloaded = 2
	statusLost       = 3 // the handler's context ended first: unknown
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frame that breaks one of these rules ends the connection.
var (
	errFrameLarge   = errors.New("frame over the limit")
	errFrameShort   = errors.New("frame shorter than its type needs")
	errFrameType    = errors.New("unknown frame type or flag")
	errFrameCRC     = errors.New("frame checksum does not match")
	errFrameS2      = errors.New("frame body does not decompress")
	errFrameUnasked = errors.New("frame out of place")
)

// frame is a decoded frame. Fields a type does not have are zero.
type frame struct {
	typ    uint8
	kind   uint8  // notify kind, method or status
	shard  uint32 // typeRaft
	millis uint32 // typeRequest
	crc    uint32 // typeEnd
	id     uint64 // call ID, ping token or length of a stream
	body   []byte
}

// prefix writes the fixed fields of f into p.
func (f *frame) prefix(p *[maxPrefixBytes]byte) []byte {
	switch f.typ {
	case typeRaft:
		binary.LittleEndian.PutUint32(p[:], f.shard)
	case typeNotify, typeVerdict:
		p[0] = f.kind
	case typeRequest:
		binary.LittleEndian.PutUint64(p[:], f.id)
		binary.LittleEndian.PutUint32(p[8:], f.millis)
		p[12] = f.kind
	case typeResponse:
		binary.LittleEndian.PutUint64(p[:], f.id)
		p[8] = f.kind
	case typeCancel, typePing, typePong:
		binary.LittleEndian.PutUint64(p[:], f.id)
	case typeEnd:
		binary.LittleEndian.PutUint64(p[:], f.id)
		binary.LittleEndian.PutUint32(p[8:], f.crc)
	}
	return p[:prefixBytes[f.typ]]
}

// parse is the inverse of prefix.
func (f *frame) parse(p []byte) {
	switch f.typ {
	case typeRaft:
		f.shard = binary.LittleEndian.Uint32(p)
	case typeNotify, typeVerdict:
		f.kind = p[0]
	case typeRequest:
		f.id, f.millis, f.kind = binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:]), p[12]
	case typeResponse:
		f.id, f.kind = binary.LittleEndian.Uint64(p), p[8]
	case typeCancel, typePing, typePong:
		f.id = binary.LittleEndian.Uint64(p)
	case typeEnd:
		f.id, f.crc = binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:])
	}
}

// head is the encoded front of a frame: header and prefix.
type head struct {
	b [frameHeaderBytes + maxPrefixBytes]byte
	n int
}

// seal computes the front of a frame whose body, compressed or not, is body.
func (f *frame) seal(h *head, flags uint8, body []byte) {
	var p [maxPrefixBytes]byte
	prefix := f.prefix(&p)
	h.n = frameHeaderBytes + copy(h.b[frameHeaderBytes:], prefix)
	h.b[8], h.b[9] = f.typ, flags
	crc := crc32.Update(0, castagnoli, h.b[8:h.n])
	binary.LittleEndian.PutUint32(h.b[0:], uint32(2+len(prefix)+len(body)))
	binary.LittleEndian.PutUint32(h.b[4:], crc32.Update(crc, castagnoli, body))
}

// appendFrame encodes f, uncompressed: handshakes, streams and tests. The hot
// path is outbox.put.
func appendFrame(dst []byte, f *frame) []byte {
	var h head
	f.seal(&h, 0, f.body)
	return append(append(dst, h.b[:h.n]...), f.body...)
}

var scratch = sync.Pool{New: func() any { return new([]byte) }}

// compress returns body as an s2 block in buf when that is at least an eighth
// smaller; otherwise body itself.
func compress(buf *[]byte, body []byte) (out []byte, flags uint8) {
	if n := s2.MaxEncodedLen(len(body)); n < 0 {
		return body, 0
	} else if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	enc := s2.Encode((*buf)[:cap(*buf)], body)
	if len(enc) > len(body)-len(body)/8 {
		return body, 0
	}
	return enc, flagS2
}

// frameReader reads frames and trusts nothing in them.
type frameReader struct {
	r      *bufio.Reader
	max    int    // bytes of a body, uncompressed
	packed []byte // of the last compressed body
}

// readBufferBytes is one read of the socket: at least a batch of 64 small frames.
const readBufferBytes = 64 << 10

func newFrameReader(r io.Reader, max int) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, readBufferBytes), max: max}
}

// next reads one frame into f. The body is the caller's. io.EOF means a clean
// end between frames.
func (fr *frameReader) next(f *frame) error {
	hdr, err := fr.r.Peek(frameHeaderBytes)
	if err != nil {
		if err == io.EOF && len(hdr) > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	size := int64(binary.LittleEndian.Uint32(hdr)) - 2
	want := binary.LittleEndian.Uint32(hdr[4:])
	typ, flags := hdr[8], hdr[9]
	crc := crc32.Update(0, castagnoli, hdr[8:])
	if typ == 0 || typ > typeLast || flags&^flagS2 != 0 {
		return fmt.Errorf("%w: type %d, flags %#x", errFrameType, typ, flags)
	}
	if size < int64(prefixBytes[typ]) {
		return fmt.Errorf("%w: type %d, %d bytes", errFrameShort, typ, size)
	}
	if size > int64(fr.max)+int64(prefixBytes[typ]) {
		return fmt.Errorf("%w: type %d, %d bytes, limit %d", errFrameLarge, typ, size, fr.max)
	}
	_, _ = fr.r.Discard(frameHeaderBytes) // peeked
	payload, err := fr.payload(int(size), flags)
	if err != nil {
		return err
	}
	if crc32.Update(crc, castagnoli, payload) != want {
		return fmt.Errorf("%w: type %d", errFrameCRC, typ)
	}
	*f = frame{typ: typ}
	f.parse(payload)
	f.body = payload[prefixBytes[typ]:]
	if flags&flagS2 != 0 {
		f.body, err = fr.unpack(f.body)
	}
	return err
}

// payload reads size bytes: into a buffer kept for the next when they are still
// to be decompressed, else into memory that will be the handler's.
func (fr *frameReader) payload(size int, flags uint8) ([]byte, error) {
	var b []byte
	if flags&flagS2 != 0 {
		if cap(fr.packed) < size {
			fr.packed = make([]byte, size)
		}
		b = fr.packed[:size]
	} else {
		b = make([]byte, size)
	}
	if _, err := io.ReadFull(fr.r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

func (fr *frameReader) unpack(b []byte) ([]byte, error) {
	n, err := s2.DecodedLen(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrameS2, err)
	}
	if n > fr.max {
		return nil, fmt.Errorf("%w: %d bytes decompressed, limit %d", errFrameLarge, n, fr.max)
	}
	out, err := s2.Decode(make([]byte, n), b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrameS2, err)
	}
	return out, nil
}

// appendError encodes an error for a statusError body.
func appendError(dst []byte, err *RemoteError) []byte {
	code := err.Code[:min(len(err.Code), MaxNameBytes)]
	dst = append(dst, byte(len(code)))
	return append(append(dst, code...), err.Text...)
}

// parseError is its inverse; what cannot be parsed is still an error.
func parseError(b []byte) *RemoteError {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return &RemoteError{Code: CodeInternal, Text: "unreadable error"}
	}
	n := 1 + int(b[0])
	return &RemoteError{Code: string(b[1:n]), Text: string(b[n:])}
}
