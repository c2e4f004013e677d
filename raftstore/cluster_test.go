package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// toyMachine is a map. A command is "key=value"; the outcome is the index it was applied at and the value before.
type toyMachine struct {
	shard   uint32
	reader  Reader
	journal Journal
	lead    atomic.Uint64
	follows atomic.Int64
	gate    func(Entry) // called before each Apply

	mu struct {
		sync.Mutex
		state   map[string]string
		dirty   map[string]bool
		frozen  map[string]bool
		applied uint64
		changed uint64 // digest of commands since the last Changed or Restore
		garble  bool   // a planted fault: Changed is wrong, and nothing else
	}
}

func newToy(shard uint32, r Reader, j Journal) (Machine, error) {
	return &toyMachine{shard: shard, reader: r, journal: j}, nil
}

func (m *toyMachine) Restore(r Reader, meta []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.state, m.mu.dirty, m.mu.frozen = map[string]string{}, map[string]bool{}, nil
	m.mu.applied, m.mu.changed = 0, 0
	if meta != nil {
		m.mu.applied = binary.BigEndian.Uint64(meta)
	}
	return r.Scan(nil, nil, func(k, v []byte) bool {
		m.mu.state[string(k)] = string(v)
		return true
	})
}

func (m *toyMachine) Apply(e Entry) [][]byte {
	if m.gate != nil {
		m.gate(e)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Index <= m.mu.applied {
		panic(fmt.Sprintf("index %d applied after %d", e.Index, m.mu.applied))
	}
	m.mu.applied = e.Index
	out := make([][]byte, len(e.Commands))
	for i, c := range e.Commands {
		k, v, _ := bytes.Cut(c, []byte("="))
		out[i] = fmt.Appendf(nil, "%d:%s", e.Index, m.mu.state[string(k)])
		m.mu.state[string(k)] = string(v)
		m.mu.dirty[string(k)] = true
		h := fnv.New64a()
		h.Write(c)
		m.mu.changed = m.mu.changed*31 + h.Sum64()
		m.journal.Append(fmt.Appendf(nil, "%d/%d %s", e.Index, i, c))
	}
	return out
}

func (m *toyMachine) Freeze() Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.frozen != nil {
		panic("frozen twice")
	}
	m.mu.frozen, m.mu.dirty = m.mu.dirty, map[string]bool{}
	ch := Changes{Meta: binary.BigEndian.AppendUint64(nil, m.mu.applied)}
	for k := range m.mu.frozen {
		ch.Puts = append(ch.Puts, KV{[]byte(k), []byte(m.mu.state[k])})
	}
	return ch
}

func (m *toyMachine) Thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.frozen == nil {
		panic("thawed without freeze")
	}
	m.mu.frozen = nil
}

func (m *toyMachine) Lead(term uint64)     { m.lead.Store(term) }
func (m *toyMachine) Follow(leader uint64) { m.lead.Store(0); m.follows.Add(1) }

func (m *toyMachine) Digest() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sum := m.mu.applied
	for k, v := range m.mu.state {
		h := fnv.New64a()
		fmt.Fprintf(h, "%q=%q", k, v)
		sum += h.Sum64()
	}
	return sum
}

func (m *toyMachine) get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.state[key]
}

// network connects the stores of one test. Each ordered pair has a queue and a goroutine, as a connection would.
type network struct {
	tb    testing.TB
	nodes map[uint64]*testNode
	mu    struct {
		sync.RWMutex
		cut    map[[2]uint64]bool
		pipes  map[[2]uint64]chan packet
		closed bool
	}
	wg sync.WaitGroup
	// corrupt, if set, may damage a snapshot on its way.
	corrupt func(from, to uint64, w io.Writer) io.Writer
	stream  func(write func(io.Writer) error, receive func(io.Reader) error) error // instead of a pipe
	mute    bool                                                                   // nobody says how much of a journal it has
}

type packet struct {
	shard uint32
	msg   []byte
}

type testNode struct {
	id    uint64
	net   *network
	cfg   Config
	store atomic.Pointer[Store]
	toys  struct {
		sync.Mutex
		m map[uint32]*toyMachine
	}
	fatal chan error
	gate  func(Entry)
}

func (n *testNode) Send(to uint64, shard uint32, msg []byte) {
	pipe := n.net.pipe(n.id, to)
	if pipe == nil {
		return
	}
	select {
	case pipe <- packet{shard, msg}:
	default:
	}
}

