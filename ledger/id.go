package ledger

import (
	"bytes"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
)

// TaskID names a task for ever: shard (16 bits), creation time in
// milliseconds since the Unix epoch (48 bits), random (64 bits), all
// big-endian. Byte order is shard, then creation order. Any node finds the
// shard of a task from its ID alone.
type TaskID [16]byte

const (
	taskIDPrefix   = 't'
	taskIDTextSize = 1 + 26 // 128 bits in base 32
)

var idText = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// ErrBadTaskID wraps what ParseTaskID refuses.
var ErrBadTaskID = errors.New("not a task ID")

// NewTaskID makes an ID from its parts. Only the low 16 bits of shard and the
// low 48 of nowMillis are kept.
func NewTaskID(shard uint32, nowMillis int64, random uint64) (id TaskID) {
	binary.BigEndian.PutUint64(id[:8], uint64(shard)<<48|uint64(nowMillis)&(1<<48-1))
	binary.BigEndian.PutUint64(id[8:], random)
	return id
}

// Shard is the shard that decides about the task.
func (id TaskID) Shard() uint32 { return uint32(binary.BigEndian.Uint16(id[:])) }

// Millis is the proposer's wall clock when it made the ID, a hint only.
func (id TaskID) Millis() int64 { return int64(binary.BigEndian.Uint64(id[:]) & (1<<48 - 1)) }

// IsZero says that id names no task.
func (id TaskID) IsZero() bool { return id == TaskID{} }

// Compare orders IDs as their bytes.
func (id TaskID) Compare(other TaskID) int { return bytes.Compare(id[:], other[:]) }

// String is "t" and 26 characters of lower-case base32hex.
func (id TaskID) String() string { return string(id.appendText(nil)) }

func (id TaskID) appendText(dst []byte) []byte {
	return idText.AppendEncode(append(dst, taskIDPrefix), id[:])
}

// ParseTaskID reads what String writes, and nothing else.
func ParseTaskID(s string) (TaskID, error) {
	var id TaskID
	if len(s) != taskIDTextSize || s[0] != taskIDPrefix {
		return id, fmt.Errorf("ledger: %q: %w", s, ErrBadTaskID)
	}
	n, err := idText.Decode(id[:], []byte(s[1:]))
	if err != nil || n != len(id) || id.String() != s { // the last character has two spare bits
		return TaskID{}, fmt.Errorf("ledger: %q: %w", s, ErrBadTaskID)
	}
	return id, nil
}

// KeyShard is the shard of the task that an idempotency key names by its ID;
// false for other keys. Such a key is decided there.
func KeyShard(key string) (uint32, bool) {
	if len(key) != taskIDTextSize { // most are no ID: no copy of them
		return 0, false
	}
	id, ok := idInKey([]byte(key))
	return id.Shard(), ok
}

func idInKey(key []byte) (TaskID, bool) {
	if len(key) != taskIDTextSize || key[0] != taskIDPrefix {
		return TaskID{}, false
	}
	id, err := ParseTaskID(string(key))
	return id, err == nil
}

// MarshalText implements encoding.TextMarshaler.
func (id TaskID) MarshalText() ([]byte, error) { return id.appendText(nil), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *TaskID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseTaskID(string(b))
	return err
}
