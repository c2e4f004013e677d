package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const hashSize = sha256.Size

// NewChain is the head of a shard's log before its first record.
func NewChain(shard uint32) Head {
	return Head{Hash: sha256.Sum256(binary.BigEndian.AppendUint32([]byte("quorate audit v1"), shard))}
}

// ChainError names the first record that does not verify.
type ChainError struct {
	Shard  uint32
	Seq    uint64 // the record that was expected
	Reason string
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("ledger: shard %d record %d: %s", e.Shard, e.Seq, e.Reason)
}

// VerifyChain checks the next journal record of a shard (canonical bytes and
// chain hash) against the head before it. It returns the head after it, the
// record, and its canonical bytes, which point into journal. The error is a
// *ChainError. That records are missing at the very end only a head from
// elsewhere can tell: see [Head.Reaches].
func VerifyChain(shard uint32, prev Head, journal []byte) (next Head, rec *Record, body []byte, err error) {
	fail := func(format string, args ...any) (Head, *Record, []byte, error) {
		return prev, nil, nil, &ChainError{Shard: shard, Seq: prev.Seq + 1, Reason: fmt.Sprintf(format, args...)}
	}
	if len(journal) < hashSize+recordFixedSize {
		return fail("truncated: %d bytes", len(journal))
	}
	body = journal[:len(journal)-hashSize]
	stored := [hashSize]byte(journal[len(body):])
	rec, derr := DecodeRecord(body)
	switch {
	case derr != nil:
		return fail("altered or truncated: %v", derr)
	case rec.Shard != shard:
		return fail("foreign or altered: it says shard %d", rec.Shard)
	case rec.Seq > prev.Seq+1:
		return fail("missing or altered: record %d stands in its place", rec.Seq)
	case rec.Seq <= prev.Seq:
		return fail("out of order or altered: record %d stands in its place", rec.Seq)
	}
	h := sha256.New()
	h.Write(prev.Hash[:])
	h.Write(body)
	next.Seq = rec.Seq
	if h.Sum(next.Hash[:0]); next.Hash != stored {
		return fail("altered: its bytes and those before it do not give its chain hash")
	}
	return next, rec, body, nil
}

// Reaches checks that a log verified up to h ends exactly at head.
func (h Head) Reaches(shard uint32, head Head) error {
	switch {
	case h.Seq < head.Seq:
		return &ChainError{Shard: shard, Seq: h.Seq + 1, Reason: fmt.Sprintf("missing: the log ends before it, its head is record %d", head.Seq)}
	case h.Seq > head.Seq:
		return &ChainError{Shard: shard, Seq: head.Seq + 1, Reason: "beyond the head"}
	case h.Hash != head.Hash:
		return &ChainError{Shard: shard, Seq: h.Seq, Reason: "another chain than the head's"}
	}
	return nil
}

// journal extends a shard's chain. The buffer always begins with the hash of
// the last record, so that a record is hashed and written where it was built.
type journal struct {
	shard uint32
	head  Head
	buf   []byte
	sink  func([]byte)
}

func newJournal(shard uint32, sink func([]byte)) journal {
	j := journal{shard: shard, sink: sink}
	j.restore(NewChain(shard))
	return j
}

func (j *journal) restore(h Head) {
	j.head = h
	j.buf = append(j.buf[:0], h.Hash[:]...)
}

// write numbers and chains a record.
func (j *journal) write(r *Record) {
	j.head.Seq++
	r.Shard, r.Seq = j.shard, j.head.Seq
	j.buf = r.Append(j.buf[:hashSize])
	j.head.Hash = sha256.Sum256(j.buf)
	j.buf = append(j.buf, j.head.Hash[:]...)
	j.sink(j.buf[hashSize:])
	copy(j.buf, j.head.Hash[:])
}
