package raftstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Replicas that applied the same log must be in the same state. Each makes a digest after every digestEvery-th entry
// and tells the others; who finds that a majority of the voters has another one than itself stops for good and leaves
// its data as it is. Nobody else can tell a wrong replica from a right one, and a wrong one that goes on may lead.
const (
	digestEvery = 128 // entries from one digest to the next
	digestsKept = 32  // of each replica: one that trails by more than 4,096 entries is compared when it has caught up
)

// Summary is implemented by machines whose state can be hashed in next to no time: equal on all replicas at equal
// applied index. Changed is of what commands changed since it was last called, or since Restore: equal on all that
// asked and were restored at equal indexes. Without it only the journal is compared.
type Summary interface {
	Summary() uint64
	Changed() uint64
}

// ErrDiverged: this replica's state is not the majority's. The store stops, and does not open again.
var ErrDiverged = errors.New("diverged")

type digestPoint struct{ index, digest uint64 }

// digests are what a shard's replicas said of themselves lately. A shard's goroutine uses it.
type digests struct {
	self     uint64
	of       map[uint64]*[digestsKept]digestPoint
	agreed   uint64            // last index at which a majority, this replica among it, had the same
	differ   map[uint64]uint64 // replica → index at which it had another digest than this one
	since    uint64            // index of the state that the machine's next Changed is counted from
	compared uint64            // digests of others that were equal to the own one
}

func newDigests(self, restored uint64) *digests {
	return &digests{self: self, since: restored, of: map[uint64]*[digestsKept]digestPoint{}, differ: map[uint64]uint64{}}
}

// note takes down what a replica said.
func (d *digests) note(id uint64, p digestPoint) {
	ring := d.of[id]
	if ring == nil {
		ring = new([digestsKept]digestPoint)
		d.of[id] = ring
	}
	if at := &ring[p.index/digestEvery%digestsKept]; p.index >= at.index {
		*at = p
	}
}

func (d *digests) at(id, index uint64) (uint64, bool) {
	ring := d.of[id]
	if ring == nil {
		return 0, false
	}
	p := ring[index/digestEvery%digestsKept]
	return p.digest, p.index == index
}

// judge compares what is known of one index. wrong: a majority of the voters has the same digest, and it is not this
// replica's. differ is who has another one than this replica, majority or not.
func (d *digests) judge(index uint64, voters []uint64) (wrong bool, differ []uint64) {
	mine, ok := d.at(d.self, index)
	if !ok {
		return false, nil
	}
	votes := map[uint64]int{}
	for _, id := range voters {
		digest, ok := d.at(id, index)
		if !ok {
			continue
		}
		if votes[digest]++; digest != mine {
			differ = append(differ, id)
			d.differ[id] = max(d.differ[id], index)
		} else if d.differ[id] < index {
			delete(d.differ, id) // it has been replaced since
		}
	}
	for digest, n := range votes {
		switch {
		case n <= len(voters)/2:
		case digest == mine:
			d.agreed = max(d.agreed, index)
		default:
			wrong = true
		}
	}
	return wrong, differ
}

// A digest travels between peers as a message that no raft message can be: protobuf has no field 0.
//
//	0 u8, kind u8 (3), index u64, digest u64; little-endian
//
// The kind also says how the digest was made: whoever changes what a Summary or the journal holds raises it, so that
// processes of two versions compare nothing instead of taking each other for diverged.
const (
	noteByte     = 0
	noteDigest   = 3 // 1: without Changed
	digestLength = 2 + 8 + 8
)

func isNote(msg []byte) bool { return len(msg) > 0 && msg[0] == noteByte }

func encodeDigest(p digestPoint) []byte {
	b := binary.LittleEndian.AppendUint64([]byte{noteByte, noteDigest}, p.index)
	return binary.LittleEndian.AppendUint64(b, p.digest)
}

func decodeDigest(b []byte) (digestPoint, error) {
	if len(b) != digestLength || b[0] != noteByte || b[1] != noteDigest {
		return digestPoint{}, fmt.Errorf("a note of %d bytes that is not known: %w", len(b), ErrMalformed)
	}
	p := digestPoint{binary.LittleEndian.Uint64(b[2:]), binary.LittleEndian.Uint64(b[10:])}
	if p.index == 0 || p.index >= maxIndex || p.index%digestEvery != 0 {
		return p, fmt.Errorf("a digest as of index %d: %w", p.index, ErrMalformed)
	}
	return p, nil
}

// note takes in what is not a raft message.
func (s *Store) note(sh *shard, from uint64, msg []byte) error {
	if len(msg) > 1 && msg[1] == noteDisk {
		flags, err := decodeDiskNote(msg)
		if err == nil {
			s.heardDisk(from, flags)
		}
		return err
	}
	p, err := decodeDigest(msg)
	if err == nil {
		sh.mail.call(func() { sh.heardDigest(from, p) })
	}
	return err
}