func (n *testNode) SendSnapshot(ctx context.Context, to uint64, write func(io.Writer) error) error {
	target := n.net.running(to)
	if target == nil || n.net.isCut(n.id, to) {
		return errors.New("peer is down")
	}
	if n.net.stream != nil {
		return n.net.stream(write, func(r io.Reader) error { return target.Receive(n.id, r) })
	}
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var w io.Writer = pw
		if c := n.net.corrupt; c != nil {
			w = c(n.id, to, w)
		}
		pw.CloseWithError(write(w))
	}()
	err := target.Receive(n.id, pr)
	pr.CloseWithError(errors.New("receiver is done"))
	<-done
	return err
}

// running is a node's store, nil when there is none; for the network's own goroutines.
func (w *network) running(id uint64) *Store {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if n := w.nodes[id]; n != nil {
		return n.store.Load()
	}
	return nil
}

// AskJournal makes a testNode a JournalAsker.
func (n *testNode) AskJournal(_ context.Context, to uint64, shard uint32) (int64, uint32, error) {
	target := n.net.nodes[to].store.Load()
	if target == nil || n.net.mute {
		return 0, 0, errors.New("no answer")
	}
	return target.JournalBase(shard)
}

func (w *network) isCut(from, to uint64) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.mu.cut[[2]uint64{from, to}]
}

func (w *network) pipe(from, to uint64) chan packet {
	key := [2]uint64{from, to}
	w.mu.RLock()
	p, cut, closed := w.mu.pipes[key], w.mu.cut[key], w.mu.closed
	w.mu.RUnlock()
	if cut || closed {
		return nil
	}
	if p != nil {
		return p
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p = w.mu.pipes[key]; p != nil || w.mu.closed {
		return p
	}
	p = make(chan packet, 4096)
	w.mu.pipes[key] = p
	w.wg.Go(func() {
		for pkt := range p {
			if s := w.running(to); s != nil && !w.isCut(from, to) {
				if err := s.Step(pkt.shard, from, pkt.msg); err != nil && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrNoShard) {
					w.tb.Errorf("step on %d: %v", to, err)
				}
			}
		}
	})
	return p
}

// setCut cuts or heals the links between one node and all others.
func (w *network) setCut(id uint64, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.nodes {
		w.mu.cut[[2]uint64{id, other}] = cut
		w.mu.cut[[2]uint64{other, id}] = cut
	}
}

func (w *network) close() {
	for _, n := range w.nodes {
		if s := n.store.Swap(nil); s != nil {
			if err := s.Close(); err != nil {
				w.tb.Errorf("close: %v", err)
			}
		}
	}
	w.mu.Lock()
	w.mu.closed = true
	for _, p := range w.mu.pipes {
		close(p)
	}
	w.mu.pipes = nil
	w.mu.Unlock()
	w.wg.Wait()
}

func testLogger(tb testing.TB) *slog.Logger {
	if os.Getenv("RAFTSTORE_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newCluster makes nodes 1..n, bootstrapped and started. change may adjust each config.
func newCluster(tb testing.TB, n int, shards uint32, change func(*Config)) *network {
	tb.Helper()
	w := &network{tb: tb, nodes: map[uint64]*testNode{}}
	w.mu.cut, w.mu.pipes = map[[2]uint64]bool{}, map[[2]uint64]chan packet{}
	var voters []uint64
	for id := uint64(1); id <= uint64(n); id++ {
		voters = append(voters, id)
		w.add(id, change)
	}
	tb.Cleanup(w.close)
	for _, t := range w.nodes {
		s, err := Open(t.cfg)
		if err != nil {
			tb.Fatal(err)
		}
		if err := s.Bootstrap(shards, voters); err != nil {
			tb.Fatal(err)
		}
		s.Start()
		t.store.Store(s)
	}
	return w
}

// add makes a node that is not opened yet.
func (w *network) add(id uint64, change func(*Config)) *testNode {
	t := &testNode{id: id, net: w, fatal: make(chan error, 1)}
	t.cfg = Config{
		Dir: "/data", FS: vfs.NewCrashableMem(), RaftID: id, Transport: t, Logger: testLogger(w.tb),
		TickInterval: 10 * time.Millisecond, CheckpointInterval: 50 * time.Millisecond,
		OnFatal: func(err error) { t.fatal <- err },
		Machine: func(shard uint32, r Reader, j Journal) (Machine, error) {
			m, err := newToy(shard, r, j)
			m.(*toyMachine).gate = t.gate
			t.toys.Lock()
			t.toys.m[shard] = m.(*toyMachine)
			t.toys.Unlock()
			return m, err
		},
	}
	t.toys.m = map[uint32]*toyMachine{}
	if change != nil {
		change(&t.cfg)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[id] = t
	return t
}

// open starts a node again on what is in its directory.
func (n *testNode) open(tb testing.TB) {
	tb.Helper()
	s, err := Open(n.cfg)
	if err != nil {
		tb.Fatalf("open %d: %v", n.id, err)
	}
	s.Start()
	n.store.Store(s)
}

// crash stops a node as a power cut would: only what was synced stays.
func (n *testNode) crash(tb testing.TB) {
	tb.Helper()
	n.net.setCut(n.id, true) // what it says after that moment nobody may hear
	fs := n.clone()
	s := n.store.Swap(nil)
	if err := s.stop(true); err != nil {
		tb.Errorf("stop %d: %v", n.id, err)
	}
	n.net.setCut(n.id, false)
	n.cfg.FS = fs
	for _, o := range n.net.nodes {
		if s := o.store.Load(); s != nil {
			s.PeerDown(n.id)
		}
	}
}

// clone is the disk as a power cut would leave it now.
func (n *testNode) clone() *vfs.MemFS { return n.cfg.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{}) }

func (n *testNode) toy(shard uint32) *toyMachine {
	n.toys.Lock()
	defer n.toys.Unlock()
	return n.toys.m[shard]
}

const testTimeout = 20 * time.Second

// eventually polls: leadership and replication are asynchronous, and raft gives no event for all of it.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(testTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			tb.Fatalf("not within %v: %s", testTimeout, what)
		}
	}
}

