package raftstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// collect proposes and returns the results in order.
func (n *testNode) collect(commands ...string) []Result {
	out := make([]Result, len(commands))
	var wg sync.WaitGroup
	ps := make([]Proposal, len(commands))
	for i, c := range commands {
		wg.Add(1)
		ps[i] = Proposal{Command: []byte(c), Done: func(r Result) { out[i] = r; wg.Done() }}
	}
	n.store.Load().Propose(0, ps)
	wg.Wait()
	return out
}

func TestCommandSize(t *testing.T) {
	l := newLone(t, func(c *Config) { c.MaxCommandBytes, c.MaxBatchBytes = 1000, 300 })
	l.put(t, 1, 1)
	at, over := "a="+strings.Repeat("x", 998), "b="+strings.Repeat("x", 999)
	rs := l.collect("c=1", at, over, "d=1")
	for i, want := range []error{nil, nil, ErrTooLarge, nil} {
		if !errors.Is(rs[i].Err, want) {
			t.Errorf("command %d: %v, want %v", i, rs[i].Err, want)
		}
	}
	if rs[0].Index == rs[1].Index || rs[1].Index == rs[3].Index {
		t.Errorf("a command over the batch size did not go alone: %d %d %d", rs[0].Index, rs[1].Index, rs[3].Index)
	}
}

func TestOverload(t *testing.T) {
	for _, by := range []string{"commands", "bytes"} {
		t.Run(by, func(t *testing.T) {
			block, entered := make(chan struct{}), make(chan struct{})
			var once sync.Once
			l := newLone(t, func(c *Config) {
				if by == "commands" {
					c.MailboxCommands = 10
				} else {
					c.MailboxBytes, c.MaxCommandBytes = 10, 5
				}
				make := c.Machine
				c.Machine = func(shard uint32, r Reader, j Journal) (Machine, error) {
					m, err := make(shard, r, j)
					m.(*toyMachine).gate = func(e Entry) {
						if string(e.Commands[0]) == "X" {
							once.Do(func() { close(entered) })
							<-block
						}
					}
					return m, err
				}
			})
			l.net.must(0, "a=1")
			done := make(chan Result, 20)
			p := func(c string) Proposal { return Proposal{Command: []byte(c), Done: func(r Result) { done <- r }} }
			s := l.store.Load()
			s.Propose(0, []Proposal{p("X")})
			<-entered // the shard's goroutine is busy, the mailbox fills
			var ps []Proposal
			for range 12 {
				ps = append(ps, p("y"))
			}
			s.Propose(0, ps)
			for range 2 {
				if r := <-done; !errors.Is(r.Err, ErrOverloaded) {
					t.Fatalf("result %+v", r)
				}
			}
			if q := s.Status()[0].QueuedCommands; q != 10 {
				t.Fatalf("%d queued", q)
			}
			close(block)
			for range 11 {
				if r := <-done; r.Err != nil {
					t.Fatalf("result %+v", r)
				}
			}
			if r := l.propose(0, "z"); r.Err != nil {
				t.Fatalf("after the overload: %v", r.Err)
			}
		})
	}
}

func TestMachinePanic(t *testing.T) {
	l := newLone(t, func(c *Config) {
		make := c.Machine
		c.Machine = func(shard uint32, r Reader, j Journal) (Machine, error) {
			m, err := make(shard, r, j)
			m.(*toyMachine).gate = func(e Entry) {
				if string(e.Commands[0]) == "X" {
					panic("no such thing")
				}
			}
			return m, err
		}
	})
	l.net.must(0, "a=1")
	rs := l.collect("X", "Y")
	for _, r := range rs {
		if r.Err == nil {
			t.Errorf("result %+v", r)
		}
	}
	if err := <-l.fatal; !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("reason %v", err)
	}
	if err := l.store.Swap(nil).Close(); err == nil {
		t.Error("closed without an error")
	}
}

