package raftstore

import (
	"encoding/binary"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	snapshotMiB  = flag.Int("snapshot-mib", 64, "size of the state in BenchmarkSnapshot, in MiB")
	snapshotLoad = flag.Int("snapshot-load", 20_000, "proposals a second offered meanwhile; 0 for as many as go, -1 for none")
)

// bulky is a state machine whose commands make much of little: a record of the journal and a row, both half random.
type bulky struct {
	journal Journal
	puts    []KV
	rows    uint64
}

const bulkyBytes = 32 << 10 // of a row, and of a record

func (m *bulky) Restore(Reader, []byte) error { return nil }
func (m *bulky) Apply(e Entry) [][]byte {
	for _, c := range e.Commands {
		if c[0] != 'b' {
			continue
		}
		m.rows++
		r := rand.New(rand.NewPCG(m.rows, 1))
		b := make([]byte, bulkyBytes)
		for i := 0; i < len(b); i += 16 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		m.journal.Append(b)
		m.puts = append(m.puts, KV{binary.BigEndian.AppendUint64(nil, m.rows), b})
	}
	return nil
}

func (m *bulky) Freeze() Changes {
	ch := Changes{Puts: m.puts, Meta: []byte{1}}
	m.puts = nil
	return ch
}
func (m *bulky) Thaw()          {}
func (m *bulky) Lead(uint64)    {}
func (m *bulky) Follow(uint64)  {}
func (m *bulky) Digest() uint64 { return m.rows }

// overTCP gives a snapshot a loopback connection, as the transport between nodes does.
func overTCP(w *network, streamed *atomic.Int64) func(write func(io.Writer) error, receive func(io.Reader) error) error {
	return func(write func(io.Writer) error, receive func(io.Reader) error) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		var sent sync.WaitGroup
		sent.Go(func() {
			c, err := net.Dial("tcp", l.Addr().String())
			if err == nil {
				err = write(counted{c, streamed})
				c.Close()
			}
			if err != nil {
				w.tb.Error(err)
			}
		})
		c, err := l.Accept()
		if err == nil {
			err = receive(c)
			c.Close()
		}
		sent.Wait()
		return err
	}
}

type counted struct {
	w io.Writer
	n *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return c.w.Write(p) }

// loader offers proposals to one store.
type loader struct {
	b    *testing.B
	to   *Store
	done atomic.Int64
}

// propose keeps window of n commands in flight (n < 0: until stop) and returns when all are answered.
func (l *loader) propose(n, window int, command []byte, stop <-chan struct{}) {
	var wg sync.WaitGroup
	tokens := make(chan struct{}, window)
	for i := 0; n < 0 || i < n; i++ {
		select {
		case <-stop:
			n = 0
			continue
		case tokens <- struct{}{}:
		}
		wg.Add(1)
		l.to.Propose(0, []Proposal{{Command: command, Done: func(r Result) {
			if r.Err != nil {
				l.b.Error(r.Err)
			}
			l.done.Add(1)
			<-tokens
			wg.Done()
		}}})
	}
	wg.Wait()
}

// run offers perSecond, or with 0 as many as go, until stop.
func (l *loader) run(perSecond int, stop <-chan struct{}) {
	if perSecond <= 0 {
		l.propose(-1, 1024, make([]byte, 128), stop)
		return
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			l.propose(perSecond/200, 1024, make([]byte, 128), nil)
		}
	}
}

// rate is answers a second while until runs.
func (l *loader) rate(until func()) float64 {
	from, start := l.done.Load(), time.Now()
	until()
	return float64(l.done.Load()-from) / time.Since(start).Seconds()
}

// BenchmarkSnapshot brings a new replica up by a snapshot while the others are loaded: MiB of state a second, and what
// is left of the throughput meanwhile.
//
//	go test ./raftstore -run xxx -bench Snapshot -benchtime 1x -snapshot-mib 1024
func BenchmarkSnapshot(b *testing.B) {
	change := func(c *Config) {
		c.FS, c.Dir = nil, b.TempDir()
		c.TickInterval, c.CheckpointInterval = 0, 0
		c.LogRetainEntries, c.LogRetainMax = 1, 1
		c.Machine = func(_ uint32, _ Reader, j Journal) (Machine, error) { return &bulky{journal: j}, nil }
	}
	w := newCluster(b, 3, 1, change)
	var streamed, took atomic.Int64
	stream := overTCP(w, &streamed)
	w.stream = func(write func(io.Writer) error, receive func(io.Reader) error) error {
		start := time.Now()
		err := stream(write, receive)
		took.Store(int64(time.Since(start)))
		return err
	}
	l := &loader{b: b, to: w.leader(0).store.Load()}
	l.propose(*snapshotMiB<<20/(2*bulkyBytes), 64, []byte("b"), nil)
	if err := l.to.checkpointAt(b.Context(), 0, l.to.Status()[0].Applied); err != nil {
		b.Fatal(err)
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	if *snapshotLoad >= 0 {
		load.Go(func() { l.run(*snapshotLoad, stop) })
	}
	l.rate(func() { <-time.After(time.Second) })
	alone := l.rate(func() { <-time.After(3 * time.Second) })
	b.ResetTimer()
	n := w.add(4, change)
	n.open(b)
	if err := n.store.Load().Create(0, founders); err != nil {
		b.Fatal(err)
	}
	beside := l.rate(func() {
		if err := w.change(0, Change{AddLearner, 4}); err != nil {
			b.Fatal(err)
		}
		eventually(b, "the snapshot is installed", func() bool {
			st, _ := n.store.Load().ShardStatus(0)
			return st.CheckpointIndex > bootIndex
		})
	})
	b.StopTimer()
	close(stop)
	load.Wait()
	seconds := time.Duration(took.Load()).Seconds()
	b.ReportMetric(float64(*snapshotMiB)/seconds, "MiB/s")
	b.ReportMetric(float64(streamed.Load())/(1<<20)/seconds, "MiB/s-packed")
	if *snapshotLoad >= 0 {
		b.ReportMetric(alone, "proposals/s-alone")
		b.ReportMetric(beside/alone, "throughput-ratio")
	}
}