func (w *network) leader(shard uint32) *testNode {
	w.tb.Helper()
	var leader *testNode
	eventually(w.tb, fmt.Sprintf("shard %d has a leader", shard), func() bool {
		leader = nil
		var term uint64
		for _, n := range w.nodes {
			if s := n.store.Load(); s != nil {
				if st, ok := s.ShardStatus(shard); ok && st.Ready && st.Term > term {
					leader, term = n, st.Term
				}
			}
		}
		return leader != nil
	})
	return leader
}

// propose sends one command to a node and waits for its result.
func (n *testNode) propose(shard uint32, command string) Result {
	ch := make(chan Result, 1)
	s := n.store.Load()
	if s == nil {
		return Result{Err: ErrStopped}
	}
	s.Propose(shard, []Proposal{{Command: []byte(command), Done: func(r Result) { ch <- r }}})
	return <-ch
}

// must proposes on whoever leads until it is done.
func (w *network) must(shard uint32, command string) Result {
	w.tb.Helper()
	var res Result
	eventually(w.tb, "propose "+command, func() bool {
		res = w.leader(shard).propose(shard, command)
		return res.Err == nil
	})
	return res
}

// converge waits until all running replicas applied the same and compares them.
func (w *network) converge(shards uint32) {
	w.tb.Helper()
	for shard := range shards {
		st, _ := w.leader(shard).store.Load().ShardStatus(shard)
		target := st.Commit
		for _, n := range w.nodes {
			s := n.store.Load()
			if s == nil || s.shard(shard) == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			err := s.WaitApplied(ctx, shard, target)
			cancel()
			if err != nil {
				w.tb.Fatalf("node %d shard %d: wait for %d: %v (%+v)", n.id, shard, target, err, s.Status())
			}
		}
		var first *testNode
		for _, n := range w.nodes {
			if s := n.store.Load(); s == nil || s.shard(shard) == nil {
				continue
			}
			if first == nil {
				first = n
				continue
			}
			eventually(w.tb, "equal digests", func() bool { return n.toy(shard).Digest() == first.toy(shard).Digest() })
			var from int64
			for _, x := range []*testNode{first, n} {
				start, _ := x.store.Load().JournalFloor(shard)
				from = max(from, start)
			}
			a, b := journalFrom(w.tb, first.toy(shard).journal, from), journalFrom(w.tb, n.toy(shard).journal, from)
			if len(a) != len(b) {
				w.tb.Fatalf("journals of %d and %d records", len(a), len(b))
			}
			for i := range a {
				if a[i] != b[i] {
					w.tb.Fatalf("journal record %d: %q and %q", i, a[i], b[i])
				}
			}
		}
	}
}

func journalRecords(tb testing.TB, j Journal) []string {
	tb.Helper()
	return journalFrom(tb, j, 0)
}

func journalFrom(tb testing.TB, j Journal, offset int64) []string {
	tb.Helper()
	var out []string
	if err := j.Read(offset, func(_, _ int64, record []byte) bool {
		out = append(out, string(record))
		return true
	}); err != nil {
		tb.Fatal(err)
	}
	return out
}
