package node

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/raftstore"
)

// How large BenchmarkBigState makes the state.
var (
	liveFlag  = flag.Int("live", 20_000, "tasks that wait for nobody, in BenchmarkBigState")
	endedFlag = flag.Int("ended", 10_000, "lifecycles that end")
	spanFlag  = flag.Duration("span", time.Second, "how long throughput is measured each time")
)

// stalls notes the longest time a shard's goroutine spent in each call of a
// machine: what other commands waited for.
type stalls struct {
	raftstore.Machine
	apply, freeze, thaw *atomic.Int64 // nanoseconds
}

func longest(a *atomic.Int64, since time.Time) {
	d := int64(time.Since(since))
	for {
		old := a.Load()
		if d <= old || a.CompareAndSwap(old, d) {
			return
		}
	}
}

func (s stalls) Apply(e raftstore.Entry) [][]byte {
	defer longest(s.apply, time.Now())
	return s.Machine.Apply(e)
}

func (s stalls) Freeze() raftstore.Changes {
	defer longest(s.freeze, time.Now())
	return s.Machine.Freeze()
}

func (s stalls) Thaw() {
	defer longest(s.thaw, time.Now())
	s.Machine.Thaw()
}

// bigState is one node with a state that grows.
type bigState struct {
	tb                  testing.TB
	n                   *Node
	dir                 string
	apply, freeze, thaw atomic.Int64
	seq                 atomic.Int64
}

func (b *bigState) open() time.Duration {
	b.tb.Helper()
	wrapMachine = func(m raftstore.Machine) raftstore.Machine { return stalls{m, &b.apply, &b.freeze, &b.thaw} }
	defer func() { wrapMachine = nil }()
	start := time.Now()
	n, err := Open(Config{DataDir: b.dir, NodeID: "n1", APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0",
		BootstrapExpect: 1, Shards: 4, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		b.tb.Fatal(err)
	}
	b.n = n
	for n.Ready() != nil {
		time.Sleep(time.Millisecond) // nothing says when
	}
	if _, err := n.Register(b.tb.Context(), api.Manifest{AgentID: "w", Capabilities: []api.Capability{{Action: "vet", Target: "go"}}}); err != nil {
		b.tb.Fatal(err)
	}
	b.lifecycle(1) // serving is when a task came through
	return time.Since(start)
}

func (b *bigState) submit(action string, n int) {
	specs := make([]api.TaskSpec, n)
	for i := range specs {
		specs[i] = api.TaskSpec{Action: action, Target: "go", IdempotencyKey: fmt.Sprint("k", b.seq.Add(1)), LeaseSeconds: 600,
			Input: json.RawMessage(`{"package":"net/http","flags":["-race"],"commit":"0123456789abcdef0123456789abcdef01234567"}`)}
	}
	out, err := b.n.Submit(b.tb.Context(), specs, "bench")
	if err != nil {
		b.tb.Error(err)
		return
	}
	for i := range out {
		if out[i].Error != nil {
			b.tb.Error(out[i].Error)
			return
		}
	}
}

// many runs fn n times, a few at a time.
func many(n int, fn func()) {
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for range 8 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				fn()
			}
		})
	}
	wg.Wait()
}

// lifecycle submits n tasks and ends n.
func (b *bigState) lifecycle(n int) {
	b.submit("vet", n)
	for n > 0 && !b.tb.Failed() {
		ls, err := b.n.Lease(b.tb.Context(), api.LeaseRequest{AgentID: "w", Max: n, WaitSeconds: 30})
		if err != nil {
			b.tb.Error(err)
			return
		}
		out := make([]api.Settlement, len(ls.Tasks))
		for i, l := range ls.Tasks {
			out[i] = api.Settlement{TaskID: l.TaskID, Epoch: l.Epoch, Verdict: "complete", Result: json.RawMessage(`{"ok":true}`)}
		}
		if _, err := b.n.Settle(b.tb.Context(), "w", out); err != nil {
			b.tb.Error(err)
			return
		}
		n -= len(out)
	}
}

const bigBatch = 256

