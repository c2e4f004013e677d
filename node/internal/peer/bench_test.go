package peer

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
)

// counting counts raft messages and answers at once.
type counting struct {
	*recorder
	n    atomic.Int64
	want int64
	done chan struct{}
}

func (c *counting) Raft(uint64, uint32, []byte) {
	if c.n.Add(1) == c.want {
		close(c.done)
	}
}
func (c *counting) PeerUp(uint64)   {}
func (c *counting) PeerDown(uint64) {}
func (c *counting) Request(_ context.Context, _ uint64, _ uint8, body []byte) ([]byte, error) {
	return body, nil
}
func (c *counting) Snapshot(_ uint64, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func benchPair(b *testing.B) (*testNode, *testNode, *counting) {
	x, y := startNode(b, 1), startNode(b, 2)
	c := &counting{recorder: y.recorder, want: int64(b.N), done: make(chan struct{})}
	y.Transport.SetHandler(c)
	introduce(x, y)
	x.want(b, event{what: "up", from: 2})
	eventually(b, "up", func() bool { return y.Up(1) })
	b.ResetTimer()
	return x, y, c
}

// BenchmarkSend is raft messages per second through one connection, until the
// last has arrived.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{100, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			x, _, c := benchPair(b)
			r := (*x.peers.Load())[2]
			msg := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for range b.N {
				for { // the queue is full: come again, as raft would
					before := r.dropped.Load()
					x.Send(2, 1, msg)
					if r.dropped.Load() == before {
						break
					}
				}
			}
			<-c.done
		})
	}
}

// BenchmarkCall is the latency of one call after the other, and of 64 at a time.
func BenchmarkCall(b *testing.B) {
	for _, par := range []int{1, 64} {
		b.Run(fmt.Sprint("parallel", par), func(b *testing.B) {
			x, _, _ := benchPair(b)
			body := make([]byte, 100)
			b.ReportAllocs()
			b.SetParallelism(par)
			one := func() {
				if _, err := x.Call(context.Background(), 2, 1, body); err != nil {
					b.Fatal(err)
				}
			}
			if par == 1 {
				for range b.N {
					one()
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					one()
				}
			})
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	x, _, _ := benchPair(b)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	err := x.SendSnapshot(context.Background(), 2, func(w io.Writer) error {
		for range b.N {
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