func TestBootstrapRefusals(t *testing.T) {
	w := newCluster(t, 1, 2, nil)
	n := w.nodes[1]
	if err := n.store.Load().Bootstrap(1, []uint64{1}); err == nil {
		t.Error("bootstrapped twice")
	}
	w.must(1, "a=1")
	if err := n.store.Swap(nil).Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap(2, []uint64{1}); err == nil {
		t.Error("bootstrapped over data")
	}
	if got := s.Shards(); len(got) != 2 {
		t.Errorf("shards %v", got)
	}
	s.Propose(0, []Proposal{{Done: func(r Result) {
		if !errors.Is(r.Err, ErrStopped) {
			t.Errorf("before start: %v", r.Err)
		}
	}}})
	s.Propose(9, []Proposal{{Done: func(r Result) {
		if !errors.Is(r.Err, ErrNoShard) {
			t.Errorf("no shard: %v", r.Err)
		}
	}}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Reader(0).Get([]byte("a")); !errors.Is(err, ErrStopped) {
		t.Errorf("read after close: %v", err)
	}
	fresh := n.cfg
	fresh.Dir = "/fresh"
	s, err = Open(fresh)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		shards uint32
		voters []uint64
	}{{0, []uint64{1}}, {MaxShards + 1, []uint64{1}}, {1, []uint64{2, 3}}, {1, []uint64{0, 1}}, {1, nil}} {
		if err := s.Bootstrap(bad.shards, bad.voters); err == nil {
			t.Errorf("bootstrap %+v", bad)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	_, err := Open(Config{HeartbeatTicks: 20, MaxBatchCommands: maxCommandsPerEntry + 1, MailboxBytes: 5})
	for _, want := range []string{"Dir", "RaftID", "Machine", "Transport", "ElectionTicks", "MaxBatchCommands", "MailboxBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named: %v", want, err)
		}
	}
}

func goodMessages() []*pb.Message {
	payload := packEntry(entryHeader{1, 2, 3}, []Proposal{{Command: []byte("a")}, {Command: nil}})
	entry := func(index, term uint64) *pb.Entry {
		return &pb.Entry{Index: &index, Term: &term, Type: pb.EntryNormal.Enum(), Data: payload}
	}
	u := func(v uint64) *uint64 { return &v }
	return []*pb.Message{
		{Type: pb.MsgApp.Enum(), From: u(2), To: u(1), Term: u(5), Index: u(3), LogTerm: u(4), Commit: u(1),
			Entries: []*pb.Entry{entry(4, 4), entry(5, 5)}},
		{Type: pb.MsgVote.Enum(), From: u(2), To: u(1), Term: u(5), Index: u(3), LogTerm: u(4)},
		{Type: pb.MsgHeartbeatResp.Enum(), From: u(2), To: u(1), Term: u(5), Context: make([]byte, 8)},
	}
}

func TestMalformedMessages(t *testing.T) {
	l := newLone(t, nil)
	l.put(t, 3, 10)
	s := l.store.Load()
	before := s.Status()[0]
	u := func(v uint64) *uint64 { return &v }
	for _, m := range goodMessages() {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeMessage(1, 2, b); err != nil {
			t.Errorf("%v: %v", m.GetType(), err)
		}
	}
	for name, change := range map[string]func(m *pb.Message){
		"no type":       func(m *pb.Message) { m.Type = nil },
		"local type":    func(m *pb.Message) { m.Type = pb.MsgHup.Enum() },
		"proposal":      func(m *pb.Message) { m.Type = pb.MsgProp.Enum() },
		"storage":       func(m *pb.Message) { m.Type = pb.MsgStorageAppend.Enum() },
		"snapshot":      func(m *pb.Message) { m.Type = pb.MsgSnap.Enum() },
		"snapshot part": func(m *pb.Message) { m.Snapshot = &pb.Snapshot{} },
		"responses":     func(m *pb.Message) { m.Responses = []*pb.Message{{}} },
		"other sender":  func(m *pb.Message) { m.From = u(3) },
		"other target":  func(m *pb.Message) { m.To = u(3) },
		"no term":       func(m *pb.Message) { m.Term = u(0) },
		"huge index":    func(m *pb.Message) { m.Index = u(1 << 63) },
		"gap":           func(m *pb.Message) { m.Entries[1].Index = u(9) },
		"term falls":    func(m *pb.Message) { m.Entries[1].Term = u(3) },
		"future term":   func(m *pb.Message) { m.Entries[1].Term = u(6) },
		"entry type":    func(m *pb.Message) { m.Entries[1].Type = pb.EntryType(7).Enum() },
		"payload":       func(m *pb.Message) { m.Entries[1].Data = []byte{9, 9} },
		"conf change":   func(m *pb.Message) { m.Entries[1].Type = pb.EntryConfChangeV2.Enum() },
		"vote entries":  func(m *pb.Message) { m.Type = pb.MsgVote.Enum() },
	} {
		m := proto.Clone(goodMessages()[0]).(*pb.Message)
		change(m)
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Step(0, 2, b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Step(0, 2, []byte{0xff, 1, 2}); !errors.Is(err, ErrMalformed) {
		t.Errorf("garbage: %v", err)
	}
	if err := s.Step(7, 2, nil); !errors.Is(err, ErrNoShard) {
		t.Errorf("no shard: %v", err)
	}
	// Well-formed, but from nobody in the group: it changes nothing.
	b, _ := proto.Marshal(&pb.Message{Type: pb.MsgAppResp.Enum(), From: u(2), To: u(1), Term: u(before.Term), Index: u(99)})
	if err := s.Step(0, 2, b); err != nil {
		t.Error(err)
	}
	if _, err := s.ReadIndex(context.Background(), 0); err != nil {
		t.Error(err)
	}
	if after := s.Status()[0]; after.Term != before.Term || after.LastIndex != before.LastIndex {
		t.Errorf("changed: %+v, before %+v", after, before)
	}
}

// TestIdleWritesNothing: once everything is checkpointed, no file grows or appears.
func TestIdleWritesNothing(t *testing.T) {
	l := newLone(t, func(c *Config) { c.CheckpointInterval = 30 * time.Millisecond })
	l.put(t, 10, 10)
	eventually(t, "a checkpoint", func() bool {
		st := l.store.Load().Status()[0]
		return st.CheckpointIndex == st.Applied
	})
	if err := l.store.Load().marks.flush(); err != nil {
		t.Fatal(err)
	}
	s := l.store.Load()
	listing := func() string {
		var b bytes.Buffer
		for _, dir := range []string{"/data", "/data/log", "/data/state", "/data/journal", "/data/staging"} {
			for _, f := range files(t, l.cfg.FS, dir, "") {
				st, err := l.cfg.FS.Stat(f)
				if err == nil && !st.IsDir() {
					b.WriteString(f + " " + st.ModTime().String() + "\n")
				}
			}
		}
		return b.String()
	}
	ticks := func() uint64 { return s.shard(0).status.Load().statusTick }
	// Pebble may still tidy up after the last checkpoint; after that nothing may move for many intervals.
	eventually(t, "silence", func() bool {
		before, from := listing(), ticks()
		eventually(t, "ticks", func() bool { return ticks() >= from+30 })
		return listing() == before
	})
}

// TestQueueUnderLoadDoesNotGrow: a queue that is never empty keeps its memory and its order.
func TestQueueUnderLoadDoesNotGrow(t *testing.T) {
	q := proposalQueue{maxCommands: 64, maxBytes: 1 << 20}
	const window = 1000
	next, taken := 0, 0
	push := func(n int) {
		ps := make([]Proposal, n)
		for i := range ps {
			ps[i].Command = []byte{byte(next), byte(next >> 8), byte(next >> 16)}
			next++
		}
		q.push(ps)
	}
	push(window)
	for range 10_000 {
		n, _ := q.next()
		for _, p := range q.head(n) {
			if got := int(p.Command[0]) | int(p.Command[1])<<8 | int(p.Command[2])<<16; got != taken&0xffffff {
				t.Fatalf("took %d, want %d", got, taken)
			}
			taken++
		}
		q.pop(n)
		push(n)
	}
	if q.len() != window || cap(q.items) > 4*window {
		t.Errorf("%d wait in a slice of %d", q.len(), cap(q.items))
	}
}