// rate is lifecycles a second, and the longest stalls meanwhile.
func (b *bigState) rate() (perSecond float64, stalled string) {
	b.apply.Store(0)
	b.freeze.Store(0)
	b.thaw.Store(0)
	start := time.Now()
	var done atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for time.Since(start) < *spanFlag && !b.tb.Failed() {
				b.lifecycle(bigBatch)
				done.Add(bigBatch)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), b.longest()
}

// stalled runs 10,000 lifecycles a second for the span: what is left of the
// stalls when the processor is not the bottleneck.
func (b *bigState) stalled() string {
	b.apply.Store(0)
	b.freeze.Store(0)
	b.thaw.Store(0)
	tick := time.NewTicker(bigBatch * time.Second / 10_000)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < *spanFlag; <-tick.C {
		b.lifecycle(bigBatch)
	}
	return fmt.Sprintf("at 10,000/s %s", b.longest())
}

func (b *bigState) longest() string {
	ms := func(a *atomic.Int64) float64 { return float64(a.Load()) / 1e6 }
	return fmt.Sprintf("longest apply %.1f ms, freeze %.2f ms, thaw %.2f ms", ms(&b.apply), ms(&b.freeze), ms(&b.thaw))
}

// memory is the heap after a collection, and the resident set, in MiB.
func memory() (heap, rss float64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(status)) {
			if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &rss); n == 1 {
				break
			}
		}
	}
	return float64(m.HeapAlloc) / (1 << 20), rss / 1024
}

// TestBigState is a small one: what waited before the restart waits after it,
// what ended stays ended.
func TestBigState(t *testing.T) {
	s := &bigState{tb: t, dir: t.TempDir()}
	s.open()
	many(4, func() { s.submit("nobody", 1000) })
	many(4, func() { s.lifecycle(bigBatch) })
	counts := func() map[string]int {
		v, err := s.n.Cluster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v.Tasks
	}
	before := counts()
	if err := s.n.Close(); err != nil {
		t.Fatal(err)
	}
	s.open() // one lifecycle more
	after := counts()
	if before["ready"] != 4000 || after["ready"] != 4000 || before["completed"] != 4*bigBatch+1 || after["completed"] != 4*bigBatch+2 {
		t.Errorf("before %v, after %v", before, after)
	}
	if err := s.n.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkBigState is one node on a real disk with more and more state: how
// many lifecycles a second, how long a checkpoint stalls a shard, how much
// memory, and how soon it serves after a restart.
//
//	go test ./node -run xxx -bench BigState -benchtime 1x -timeout 30m -live 1000000 -ended 10000000 -span 10s
func BenchmarkBigState(b *testing.B) {
	s := &bigState{tb: b, dir: b.TempDir()}
	s.open()
	tell := func(what string) float64 {
		paced := s.stalled() // first: what went before is still being compacted
		r, stalled := s.rate()
		heap, rss := memory()
		b.Logf("%-32s %7.0f lifecycles/s, %s; %s; heap %.0f MiB, RSS %.0f MiB", what, r, stalled, paced, heap, rss)
		return r
	}
	s.rate() // warm
	empty := tell("empty")
	start := time.Now()
	many(*liveFlag/1000, func() { s.submit("nobody", 1000) })
	b.Logf("%d tasks submitted in %.1f s", *liveFlag, time.Since(start).Seconds())
	b.ReportMetric(tell(fmt.Sprintf("%d live", *liveFlag))/empty, "ratio-live")
	start = time.Now()
	many(*endedFlag/bigBatch, func() { s.lifecycle(bigBatch) })
	b.Logf("%d lifecycles in %.1f s", *endedFlag, time.Since(start).Seconds())
	b.ReportMetric(tell(fmt.Sprintf("%d live, %d ended", *liveFlag, *endedFlag))/empty, "ratio-ended")
	if err := s.n.Close(); err != nil {
		b.Fatal(err)
	}
	took := s.open()
	heap, rss := memory()
	b.Logf("serving %.2f s after the restart, heap %.0f MiB, RSS %.0f MiB", took.Seconds(), heap, rss)
	b.ReportMetric(took.Seconds(), "s-restart")
	if err := s.n.Close(); err != nil {
		b.Fatal(err)
	}
}
