package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The primitives of every encoding here. A number is an unsigned varint
// (LEB128, at most 10 bytes) in its shortest form; a signed number is zigzag
// coded first; text and byte strings are their length as a number and their
// bytes. Each value has exactly one encoding, and anything else is refused.

// ErrMalformed wraps what a decoder refuses.
var ErrMalformed = errors.New("malformed")

func appendUint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }
func appendInt(dst []byte, v int64) []byte   { return binary.AppendVarint(dst, v) }

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// appendHash writes an optional digest: length 0 or 32, and the bytes.
func appendHash(dst []byte, h *[32]byte) []byte {
	if *h == ([32]byte{}) {
		return append(dst, 0)
	}
	return append(append(dst, 32), h[:]...)
}

// reader takes values off the front of b. The first failure sticks: callers
// check once, at the end.
type reader struct {
	b     []byte
	size  int // of b at the beginning
	err   error
	alias bool   // byte strings may point into b
	names *names // where text is interned; nil: copied
}

func newReader(b []byte) reader { return reader{b: b, size: len(b)} }

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("byte %d: %s: %w", r.size-len(r.b), what, ErrMalformed)
	}
	r.b = nil
}

func (r *reader) u8() uint8 {
	if len(r.b) == 0 {
		r.fail("truncated")
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) bool() bool {
	v := r.u8()
	if v > 1 {
		r.fail("not a boolean")
	}
	return v == 1
}

func (r *reader) uint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 { // the common case, without a call
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("number truncated or too long")
		return 0
	}
	if r.b[n-1] == 0 {
		r.fail("number not in its shortest form")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uint()
	if v > 1<<32-1 {
		r.fail("number over 32 bits")
	}
	return uint32(v)
}

func (r *reader) int() int64 {
	v := r.uint()
	return int64(v>>1) ^ -int64(v&1)
}

// fixed copies len(dst) bytes.
func (r *reader) fixed(dst []byte) {
	if len(r.b) < len(dst) {
		r.fail("truncated")
		return
	}
	copy(dst, r.b)
	r.b = r.b[len(dst):]
}

// view is a byte string inside b.
func (r *reader) view() []byte {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail("length runs past the end")
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// bytes is a byte string, nil when empty.
func (r *reader) bytes() []byte {
	v := r.view()
	if len(v) == 0 {
		return nil
	}
	if r.alias {
		return v
	}
	return append([]byte(nil), v...)
}

// text is a string that is not worth interning.
func (r *reader) text() string { return string(r.view()) }

// string is a name: one of few, or short-lived.
func (r *reader) string() string {
	v := r.view()
	if r.names != nil {
		return r.names.intern(v)
	}
	return string(v)
}

func (r *reader) hash(h *[32]byte) {
	switch r.u8() {
	case 0:
		*h = [32]byte{}
	case 32:
		if r.fixed(h[:]); *h == ([32]byte{}) {
			r.fail("empty digest")
		}
	default:
		r.fail("digest is not 32 bytes")
	}
}

// count reads how many items follow, each at least min bytes long.
func (r *reader) count(min int) int {
	n := r.uint()
	if n > uint64(len(r.b)/min) {
		r.fail("count runs past the end")
		return 0
	}
	return int(n)
}

// end fails unless everything was read.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail("trailing bytes")
	}
	return r.err
}
