package raftstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"
)

// successors makes nodes 11, 12, … that do not run yet; begin starts them.
func successors(t *testing.T, n int, fill func(c *Config, voters []uint64)) *network {
	t.Helper()
	w := &network{tb: t, nodes: map[uint64]*testNode{}}
	w.mu.cut, w.mu.pipes = map[[2]uint64]bool{}, map[[2]uint64]chan packet{}
	var voters []uint64
	for i := range n {
		voters = append(voters, uint64(11+i))
	}
	for _, id := range voters {
		node := &testNode{id: id, net: w, fatal: make(chan error, 1)}
		node.toys.m = map[uint32]*toyMachine{}
		node.cfg = Config{
			Dir: "/data", FS: vfs.NewCrashableMem(), RaftID: id, Transport: node, Logger: testLogger(t),
			TickInterval: 10 * time.Millisecond, CheckpointInterval: 50 * time.Millisecond,
			OnFatal: func(err error) { node.fatal <- err },
			Machine: func(shard uint32, r Reader, j Journal) (Machine, error) {
				m, err := newToy(shard, r, j)
				node.toys.Lock()
				node.toys.m[shard] = m.(*toyMachine)
				node.toys.Unlock()
				return m, err
			},
		}
		fill(&node.cfg, voters)
		w.nodes[id] = node
	}
	t.Cleanup(w.close)
	for _, node := range w.nodes {
		node.cfg.FS = node.clone() // only what was synced
		node.open(t)
	}
	return w
}

// backups streams every shard of w.
func backups(t *testing.T, w *network, shards uint32) [][]byte {
	t.Helper()
	out := make([][]byte, shards)
	for shard := range shards {
		eventually(t, "a backup", func() bool {
			var b bytes.Buffer
			err := w.leader(shard).store.Load().Backup(t.Context(), shard, &b)
			out[shard] = b.Bytes()
			return err == nil
		})
	}
	return out
}

func told(command string) func(SeedInfo) [][]byte {
	return func(SeedInfo) [][]byte { return [][]byte{[]byte(command)} }
}

func seedFrom(t *testing.T, cfg *Config, voters []uint64, streams [][]byte) []SeedInfo {
	t.Helper()
	s, err := NewSeed(SeedConfig{Dir: cfg.Dir, RaftID: cfg.RaftID, Voters: voters, TimeMillis: 77, Config: Config{FS: cfg.FS}})
	if err != nil {
		t.Fatal(err)
	}
	var infos []SeedInfo
	for shard, b := range streams {
		records := 0
		info, err := s.Add(SeedShard{Stream: bytes.NewReader(b), Commands: told("origin=backup"),
			Journal: JournalSight{Record: func([]byte) error { records++; return nil }}})
		if err != nil || info.JournalBytes > 0 && records == 0 {
			t.Fatalf("shard %d: %v, %d records", shard, err, records)
		}
		infos = append(infos, info)
	}
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	return infos
}

// TestBackupAndSeed takes a backup under load and makes another cluster of it: everything acknowledged before is
// there, the terms begin above the old ones, and the new cluster works on.
func TestBackupAndSeed(t *testing.T) {
	w := newCluster(t, 3, 2, nil)
	for i := range 300 {
		w.must(uint32(i%2), fmt.Sprintf("k%d=%d", i, i))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.leader(uint32(i%2)).propose(uint32(i%2), fmt.Sprintf("busy%d=%d", i%50, i))
			}
		}
	}()
	var oldTerms []uint64 // at least; they may rise until a shard's stream begins
	for _, st := range w.leader(0).store.Load().Status() {
		oldTerms = append(oldTerms, st.Term)
	}
	streams := backups(t, w, 2)
	close(stop)
	<-stopped
	var infos []SeedInfo
	next := successors(t, 3, func(c *Config, voters []uint64) { infos = seedFrom(t, c, voters, streams) })
	for shard, info := range infos {
		if info.Shard != uint32(shard) || info.NewTerm < oldTerms[shard]+termRaise || info.Last != info.Index {
			t.Errorf("seeded with %+v, the old term is %d", info, oldTerms[shard])
		}
	}
	for i := range 300 {
		if got := next.leader(uint32(i % 2)).toy(uint32(i % 2)).get(fmt.Sprintf("k%d", i)); got != fmt.Sprint(i) {
			t.Fatalf("k%d = %q in the new cluster", i, got)
		}
	}
	next.must(0, "after=restore")
	next.must(1, "after=restore")
	next.converge(2)
	for id, n := range next.nodes {
		if n.toy(1).get("origin") != "backup" || n.toy(0).get("after") != "restore" {
			t.Errorf("node %d lacks what the new cluster did", id)
		}
		if st := n.store.Load().Status()[0]; st.Term <= infos[0].NewTerm {
			t.Errorf("term %d is not above %d", st.Term, infos[0].NewTerm)
		}
	}
}

