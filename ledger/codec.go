package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The codec of everything that is hashed, logged or checkpointed: fixed field
// order, unsigned varints, zigzag varints for times, byte strings prefixed with
// their length. The same value always gives the same bytes, and a decoder takes
// only what the encoder makes: a version it knows, no bytes left over, varints
// in their shortest form.

// ErrDecode is what every decoder's error wraps.
var ErrDecode = errors.New("ledger: malformed")

// MaxFieldBytes bounds one encoded field: the largest input a node may accept
// (4 MiB) with room to spare.
const MaxFieldBytes = 8 << 20

func putUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }
func putInt(b []byte, v int64) []byte   { return binary.AppendVarint(b, v) }

func putBytes[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func putBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// decoder reads fields; after the first mistake every read is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrDecode, what)
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("varint")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	if v > 1<<32-1 {
		d.fail("number over 32 bits")
		return 0
	}
	return uint32(v)
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("varint")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("flag")
	}
	return v == 1
}

// bytes is a view into the input; nil for an empty field.
func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) || n > MaxFieldBytes {
		d.fail("field length")
		return nil
	}
	if n == 0 {
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) id() (id TaskID) {
	copy(id[:], d.fixed(len(id)))
	return id
}

func (d *decoder) fixed(n int) []byte {
	if len(d.b) < n {
		d.fail("short")
		return make([]byte, n)
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// count reads the length of a list whose elements take at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail("list length")
		return 0
	}
	return int(n)
}

// end is the error of the whole, bytes left over included.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail("bytes left over")
	}
	return d.err
}
