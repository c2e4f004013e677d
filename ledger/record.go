package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// Record is one audit entry. Its canonical bytes, in this order:
//
//	byte     version, 1
//	uvarint  shard
//	uvarint  seq: 1, 2, 3 … within the shard
//	uvarint  index: of the log entry that caused it
//	varint   time, ms since the Unix epoch (zigzag)
//	string   verb
//	16 bytes task ID (zero: not about a task)
//	string   fleet
//	string   capability, action:target
//	byte     guarantee level (0 none, 1 best_effort, 2 at_least_once, 3 exactly_once)
//	byte     state before (0 none), byte state after: the numbers of [State]
//	string   agent
//	string   actor: who asked, or the node the agent was connected to
//	uvarint  epoch
//	uvarint  attempts that have ended
//	byte     code: the numbers of [Code]
//	varint   assigned at, varint started at (ms; 0 not known)
//	string   stolen from
//	string   detail
//	byte     digests that follow: 1 request, 2 result, 3 both; 32 bytes each
//
// A string is a uvarint length and that many bytes; uvarint is LEB128. The
// journal holds the bytes followed by the chain value after them,
//
//	h(n) = SHA-256(h(n-1) || bytes(n)),  h(0) = SHA-256("quorate audit v1" || shard as 4 bytes, big-endian)
type Record struct {
	Shard                         uint32
	Seq, Index                    uint64
	TimeMillis                    int64
	Verb                          string
	Task                          TaskID
	Fleet, Capability             string
	Guarantee                     Guarantee
	From, To                      State
	Agent, Actor                  string
	Epoch                         uint64
	Attempt                       uint32
	Code                          Code
	AssignedMillis, StartedMillis int64
	StolenFrom, Detail            string
	RequestDigest, ResultDigest   [32]byte // zero: none
}

const recordVersion = 1

func (r *Record) append(b []byte) []byte {
	b = append(b, recordVersion)
	b = putUint(putUint(putUint(b, uint64(r.Shard)), r.Seq), r.Index)
	b = putBytes(putInt(b, r.TimeMillis), r.Verb)
	b = append(b, r.Task[:]...)
	b = putBytes(putBytes(b, r.Fleet), r.Capability)
	b = append(b, byte(r.Guarantee), byte(r.From), byte(r.To))
	b = putBytes(putBytes(b, r.Agent), r.Actor)
	b = putUint(putUint(b, r.Epoch), uint64(r.Attempt))
	b = append(b, byte(r.Code))
	b = putInt(putInt(b, r.AssignedMillis), r.StartedMillis)
	b = putBytes(putBytes(b, r.StolenFrom), r.Detail)
	var flags byte
	if r.RequestDigest != ([32]byte{}) {
		flags |= 1
	}
	if r.ResultDigest != ([32]byte{}) {
		flags |= 2
	}
	b = append(b, flags)
	if flags&1 != 0 {
		b = append(b, r.RequestDigest[:]...)
	}
	if flags&2 != 0 {
		b = append(b, r.ResultDigest[:]...)
	}
	return b
}

// DecodeRecord reads a record's canonical bytes.
func DecodeRecord(b []byte) (*Record, error) {
	d := decoder{b: b}
	if v := d.byte(); v != recordVersion && d.err == nil {
		d.fail("record version")
	}
	r := &Record{Shard: d.uint32(), Seq: d.uint(), Index: d.uint(), TimeMillis: d.int(), Verb: d.string(), Task: d.id(),
		Fleet: d.string(), Capability: d.string(), Guarantee: Guarantee(d.byte()), From: State(d.byte()), To: State(d.byte()),
		Agent: d.string(), Actor: d.string(), Epoch: d.uint(), Attempt: d.uint32(), Code: Code(d.byte()),
		AssignedMillis: d.int(), StartedMillis: d.int(), StolenFrom: d.string(), Detail: d.string()}
	flags := d.byte()
	if flags&1 != 0 {
		copy(r.RequestDigest[:], d.fixed(32))
	}
	if flags&2 != 0 {
		copy(r.ResultDigest[:], d.fixed(32))
	}
	if flags > 3 || r.Guarantee > ExactlyOnce || r.From >= stateEnd || r.To >= stateEnd || r.Code >= codeEnd {
		d.fail("record: word out of range")
	}
	return r, d.end()
}

// digest is SHA-256, or zero for nothing.
func digest(b []byte) [32]byte {
	if len(b) == 0 {
		return [32]byte{}
	}
	return sha256.Sum256(b)
}

// Head is where a chain stands: how many records, and the hash over all.
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// NewChain is the head of a shard's empty chain.
func NewChain(shard uint32) Head {
	b := append([]byte("quorate audit v1"), byte(shard>>24), byte(shard>>16), byte(shard>>8), byte(shard))
	return Head{Hash: sha256.Sum256(b)}
}

// next is the head after a record with canonical bytes b.
func (h Head) next(b []byte, buf []byte) Head {
	buf = append(append(buf[:0], h.Hash[:]...), b...)
	return Head{Seq: h.Seq + 1, Hash: sha256.Sum256(buf)}
}

// chain writes a shard's records.
type chain struct {
	shard        uint32
	head         Head
	appendRecord func([]byte)
	buf          []byte // previous hash, record, hash
}

func newChain(shard uint32, appendRecord func([]byte)) chain {
	return chain{shard: shard, head: NewChain(shard), appendRecord: appendRecord}
}

// add numbers a record, chains it and writes it out.
func (c *chain) add(r *Record) {
	r.Seq = c.head.Seq + 1
	c.buf = r.append(append(c.buf[:0], c.head.Hash[:]...))
	c.head = Head{Seq: r.Seq, Hash: sha256.Sum256(c.buf)}
	c.buf = append(c.buf, c.head.Hash[:]...)
	c.appendRecord(c.buf[len(c.head.Hash):])
}

func (c *chain) append(b []byte) []byte { return append(putUint(b, c.head.Seq), c.head.Hash[:]...) }

func (c *chain) restore(d *decoder) {
	c.head.Seq = d.uint()
	copy(c.head.Hash[:], d.fixed(32))
}

// What VerifyChain finds wrong.
var (
	ErrAltered = errors.New("altered: the bytes do not give the chain value behind them")
	ErrMissing = errors.New("missing: the sequence skips a record")
	ErrOrder   = errors.New("reordered or repeated: the sequence goes back")
	ErrForeign = errors.New("foreign: the record belongs to another shard")
)

// VerifyChain checks a journal record against the head before it, for the
// shard that prev is of. It returns the head after it, the record, and its
// canonical bytes (a view).
func VerifyChain(shard uint32, prev Head, journalRecord []byte) (next Head, r *Record, body []byte, err error) {
	if len(journalRecord) < 32 {
		return prev, nil, nil, fmt.Errorf("%w: %d bytes", ErrAltered, len(journalRecord))
	}
	body, hash := journalRecord[:len(journalRecord)-32], journalRecord[len(journalRecord)-32:]
	r, err = DecodeRecord(body)
	if err != nil {
		return prev, nil, nil, fmt.Errorf("%w: %v", ErrAltered, err)
	}
	next = prev.next(body, nil)
	switch {
	case next.Hash == [32]byte(hash) && r.Shard == shard && r.Seq == next.Seq:
		return next, r, body, nil
	case r.Shard != shard:
		err = ErrForeign
	case r.Seq > next.Seq:
		err = ErrMissing
	case r.Seq < next.Seq:
		err = ErrOrder
	default:
		err = ErrAltered
	}
	return prev, nil, nil, fmt.Errorf("record %d of shard %d: %w", next.Seq, shard, err)
}
