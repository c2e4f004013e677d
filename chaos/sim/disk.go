package sim

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quorate/quorate/raftstore"
)

// disk is what one node has of stable storage: a write-ahead log for the raft
// logs of all its shards, and for each shard a state checkpoint that is
// replaced atomically and a journal. A write to the log is volatile until a
// sync; a crash keeps the log's synced part and a random prefix of the rest, as
// a file with checksummed records does.
type disk struct {
	rng     *rand.Rand
	plant   Plant
	durable map[uint32]*logImage
	wal     []walOp // not durable yet, in order
	base    int     // records that were written before them
	states  map[uint32]*state
	books   map[uint32]*book // journals
	tombs   map[uint32]tomb  // of replicas that were put away
}

// tomb is what a replica promised that was put away: should it come back, it
// keeps its vote, and stays out of elections until it has as much again.
type tomb struct{ term, vote, last uint64 }

// logImage is a raft log with its hard state.
type logImage struct {
	term, vote, commit       uint64
	truncated, truncatedTerm uint64
	entries                  []*pb.Entry // truncated+1 … last; never changed
	installing               uint64      // index of a snapshot whose installation began
}

func (l *logImage) last() uint64 { return l.truncated + uint64(len(l.entries)) }

func (l *logImage) clone() *logImage {
	c := *l
	c.entries = slices.Clone(l.entries)
	return &c
}

func (l *logImage) at(index uint64) *pb.Entry { return l.entries[index-l.truncated-1] }

// walOp is one atomic record of the write-ahead log.
type walOp struct {
	shard   uint32
	hard    bool // term, vote and commit are set
	term    uint64
	vote    uint64
	commit  uint64
	entries []*pb.Entry
	cut     uint64 // truncate to it, with its term; 0: no
	cutTerm uint64
	reset   bool   // everything before cut and after it is gone
	note    uint64 // installation begins
	drop    bool   // the note is taken back
}

func (op *walOp) apply(l *logImage) {
	if op.note != 0 {
		l.installing = op.note
	}
	if op.drop {
		l.installing = 0
	}
	switch {
	case op.reset:
		l.entries, l.truncated, l.truncatedTerm, l.installing = nil, op.cut, op.cutTerm, 0
	case op.cut > l.truncated:
		l.entries = slices.Clone(l.entries[op.cut-l.truncated:])
		l.truncated, l.truncatedTerm = op.cut, op.cutTerm
	}
	if op.hard {
		l.term, l.vote, l.commit = op.term, op.vote, op.commit
	}
	if len(op.entries) > 0 {
		keep := op.entries[0].GetIndex() - l.truncated - 1
		l.entries = append(l.entries[:keep:keep], op.entries...)
	}
}

// state is a state checkpoint. A new one replaces it as a whole.
type state struct {
	index, term uint64
	conf        *pb.ConfState
	records     int // of the journal
	meta        []byte
	rows        map[string][]byte
}

// with is the state's rows after changes; twice is a key that is among them
// twice, which no machine may do.
func (s *state) with(c raftstore.Changes) (rows map[string][]byte, twice string) {
	rows = maps.Clone(s.rows)
	seen := make(map[string]bool, len(c.Puts)+len(c.Deletes))
	once := func(key []byte) string {
		k := string(key)
		if seen[k] {
			twice = k
		}
		seen[k] = true
		return k
	}
	for _, d := range c.Deletes {
		delete(rows, once(d))
	}
	for _, kv := range c.Puts {
		rows[once(kv.Key)] = kv.Value
	}
	return rows, twice
}

// book is a journal: records, of which the first are durable.
type book struct {
	records [][]byte
	durable int
}

func newDisk(rng *rand.Rand, plant Plant) *disk {
	return &disk{rng: rng, plant: plant, durable: map[uint32]*logImage{}, states: map[uint32]*state{}, books: map[uint32]*book{}, tombs: map[uint32]tomb{}}
}

// format makes a shard as Bootstrap does, and Create.
func (d *disk) format(shard uint32, conf *pb.ConfState) {
	t := d.tombs[shard]
	d.durable[shard] = &logImage{term: max(bootTerm, t.term), vote: t.vote, commit: bootIndex, truncated: bootIndex, truncatedTerm: bootTerm}
	d.states[shard] = &state{index: bootIndex, term: bootTerm, conf: conf, rows: map[string][]byte{}}
	d.books[shard] = &book{}
}

