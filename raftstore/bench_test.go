package raftstore

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// countingMachine applies for nothing: what is measured is replication.
type countingMachine struct {
	applied uint64
	outcome []byte
	out     [][]byte
}

func (m *countingMachine) Restore(Reader, []byte) error { return nil }
func (m *countingMachine) Apply(e Entry) [][]byte {
	m.applied += uint64(len(e.Commands))
	m.out = m.out[:0]
	for range e.Commands {
		m.out = append(m.out, m.outcome)
	}
	return m.out
}
func (m *countingMachine) Freeze() Changes { return Changes{Meta: []byte{1}} }
func (m *countingMachine) Thaw()           {}
func (m *countingMachine) Lead(uint64)     {}
func (m *countingMachine) Follow(uint64)   {}
func (m *countingMachine) Digest() uint64  { return m.applied }

func benchCluster(b *testing.B, shards uint32) *network {
	w := newCluster(b, 3, shards, func(c *Config) {
		c.FS = nil
		c.Dir = b.TempDir()
		c.TickInterval, c.CheckpointInterval = 0, 0
		c.Machine = func(uint32, Reader, Journal) (Machine, error) {
			return &countingMachine{outcome: []byte{1}}, nil
		}
	})
	for shard := range shards {
		w.leader(shard)
	}
	return w
}

// BenchmarkPropose keeps window commands of 128 bytes in flight over three stores in one process, with fsync on a
// real disk.
func BenchmarkPropose(b *testing.B) {
	for _, c := range []struct {
		shards uint32
		window int
	}{{1, 1}, {1, 64}, {1, 8192}, {4, 8192}} {
		b.Run(fmt.Sprintf("shards=%d/window=%d", c.shards, c.window), func(b *testing.B) {
			w := benchCluster(b, c.shards)
			leaders := make([]*testNode, c.shards)
			for i := range leaders {
				leaders[i] = w.leader(uint32(i))
			}
			command := bytes.Repeat([]byte{7}, 128)
			var wg sync.WaitGroup
			var failed atomic.Int64
			hist := hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
			var histMu sync.Mutex
			tokens := make(chan struct{}, c.window)
			b.ResetTimer()
			for i := 0; i < b.N; {
				tokens <- struct{}{}
				n := 1
				for n < 32 && i+n < b.N && len(tokens) < cap(tokens) {
					tokens <- struct{}{}
					n++
				}
				ps := make([]Proposal, n)
				start := time.Now()
				wg.Add(n)
				for j := range ps {
					ps[j] = Proposal{Command: command, Done: func(r Result) {
						if r.Err != nil {
							failed.Add(1)
						}
						if j == 0 {
							histMu.Lock()
							_ = hist.RecordValue(time.Since(start).Microseconds())
							histMu.Unlock()
						}
						<-tokens
						wg.Done()
					}}
				}
				shard := uint32(i/32) % c.shards
				leaders[shard].store.Load().Propose(shard, ps)
				i += n
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proposals/s")
			b.ReportMetric(float64(hist.ValueAtQuantile(50)), "p50-µs")
			b.ReportMetric(float64(hist.ValueAtQuantile(99)), "p99-µs")
			b.ReportMetric(float64(failed.Load()), "failed")
		})
	}
}

// BenchmarkIdle measures what three nodes with five shards each cost when nothing happens.
func BenchmarkIdle(b *testing.B) {
	w := benchCluster(b, 5)
	<-time.After(3 * time.Second) // the last checkpoints
	const span = 5 * time.Second
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := cpu()
	<-time.After(span)
	used := cpu() - before
	b.ReportMetric(100*used.Seconds()/span.Seconds()/float64(len(w.nodes)), "%core/node")
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(status)) {
			var kib float64
			if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
				b.ReportMetric(kib/1024, "MiB-RSS-all-nodes")
			}
		}
	}
}
