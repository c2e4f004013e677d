package ledger

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
)

// TaskID names a task and the shard that decides about it: shard u16, creation
// millisecond u48, random u64, big-endian, so that IDs of a shard sort by age.
type TaskID [16]byte

var taskIDText = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewTaskID composes an ID; random makes those of one millisecond differ.
func NewTaskID(shard uint32, millis int64, random uint64) TaskID {
	var id TaskID
	binary.BigEndian.PutUint64(id[:8], uint64(shard)<<48|uint64(millis)&(1<<48-1))
	binary.BigEndian.PutUint64(id[8:], random)
	return id
}

// ErrTaskID is what ParseTaskID wraps.
var ErrTaskID = errors.New("ledger: not a task ID")

// ParseTaskID reads what String wrote, and nothing else.
func ParseTaskID(s string) (TaskID, error) {
	var id TaskID
	if len(s) != 27 || s[0] != 't' {
		return id, fmt.Errorf("%w: %q", ErrTaskID, s)
	}
	b, err := taskIDText.DecodeString(s[1:])
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%w: %q", ErrTaskID, s)
	}
	copy(id[:], b)
	if id.String() != s { // unused bits of the last character
		return TaskID{}, fmt.Errorf("%w: %q", ErrTaskID, s)
	}
	return id, nil
}

// String is "t" and 26 characters of lower-case base32hex.
func (id TaskID) String() string { return "t" + taskIDText.EncodeToString(id[:]) }

// Shard is the shard that decides about the task.
func (id TaskID) Shard() uint32 { return uint32(binary.BigEndian.Uint16(id[:2])) }

// IsZero says that no task is meant.
func (id TaskID) IsZero() bool { return id == TaskID{} }

// MarshalText renders String; "" for the zero ID.
func (id TaskID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText reads MarshalText.
func (id *TaskID) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*id = TaskID{}
		return nil
	}
	*id, err = ParseTaskID(string(b))
	return err
}
