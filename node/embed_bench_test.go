package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

func benchNodes(b testing.TB, count int) []*Node {
	b.Helper()
	var nodes []*Node
	var join []string
	for i := range count {
		n, err := Open(Config{DataDir: b.TempDir(), NodeID: fmt.Sprint("n", i), APIAddr: "127.0.0.1:0", PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0",
			Join: join, BootstrapExpect: count, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = n.Close() })
		nodes, join = append(nodes, n), append(join, n.GossipAddr())
	}
	for _, n := range nodes {
		if err := n.AwaitReady(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	return nodes
}

// BenchmarkEmbedded is whole lifecycles within one process: a node, tasks of
// 128 bytes submitted in batches of 256 by 16 goroutines, an agent on Batch.
func BenchmarkEmbedded(b *testing.B) {
	n := benchNodes(b, 1)[0]
	b.ReportAllocs()
	b.ResetTimer()
	lifecycles(b, n, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lifecycles/s")
}

// lifecycles takes count tasks through n.
func lifecycles(b testing.TB, n *Node, count int) {
	ctx, stop := context.WithCancel(b.Context())
	var done atomic.Int64
	all := make(chan struct{})
	var working sync.WaitGroup
	for i := range 2 {
		working.Go(func() {
			_ = n.WorkWith(ctx, client.WorkConfig{Manifest: manifest(fmt.Sprint("w", i), 0, "do:it"), Credit: 8192, Batch: func(_ context.Context, tasks []client.Task) []api.Settlement {
				out := make([]api.Settlement, len(tasks))
				for i := range tasks {
					out[i] = api.Settlement{TaskID: tasks[i].TaskID, Epoch: tasks[i].Epoch, Verdict: "complete"}
				}
				return out
			}, Settled: func(list []api.Settlement) {
				if done.Add(int64(len(list))) == int64(count) {
					close(all)
				}
			}})
		})
	}
	input := []byte(`"` + fmt.Sprintf("%0126d", 0) + `"`)
	var submitting sync.WaitGroup
	var next atomic.Int64
	for range 16 {
		submitting.Go(func() {
			for {
				to := next.Add(256)
				from := to - 256
				if to = min(to, int64(count)); from >= to {
					return
				}
				specs := make([]api.TaskSpec, to-from)
				for i := range specs {
					specs[i] = api.TaskSpec{Action: "do", Target: "it", Input: input}
				}
				vs, err := n.Submit(ctx, specs, "bench")
				for _, v := range vs {
					if v.Error != nil {
						err = v.Error
					}
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	submitting.Wait()
	<-all
	stop()
	working.Wait()
}

// BenchmarkOneCaller is the time of a submit acknowledged by a quorum of three
// nodes (in one process), one at a time.
func BenchmarkOneCaller(b *testing.B) {
	nodes := benchNodes(b, 3)
	c, err := client.New(client.Config{URLs: []string{"http://" + nodes[0].APIAddr()}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	s := c.Submitter()
	defer s.Close()
	for name, submit := range map[string]func(api.TaskSpec) error{
		"http":   func(t api.TaskSpec) error { _, err := c.Submit(b.Context(), t); return err },
		"stream": func(t api.TaskSpec) error { _, err := s.Submit(b.Context(), []api.TaskSpec{t}); return err },
		"process": func(t api.TaskSpec) error {
			_, err := nodes[0].Submit(b.Context(), []api.TaskSpec{t}, "bench")
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := submit(api.TaskSpec{Action: "do", Target: "it"}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
			b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
		})
	}
}