// putAway deletes a shard, and remembers what it promised.
func (d *disk) putAway(shard uint32) {
	d.sync()
	l := d.durable[shard]
	if d.plant != PlantTombForgotten {
		d.tombs[shard] = tomb{l.term, l.vote, max(l.last(), d.tombs[shard].last)}
	}
	delete(d.durable, shard)
	delete(d.states, shard)
	delete(d.books, shard)
}

// Every replica begins as if it had applied this entry.
const (
	bootIndex = 1
	bootTerm  = 1
)

func (d *disk) append(op walOp) { d.wal = append(d.wal, op) }

// sync makes the write-ahead log durable.
func (d *disk) sync() { d.keep(len(d.wal)) }

// syncTo makes the first n records ever written durable.
func (d *disk) syncTo(n int) { d.keep(max(0, n-d.base)) }

func (d *disk) written() int { return d.base + len(d.wal) }

// keep makes the first n volatile records durable.
func (d *disk) keep(n int) {
	for i := range d.wal[:n] {
		d.wal[i].apply(d.durable[d.wal[i].shard])
	}
	d.wal = slices.Delete(d.wal, 0, n)
	d.base += n
}

// crash loses what is volatile, save for what a disk may have written anyway.
func (d *disk) crash() {
	d.keep(d.rng.IntN(len(d.wal) + 1))
	d.base += len(d.wal)
	d.wal = nil
	for _, shard := range sorted(d.books) {
		b := d.books[shard]
		n := b.durable + d.rng.IntN(len(b.records)-b.durable+1)
		b.records, b.durable = b.records[:n:n], n
	}
	if d.plant == PlantVoteForgotten {
		for _, l := range d.durable {
			l.vote = 0
		}
	}
}

// simLog is the raft storage of one replica: what it wrote, durable or not.
type simLog struct {
	n     *node
	shard uint32
	now   *logImage
	conf  *pb.ConfState
	hard  [2]uint64 // term and vote as last written
}

var _ raftstore.Log = (*simLog)(nil)

// openLog reads a shard's log after a restart, as the store does.
func openLog(n *node, shard uint32) (*simLog, error) {
	d := n.disk
	img, st := d.durable[shard], d.states[shard]
	if img.installing != 0 {
		if st.index != img.installing {
			d.append(walOp{shard: shard, drop: true})
		} else {
			op := walOp{shard: shard, reset: true, cut: st.index, cutTerm: st.term, hard: true, term: img.term, vote: img.vote, commit: st.index}
			if st.term > img.term {
				op.term, op.vote = st.term, 0
			}
			d.append(op)
		}
		d.sync()
	}
	img.commit = max(img.commit, st.index, img.truncated)
	switch {
	case st.index > img.last():
		return nil, fmt.Errorf("the state is as of %d but the log ends at %d", st.index, img.last())
	case st.index < img.truncated:
		return nil, fmt.Errorf("the state is as of %d but the log begins after %d", st.index, img.truncated)
	case img.commit > img.last():
		return nil, fmt.Errorf("committed up to %d but the log ends at %d", img.commit, img.last())
	case len(d.books[shard].records) < st.records:
		return nil, fmt.Errorf("the journal has %d records, the state checkpoint needs %d", len(d.books[shard].records), st.records)
	}
	return &simLog{n: n, shard: shard, now: img.clone(), conf: st.conf, hard: [2]uint64{img.term, img.vote}}, nil
}

// Append implements raftstore.Log. As in the store, a commit index alone is
// not written.
func (l *simLog) Append(hs *pb.HardState, entries []*pb.Entry) error {
	if hs != nil {
		l.now.term, l.now.vote, l.now.commit = hs.GetTerm(), hs.GetVote(), hs.GetCommit()
	}
	hard := [2]uint64{l.now.term, l.now.vote}
	if len(entries) == 0 && hard == l.hard {
		return nil
	}
	if len(entries) > 0 && (entries[0].GetIndex() <= l.now.truncated || entries[0].GetIndex() > l.now.last()+1) {
		return fmt.Errorf("entry %d does not follow %d", entries[0].GetIndex(), l.now.last())
	}
	l.n.step("before append")
	op := walOp{shard: l.shard, hard: true, term: l.now.term, vote: l.now.vote, commit: l.now.commit, entries: slices.Clone(entries)}
	if l.n.disk.plant == PlantHardStateSkipped && len(entries) == 0 {
		op.hard = false
	}
	op.apply(l.now)
	l.now.term, l.now.vote = hard[0], hard[1]
	l.n.disk.append(op)
	l.hard = hard
	l.n.sim.check.appended(l.n.id, l.shard, entries, l)
	l.n.step("after append")
	return nil
}

