package raftstore

import (
	"encoding/binary"
	"fmt"
)

// The payload of a normal log entry:
//
//	version  u8      entryVersion
//	time     u64 LE  milliseconds since the Unix epoch, the proposer's clock (two's complement)
//	proposer u64 LE  raft ID
//	seq      u64 LE  counts the proposer's entries since it started; for people reading logs
//	n        uvarint number of commands, 1..maxCommandsPerEntry
//	n × { length uvarint, bytes }
//
// and nothing after it. An empty payload is raft's own entry, appended by a new leader.
const (
	entryVersion        = 1
	entryHeaderBytes    = 1 + 8 + 8 + 8
	maxCommandsPerEntry = 4096
)

// entryHeader is the part of a payload before its commands.
type entryHeader struct {
	timeMillis    int64
	proposer, seq uint64
}

// packEntry copies every command once, into a buffer of exactly the size needed.
func packEntry(h entryHeader, proposals []Proposal) []byte {
	size := entryHeaderBytes + uvarintLen(uint64(len(proposals)))
	for i := range proposals {
		n := len(proposals[i].Command)
		size += uvarintLen(uint64(n)) + n
	}
	b := make([]byte, 0, size)
	b = append(b, entryVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.timeMillis))
	b = binary.LittleEndian.AppendUint64(b, h.proposer)
	b = binary.LittleEndian.AppendUint64(b, h.seq)
	b = binary.AppendUvarint(b, uint64(len(proposals)))
	for i := range proposals {
		b = binary.AppendUvarint(b, uint64(len(proposals[i].Command)))
		b = append(b, proposals[i].Command...)
	}
	return b
}

// unpackEntry appends the commands, which alias payload, to dst[:0].
func unpackEntry(payload []byte, dst [][]byte) (entryHeader, [][]byte, error) {
	var h entryHeader
	dst = dst[:0]
	if len(payload) < entryHeaderBytes {
		return h, dst, fmt.Errorf("entry of %d bytes: %w", len(payload), ErrMalformed)
	}
	if payload[0] != entryVersion {
		return h, dst, fmt.Errorf("entry version %d: %w", payload[0], ErrMalformed)
	}
	h.timeMillis = int64(binary.LittleEndian.Uint64(payload[1:]))
	h.proposer = binary.LittleEndian.Uint64(payload[9:])
	h.seq = binary.LittleEndian.Uint64(payload[17:])
	rest := payload[entryHeaderBytes:]
	count, n := binary.Uvarint(rest)
	if n <= 0 || n != uvarintLen(count) || count == 0 || count > maxCommandsPerEntry {
		return h, dst, fmt.Errorf("entry with a command count of %d: %w", count, ErrMalformed)
	}
	rest = rest[n:]
	for i := range count {
		length, n := binary.Uvarint(rest)
		if n <= 0 || n != uvarintLen(length) || length > uint64(len(rest)-n) {
			return h, dst[:0], fmt.Errorf("entry: command %d of %d: %w", i, count, ErrMalformed)
		}
		end := n + int(length)
		dst = append(dst, rest[n:end:end])
		rest = rest[end:]
	}
	if len(rest) != 0 {
		return h, dst[:0], fmt.Errorf("entry: %d bytes after the last command: %w", len(rest), ErrMalformed)
	}
	return h, dst, nil
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
