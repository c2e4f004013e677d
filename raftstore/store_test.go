package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCommitAndRestart(t *testing.T) {
	w := newCluster(t, 3, 2, nil)
	for i := range 200 {
		for shard := range uint32(2) {
			r := w.must(shard, fmt.Sprintf("k%d=%d", i%10, i))
			if r.Index == 0 || r.Outcome == nil {
				t.Fatalf("result %+v", r)
			}
		}
	}
	w.converge(2)
	for _, n := range w.nodes {
		s := n.store.Swap(nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range w.nodes {
		n.open(t)
		if st := n.store.Load().Status()[0]; st.CheckpointIndex < 200 {
			t.Errorf("node %d restarts from a checkpoint at %d", n.id, st.CheckpointIndex)
		}
	}
	w.must(0, "after=restart")
	w.converge(2)
	if got := w.nodes[1].toy(1).get("k9"); got != "199" {
		t.Fatalf("k9 = %q", got)
	}
}

// TestLeaderCrash kills the leader under load. Everything acknowledged must be there, on it too when it is back.
func TestLeaderCrash(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	acked := map[string]string{}
	put := func(i int) {
		k, v := fmt.Sprintf("k%d", i), fmt.Sprint(i)
		w.must(0, k+"="+v)
		acked[k] = v
	}
	for round := range 3 {
		for i := range 100 {
			put(round*1000 + i)
		}
		dead := w.leader(0)
		dead.crash(t)
		start := time.Now()
		put(round*1000 + 500)
		t.Logf("failover took %v", time.Since(start))
		for i := range 50 {
			put(round*1000 + 600 + i)
		}
		dead.open(t)
	}
	w.converge(1)
	for _, n := range w.nodes {
		for k, v := range acked {
			if got := n.toy(0).get(k); got != v {
				t.Fatalf("node %d: %s = %q, acknowledged %q", n.id, k, got, v)
			}
		}
	}
}

// TestUnknownAndLost cuts the leader off: what it can't know is unknown after a while, what was overtaken is lost.
func TestUnknownAndLost(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	old := w.leader(0)
	w.setCut(old.id, true)
	results := make(chan Result, 1)
	old.store.Load().Propose(0, []Proposal{{Command: []byte("lost=1"), Done: func(r Result) { results <- r }}})
	for _, n := range w.nodes {
		if n != old {
			n.store.Load().PeerDown(old.id)
		}
	}
	eventually(t, "another leader", func() bool { return w.leader(0) != old })
	w.must(0, "b=2")
	w.setCut(old.id, false)
	var r Result
	select {
	case r = <-results:
	case <-time.After(testTimeout):
		t.Fatal("no answer")
	}
	var nl *NotLeaderError
	if !errors.As(r.Err, &nl) && !errors.Is(r.Err, ErrUnknown) {
		t.Fatalf("result %+v", r)
	}
	w.converge(1)
	if got := old.toy(0).get("lost"); got != "" {
		t.Fatalf("lost = %q", got)
	}

	// All others gone for good: nobody can know.
	lone := w.leader(0)
	w.setCut(lone.id, true)
	if r := lone.propose(0, "c=3"); !errors.Is(r.Err, ErrUnknown) {
		t.Fatalf("result %+v", r)
	}
}

func TestReads(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	for i := range 50 {
		res := w.must(0, fmt.Sprintf("k=%d", i))
		leader := w.leader(0)
		index, err := leader.store.Load().ReadIndex(ctx, 0)
		if err != nil || index < res.Index {
			t.Fatalf("read index %d after %d: %v", index, res.Index, err)
		}
		if got := leader.toy(0).get("k"); got != fmt.Sprint(i) {
			t.Fatalf("read %q after %d was acknowledged", got, i)
		}
	}
	leader := w.leader(0)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := leader.store.Load().ReadIndex(ctx, 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, n := range w.nodes {
		if n == leader {
			continue
		}
		_, err := n.store.Load().ReadIndex(ctx, 0)
		var nl *NotLeaderError
		if !errors.As(err, &nl) || nl.Leader != leader.id {
			t.Fatalf("read on a follower: %v", err)
		}
	}
	// A leader that is cut off never answers with what may be stale.
	w.setCut(leader.id, true)
	if _, err := leader.store.Load().ReadIndex(ctx, 0); err == nil {
		t.Fatal("a leader without a quorum answered a read")
	}
	short, cancelShort := context.WithCancel(ctx)
	cancelShort()
	if err := leader.store.Load().WaitApplied(short, 0, 1<<40); !errors.Is(err, context.Canceled) {
		t.Fatalf("wait: %v", err)
	}
}

// TestTransferLeader hands leadership over while commands keep coming; none may be refused without a name.
func TestTransferLeader(t *testing.T) {
	w := newCluster(t, 3, 1, nil)
	w.must(0, "a=1")
	for i := range 6 {
		old := w.leader(0)
		to := old.id%3 + 1
		handed := make(chan error, 1)
		go func() { handed <- old.store.Load().TransferLeader(t.Context(), 0, to) }()
		n := old
		for {
			r := n.propose(0, fmt.Sprintf("k=%d", i))
			var nl *NotLeaderError
			if errors.As(r.Err, &nl) && nl.Leader != 0 {
				n = w.nodes[nl.Leader]
				continue
			}
			if r.Err != nil {
				t.Fatalf("proposal during a handover: %v", r.Err)
			}
			break
		}
		if err := <-handed; err != nil {
			t.Log(err) // an election timeout is 100 ms here: a busy machine may need longer
			continue
		}
		eventually(t, "the handover", func() bool { return w.leader(0).id == to })
	}
	var refused *TransferError
	if err := w.leader(0).store.Load().TransferLeader(t.Context(), 0, 99); !errors.As(err, &refused) {
		t.Fatalf("handed over to nobody: %v", err)
	}
	w.converge(1)
}

func shortLog(c *Config) { c.LogRetainEntries, c.LogRetainMax = 8, 16 }

// fillPast writes until all logs are truncated beyond what a node that is away has: all that is before the first
// write. (What Status says of a leader's log may be a tick old.)
func (w *network) fillPast() {
	w.tb.Helper()
	index := w.must(0, "fill=").Index
	for i := 0; ; i++ {
		w.must(0, fmt.Sprintf("fill%d=%s", i%500, strings.Repeat("x", i%300)))
		short := true
		for _, n := range w.nodes {
			s := n.store.Load()
			short = short && (s == nil || s.Status()[0].FirstIndex > index+1)
		}
		if short {
			return
		}
		if i > 5000 {
			w.tb.Fatal("the log is never truncated")
		}
	}
}

func TestSnapshotCatchUp(t *testing.T) {
	w := newCluster(t, 3, 1, shortLog)
	for i := range 20 {
		w.must(0, fmt.Sprintf("k%d=%d", i, i))
	}
	w.converge(1)
	var away *testNode
	for _, n := range w.nodes {
		if n != w.leader(0) {
			away = n
		}
	}
	away.crash(t)
	w.fillPast()
	// The first streams are damaged in different ways: refused, nothing changed, tried again.
	var damage sync.Mutex
	tries := 0
	w.corrupt = func(_, _ uint64, out io.Writer) io.Writer {
		damage.Lock()
		defer damage.Unlock()
		tries++
		switch tries {
		case 1:
			return &damager{w: out, flip: 40}
		case 2:
			return &damager{w: out, cut: 90}
		}
		return out
	}
	away.open(t)
	w.converge(1)
	damage.Lock()
	if tries < 3 {
		t.Fatalf("%d snapshots were sent", tries)
	}
	damage.Unlock()
	first := away.store.Load().Status()[0].FirstIndex
	if first < 20 {
		t.Fatalf("the log begins at %d: it was not replaced", first)
	}
	// What was installed survives a crash, and the node is a full member again.
	away.crash(t)
	away.open(t)
	w.must(0, "again=1")
	w.converge(1)
}

// damager flips or cuts a stream at an offset.
type damager struct {
	w         io.Writer
	flip, cut int
	at        int
}

func (d *damager) Write(p []byte) (int, error) {
	p = append([]byte{}, p...)
	if d.flip >= d.at && d.flip < d.at+len(p) {
		p[d.flip-d.at] ^= 4
	}
	if d.cut > 0 && d.at+len(p) > d.cut {
		return 0, errors.New("cut")
	}
	d.at += len(p)
	return d.w.Write(p)
}

// TestInstallCrash crashes a receiver after every step of an installation.
func TestInstallCrash(t *testing.T) {
	steps := []string{"noted", "journal", "state", "noted/whole", "journal/whole", "state/whole"}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			w := newCluster(t, 3, 1, shortLog)
			step, w.mute = strings.CutSuffix(step, "/whole") // with the whole journal, or with its end only
			w.must(0, "a=1")
			var away *testNode
			for _, n := range w.nodes {
				if n != w.leader(0) {
					away = n
				}
			}
			away.crash(t)
			w.fillPast()
			died := make(chan struct{})
			var once sync.Once
			away.cfg.OnFatal = func(error) { once.Do(func() { close(died) }) }
			installStep = func(s string) error {
				if s == step {
					return errors.New("crash here")
				}
				return nil
			}
			away.open(t)
			select {
			case <-died:
			case <-time.After(testTimeout):
				t.Fatal("nothing was installed")
			}
			crashed := away.clone()
			s := away.store.Swap(nil)
			if err := s.Close(); err == nil {
				t.Fatal("a failed store closed without an error")
			}
			installStep = nil
			away.cfg.FS = crashed
			away.cfg.OnFatal = func(err error) { t.Error(err) }
			away.open(t)
			w.must(0, "b=2")
			w.converge(1)
		})
	}
}