// Sync implements raftstore.Log: then runs at once, or when the disk gets to it.
func (l *simLog) Sync(then func()) error {
	n := l.n
	n.step("before sync")
	if n.disk.plant == PlantAckBeforeSync {
		then()
		return nil
	}
	if len(n.syncs) == 0 && n.stalled <= n.sim.now && n.sim.chance(3) {
		n.disk.sync()
		n.step("after sync")
		then()
		return nil
	}
	n.syncs = append(n.syncs, pendingSync{n.replicas[l.shard], n.disk.written(), then})
	return nil
}

// InitialState implements raft.Storage.
func (l *simLog) InitialState() (*pb.HardState, *pb.ConfState, error) {
	return &pb.HardState{Term: new(l.now.term), Vote: new(l.now.vote), Commit: new(l.now.commit)}, l.conf, nil
}

// Entries implements raft.Storage.
func (l *simLog) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if lo <= l.now.truncated {
		return nil, raft.ErrCompacted
	}
	if hi > l.now.last()+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*pb.Entry
	size := uint64(0)
	for i := lo; i < hi; i++ {
		e := l.now.at(i)
		if size += uint64(len(e.GetData()) + 32); len(out) > 0 && size > maxSize {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

// Term implements raft.Storage.
func (l *simLog) Term(index uint64) (uint64, error) {
	switch {
	case index == l.now.truncated:
		return l.now.truncatedTerm, nil
	case index < l.now.truncated:
		return 0, raft.ErrCompacted
	case index > l.now.last():
		return 0, raft.ErrUnavailable
	}
	return l.now.at(index).GetTerm(), nil
}

// LastIndex implements raft.Storage.
func (l *simLog) LastIndex() (uint64, error) { return l.now.last(), nil }

// FirstIndex implements raft.Storage.
func (l *simLog) FirstIndex() (uint64, error) { return l.now.truncated + 1, nil }

// Snapshot implements raft.Storage: the state checkpoint by name.
func (l *simLog) Snapshot() (*pb.Snapshot, error) {
	st := l.n.disk.states[l.shard]
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(st.index), Term: new(st.term), ConfState: st.conf}}, nil
}

// truncate forgets the entries up to index; it need not be durable.
func (l *simLog) truncate(index uint64) {
	if index <= l.now.truncated {
		return
	}
	term, _ := l.Term(index) // callers stay within the log
	op := walOp{shard: l.shard, cut: index, cutTerm: term}
	op.apply(l.now)
	l.n.disk.append(op)
}

// reset makes the log end at a snapshot.
func (l *simLog) reset(index, term uint64, hs *pb.HardState) {
	op := walOp{shard: l.shard, reset: true, cut: index, cutTerm: term, hard: true,
		term: hs.GetTerm(), vote: hs.GetVote(), commit: max(hs.GetCommit(), index)}
	op.apply(l.now)
	l.n.disk.append(op)
	l.hard = [2]uint64{op.term, op.vote}
	l.n.disk.sync()
}

// reader implements raftstore.Reader on the state checkpoint of a shard.
type reader struct {
	d     *disk
	shard uint32
}

// Get implements raftstore.Reader.
func (r reader) Get(key []byte) ([]byte, bool, error) {
	v, ok := r.d.states[r.shard].rows[string(key)]
	return bytes.Clone(v), ok, nil
}

// Scan implements raftstore.Reader.
func (r reader) Scan(from, to []byte, fn func(key, value []byte) bool) error {
	rows := r.d.states[r.shard].rows
	for _, k := range sorted(rows) {
		if k < string(from) || (to != nil && k >= string(to)) {
			continue
		}
		if !fn([]byte(k), rows[k]) {
			return nil
		}
	}
	return nil
}