// digested comes after every digestEvery-th entry.
func (s *shard) digested(index uint64) error {
	size, crc := s.journal.end()
	sum := uint64(crc) | uint64(size)<<32
	if m, ok := s.machine.(Summary); ok {
		sum = sum*0x9e3779b97f4a7c15 ^ m.Summary()
		sum = sum*0x9e3779b97f4a7c15 ^ m.Changed()
		whole := s.digests.since+digestEvery == index
		if s.digests.since = index; !whole {
			return nil // restored in between: others have the changes before that too
		}
	}
	p := digestPoint{index, sum}
	s.digests.note(s.env.cfg.RaftID, p)
	msg := encodeDigest(p)
	conf := s.replica.confState
	for _, ids := range [][]uint64{conf.GetVoters(), conf.GetLearners()} {
		for _, id := range ids {
			if id != s.env.cfg.RaftID {
				s.env.cfg.Transport.Send(id, s.id, slices.Clone(msg))
			}
		}
	}
	return s.judge(index)
}

// heardDigest is what a peer says of itself.
func (s *shard) heardDigest(from uint64, p digestPoint) {
	s.digests.note(from, p)
	if mine, ok := s.digests.at(s.env.cfg.RaftID, p.index); ok && mine == p.digest {
		s.digests.compared++
	}
	if err := s.judge(p.index); err != nil {
		s.env.fatal(fmt.Errorf("shard %d: %w", s.id, err))
	}
}

func (s *shard) judge(index uint64) error {
	wrong, differ := s.digests.judge(index, s.replica.confState.GetVoters())
	if len(differ) == 0 {
		return nil
	}
	s.env.log.Error("raftstore: replicas differ", "layer", "L5", "shard", s.id, "index", index, "peers", fmt.Sprintf("%x", differ), "minority", wrong)
	if !wrong {
		return nil
	}
	err := fmt.Errorf("at index %d this replica is in another state than the majority: %w", index, ErrDiverged)
	return errors.Join(err, writeEvidence(s.env.fs, s.env.cfg, s.evidence(index)))
}

// evidence is what a diverged replica leaves in its directory, for people; it also keeps the store from opening.
type evidence struct {
	Layer           string            `json:"layer"`
	What            string            `json:"what"`
	Hint            string            `json:"hint"`
	Time            time.Time         `json:"time"`
	Shard           uint32            `json:"shard"`
	RaftID          string            `json:"raft_id"`
	Index           uint64            `json:"index"`        // where the digests differ
	AgreedIndex     uint64            `json:"agreed_index"` // where they were last equal; 0: not since the start
	Digests         map[string]string `json:"digests"`      // raft ID → digest, at Index
	JournalBytes    int64             `json:"journal_bytes"`
	JournalCRC32C   uint32            `json:"journal_crc32c"`
	CheckpointIndex uint64            `json:"checkpoint_index"`
	FirstLogIndex   uint64            `json:"first_log_index"`
	LastLogIndex    uint64            `json:"last_log_index"`
}

const evidenceFile = "diverged.json"

func (s *shard) evidence(index uint64) evidence {
	size, crc := s.journal.end()
	e := evidence{
		Layer: "L5", What: fmt.Sprintf("shard %d: after log entry %d this replica's state is not the majority's", s.id, index),
		Hint: "keep this directory: log, journal and state in it are as they were found. Start the node anew in an empty one, under a new identity.",
		Time: s.env.cfg.Now().UTC(), Shard: s.id, RaftID: fmt.Sprintf("%016x", s.env.cfg.RaftID), Index: index, AgreedIndex: s.digests.agreed,
		Digests: map[string]string{}, JournalBytes: size, JournalCRC32C: crc,
		CheckpointIndex: s.log.checkpoint.index, FirstLogIndex: s.log.truncated + 1, LastLogIndex: s.log.last,
	}
	for id := range s.digests.of {
		if digest, ok := s.digests.at(id, index); ok {
			e.Digests[fmt.Sprintf("%016x", id)] = fmt.Sprintf("%016x", digest)
		}
	}
	return e
}

func writeEvidence(fs vfs.FS, cfg *Config, e evidence) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(fs, cfg.Dir, evidenceFile, append(b, '\n'))
}

// refuseDiverged: a replica that stopped as diverged does not come back with what it had.
func refuseDiverged(fs vfs.FS, dir string) error {
	b, err := readFile(fs, fs.PathJoin(dir, evidenceFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var e evidence
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("%s can't be read (%v): %w", evidenceFile, err, ErrDiverged)
	}
	return fmt.Errorf("%s, see %s; %s: %w", e.What, evidenceFile, e.Hint, ErrDiverged)
}

// differing lists the replicas that were seen in another state than this one.
func (d *digests) differing() []uint64 { return slices.Sorted(maps.Keys(d.differ)) }
