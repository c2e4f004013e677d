package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testCluster = [16]byte{1, 2, 3}

// event is one call of a recorder.
type event struct {
	what string
	from uint64
	num  uint32
	body string
}

// recorder is a Handler that puts what happens into a channel.
type recorder struct {
	events   chan event
	request  func(ctx context.Context, from uint64, method uint8, body []byte) ([]byte, error)
	snapshot func(from uint64, r io.Reader) error
}

func newRecorder() *recorder { return &recorder{events: make(chan event, 1<<16)} }

func (r *recorder) Raft(from uint64, shard uint32, msg []byte) {
	r.events <- event{"raft", from, shard, string(msg)}
}
func (r *recorder) Notify(from uint64, kind uint8, body []byte) {
	r.events <- event{"notify", from, uint32(kind), string(body)}
}
func (r *recorder) PeerUp(id uint64)   { r.events <- event{what: "up", from: id} }
func (r *recorder) PeerDown(id uint64) { r.events <- event{what: "down", from: id} }
func (r *recorder) Request(ctx context.Context, from uint64, method uint8, body []byte) ([]byte, error) {
	if r.request != nil {
		return r.request(ctx, from, method, body)
	}
	return append([]byte(fmt.Sprintf("%d:%d:", from, method)), body...), nil
}
func (r *recorder) Snapshot(from uint64, rd io.Reader) error {
	if r.snapshot != nil {
		return r.snapshot(from, rd)
	}
	_, err := io.Copy(io.Discard, rd)
	return err
}

// want waits for the next event and compares it.
func (r *recorder) want(t testing.TB, want event) {
	t.Helper()
	select {
	case got := <-r.events:
		if got != want {
			t.Fatalf("event %.80v, want %.80v", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no event, want %.80v", want)
	}
}

// none asserts that nothing has been reported.
func (r *recorder) none(t testing.TB) {
	t.Helper()
	select {
	case got := <-r.events:
		t.Fatalf("event %.80v, want none", got)
	default:
	}
}

type testNode struct {
	*Transport
	*recorder
	id uint64
}

func (n *testNode) addr() string { return n.Transport.Addr().String() }

// startNode starts a node n<id>, of the test cluster unless the option changes that.
func startNode(t testing.TB, id uint64, opts ...func(*Config)) *testNode {
	t.Helper()
	cfg := Config{Addr: "127.0.0.1:0", Self: Identity{Cluster: "test", ClusterID: testCluster, RaftID: id, NodeID: fmt.Sprintf("n%d", id)},
		Logger: slog.New(slog.DiscardHandler), RedialMin: 5 * time.Millisecond, RedialMax: 50 * time.Millisecond}
	for _, o := range opts {
		o(&cfg)
	}
	tr, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{Transport: tr, recorder: newRecorder(), id: id}
	t.Cleanup(func() { _ = tr.Close() })
	tr.SetHandler(n.recorder)
	tr.Start()
	if cfg.Self.ClusterID != [16]byte{} {
		if err := tr.SetCluster(cfg.Self.ClusterID); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// introduce makes every node know every other.
func introduce(nodes ...*testNode) {
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.SetPeer(b.id, fmt.Sprintf("n%d", b.id), b.addr())
			}
		}
	}
}

// pair starts two linked nodes and waits until both are up.
func pair(t testing.TB, opts ...func(*Config)) (a, b *testNode) {
	t.Helper()
	a, b = startNode(t, 1, opts...), startNode(t, 2, opts...)
	introduce(a, b)
	a.want(t, event{what: "up", from: 2})
	b.want(t, event{what: "up", from: 1})
	return a, b
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// eventually polls a condition that no event announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