// TestSeedRefusals: nothing but a whole, undamaged source and an empty directory will do.
func TestSeedRefusals(t *testing.T) {
	w := newCluster(t, 1, 2, nil)
	for i := range 50 {
		w.must(uint32(i%2), fmt.Sprintf("k%d=%d", i, i))
	}
	streams := backups(t, w, 2)
	add := func(stream []byte) error {
		s, err := NewSeed(SeedConfig{Dir: "/data", RaftID: 9, Voters: []uint64{9}, Config: Config{FS: vfs.NewMem()}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Add(SeedShard{Stream: bytes.NewReader(stream), Commands: told("x"), Journal: JournalSight{Record: func([]byte) error { return nil }}})
		if ferr := s.Finish(); (ferr == nil) != (err == nil) {
			t.Errorf("add said %v, finish %v", err, ferr)
		}
		return err
	}
	if err := add(streams[0]); err != nil {
		t.Fatal(err)
	}
	if err := add(streams[1]); !errors.Is(err, ErrMalformed) {
		t.Errorf("another shard's stream: %v", err)
	}
	for n := range streams[0] {
		if n%7 == 0 && add(streams[0][:n]) == nil {
			t.Fatalf("%d of %d bytes were taken for a whole", n, len(streams[0]))
		}
		if n%3 == 0 {
			b := bytes.Clone(streams[0])
			b[n] ^= 1 << (n % 8)
			if _, err := CheckStream(bufio.NewReader(bytes.NewReader(b)), JournalSight{Record: func([]byte) error { return nil }}); err == nil {
				t.Fatalf("a flipped bit in byte %d was not noticed", n)
			}
		}
	}
	full := vfs.NewMem()
	if err := full.MkdirAll("/data/something", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := NewSeed(SeedConfig{Dir: "/data", RaftID: 9, Voters: []uint64{9}, Config: Config{FS: full}}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a directory in use: %v", err)
	}
	if _, err := NewSeed(SeedConfig{Dir: "/data", RaftID: 9, Voters: []uint64{8}, Config: Config{FS: vfs.NewMem()}}); err == nil {
		t.Error("a node that is no voter was seeded")
	}
}

// TestSurvivor loses two of three disks, the leader's among them: what the survivor's log has is in the new cluster,
// whether it knew that it was committed or not, and its own directory is as it was.
func TestSurvivor(t *testing.T) {
	w := newCluster(t, 3, 1, func(c *Config) { c.CheckpointInterval = time.Hour })
	for i := range 100 {
		w.must(0, fmt.Sprintf("k%d=%d", i, i))
	}
	lead := w.leader(0)
	var last *testNode
	for _, n := range w.nodes {
		if n != lead {
			last = n
		}
	}
	commit := lead.store.Load().Status()[0].Commit
	eventually(t, "the survivor has the log", func() bool { return last.store.Load().Status()[0].Commit >= commit })
	cfg := last.cfg
	cfg.FS = last.clone()
	for _, n := range w.nodes {
		if err := n.store.Swap(nil).stop(true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenSurvivor(Config{Dir: "/data", RaftID: 1 << 40, FS: cfg.FS}); err == nil {
		t.Error("a directory was opened as another node's")
	}
	sv, err := OpenSurvivor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer sv.Close()
	if have := sv.Shards(); !slices.Equal(have, []uint32{0}) {
		t.Fatalf("shards %d", have)
	}
	st, err := sv.Shard(0)
	if err != nil || st.Last < commit || st.Checkpoint != bootIndex || st.LastLed {
		t.Fatalf("survivor %+v, %v; %d was committed", st, err, commit)
	}
	next := successors(t, 3, func(c *Config, voters []uint64) {
		s, err := NewSeed(SeedConfig{Dir: c.Dir, RaftID: c.RaftID, Voters: voters, Config: Config{FS: c.FS}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		sh, err := sv.Seed(ctx, 0, told("origin=survivor"))
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Add(sh)
		if err != nil || info.Last != st.Last || info.NewTerm < st.Term+termRaise {
			t.Fatalf("%+v, %v", info, err)
		}
		lost, err := sv.Lost(told("origin=nothing")) // a shard that it has no replica of
		if err != nil {
			t.Fatal(err)
		}
		if info, err := s.Add(lost); err != nil || info.Shard != 1 || info.NewTerm < st.Term+termRaise {
			t.Fatalf("%+v, %v", info, err)
		}
		if err := s.Finish(); err != nil {
			t.Fatal(err)
		}
	})
	next.must(0, "after=recovery")
	next.must(1, "after=loss")
	next.converge(2)
	survived(t, next)
}

// survived looks for what the survivor of TestSurvivor had, and for the shard that it had not.
func survived(t *testing.T, next *network) {
	t.Helper()
	for id, n := range next.nodes {
		for i := range 100 {
			if got := n.toy(0).get(fmt.Sprintf("k%d", i)); got != fmt.Sprint(i) {
				t.Fatalf("node %d: k%d = %q", id, i, got)
			}
		}
		if n.toy(0).get("origin") != "survivor" {
			t.Errorf("node %d was not told where it comes from", id)
		}
		if n.toy(1).get("origin") != "nothing" || n.toy(1).get("after") != "loss" {
			t.Errorf("node %d: the lost shard holds %q", id, n.toy(1).get("origin"))
		}
	}
}

// TestUnaskedBase: a stream that lacks what nobody said to have is refused, by a replica and by a seed.
func TestUnaskedBase(t *testing.T) {
	w := newCluster(t, 1, 4, nil)
	m := sampleSnapshot(5)
	m.h.base = journalBase{10, crcOf(m.journals[:10])}
	m.journals = m.journals[10:]
	b := m.stream(t)
	if err := w.leader(3).store.Load().Receive(2, bytes.NewReader(b)); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "not asked for") {
		t.Errorf("received: %v", err)
	}
	if _, err := CheckStream(bufio.NewReader(bytes.NewReader(b)), JournalSight{Record: func([]byte) error { return nil }}); !errors.Is(err, ErrMalformed) {
		t.Errorf("checked: %v", err)
	}
}

// TestGroupedCheckpoints: checkpoints of several shards, large and small, with and without changes, go into one ingest.
func TestGroupedCheckpoints(t *testing.T) {
	d, err := openDisk(Config{Dir: "/data", FS: vfs.NewMem(), RaftID: 1}.withDefaults(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for round := range 3 {
		var group []*stateWrite
		for shard := range uint32(6) {
			w := &stateWrite{shard: shard, c: checkpoint{index: uint64(10 + round), term: 1, conf: &pb.ConfState{Voters: []uint64{1}}}}
			if shard%2 == 1 {
				w.changes.Puts = []KV{{[]byte("a"), []byte{byte(round)}}, {[]byte("z"), make([]byte, int(shard)<<19)}}
			}
			group = append(group, w)
		}
		if err := d.state.write(fmt.Sprint("group", round), group, nil); err != nil {
			t.Fatal(err)
		}
		for shard := range uint32(6) {
			c, found, err := d.state.checkpoint(shard)
			v, has, gerr := stateReader{d.state, shard}.Get([]byte("a"))
			if err != nil || gerr != nil || !found || c.index != uint64(10+round) || has != (shard%2 == 1) || has && v[0] != byte(round) {
				t.Fatalf("round %d shard %d: %+v %v %v, %v %v %v", round, shard, c, found, err, v, has, gerr)
			}
		}
	}
}
