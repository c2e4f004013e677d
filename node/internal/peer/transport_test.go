package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRaftNotifyCallBothWays(t *testing.T) {
	for _, above := range []int{-1, 100} {
		t.Run(fmt.Sprint("compressAbove=", above), func(t *testing.T) {
			a, b := pair(t, func(c *Config) { c.CompressAbove = above })
			big := strings.Repeat("quorate ", 40_000)
			for _, n := range [][2]*testNode{{a, b}, {b, a}} {
				from, to := n[0], n[1]
				for i, body := range []string{"", "x", big} {
					from.Send(to.id, uint32(i), []byte(body))
					to.want(t, event{"raft", from.id, uint32(i), body})
					if err := from.Transport.Notify(to.id, uint8(i), []byte(body)); err != nil {
						t.Fatal(err)
					}
					to.want(t, event{"notify", from.id, uint32(i), body})
					out, err := from.Call(context.Background(), to.id, 7, []byte(body))
					if want := fmt.Sprintf("%d:7:%s", from.id, body); err != nil || string(out) != want {
						t.Fatalf("answer %.40q, %v; want %.40q", out, err, want)
					}
				}
			}
			st := a.Peers()
			if len(st) != 1 || !st[0].Up || st[0].NodeID != "n2" || st[0].SentBytes == 0 || st[0].ReceivedBytes == 0 {
				t.Fatalf("status %+v", st)
			}
		})
	}
}

func TestOrderIsKept(t *testing.T) {
	a, b := pair(t)
	const n = 10_000
	for i := range n {
		a.Send(2, uint32(i), []byte("m"))
	}
	for i := range n {
		b.want(t, event{"raft", 1, uint32(i), "m"})
	}
}

func TestErrorsAreCarriedOver(t *testing.T) {
	a, b := pair(t)
	b.request = func(_ context.Context, _ uint64, method uint8, _ []byte) ([]byte, error) {
		switch method {
		case 1:
			return nil, fmt.Errorf("wrapped: %w", &RemoteError{Code: "not_leader", Text: "go to n3"})
		case 2:
			return nil, ErrOverloaded
		case 3:
			return make([]byte, 17<<20), nil
		}
		return nil, errors.New("boom")
	}
	var re *RemoteError
	if _, err := a.Call(t.Context(), 2, 1, nil); !errors.As(err, &re) || *re != (RemoteError{"not_leader", "go to n3"}) {
		t.Fatal(err)
	}
	_, err := a.Call(t.Context(), 2, 2, nil)
	wantErr(t, err, ErrOverloaded)
	if _, err := a.Call(t.Context(), 2, 3, nil); !errors.As(err, &re) || re.Code != "answer_too_large" {
		t.Fatal(err)
	}
	if _, err := a.Call(t.Context(), 2, 4, nil); !errors.As(err, &re) || *re != (RemoteError{CodeInternal, "boom"}) {
		t.Fatal(err)
	}
}

func TestCallWithoutPeer(t *testing.T) {
	a := startNode(t, 1)
	_, err := a.Call(t.Context(), 2, 1, nil)
	wantErr(t, err, ErrPeerDown)
	wantErr(t, a.Transport.Notify(2, 1, nil), ErrPeerDown)
	wantErr(t, a.SendSnapshot(t.Context(), 2, nil), ErrPeerDown)
	a.Send(2, 1, nil)
}

func TestCallDeadlineAndCancelReachTheHandler(t *testing.T) {
	a, b := pair(t)
	began, ended := make(chan bool, 2), make(chan error, 2)
	b.request = func(ctx context.Context, _ uint64, _ uint8, _ []byte) ([]byte, error) {
		_, has := ctx.Deadline()
		began <- has
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := a.Call(ctx, 2, 1, nil)
	wantErr(t, err, ErrCallLost) // whichever side's clock was first
	if !<-began {
		t.Fatal("the deadline was not passed on")
	}
	<-ended

	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	_, err = a.Call(ctx, 2, 1, nil)
	wantErr(t, err, ErrCallLost)
	wantErr(t, err, context.Canceled)
	wantErr(t, <-ended, context.Canceled)

	_, err = a.Call(ctx, 2, 1, nil) // ended before it began
	wantErr(t, err, context.Canceled)
	if errors.Is(err, ErrCallLost) {
		t.Fatal("a call never sent is not lost")
	}
}

func TestPeerDownIsPromptAndCallsAreLost(t *testing.T) {
	a, b := pair(t)
	began := make(chan struct{})
	b.request = func(ctx context.Context, _ uint64, _ uint8, _ []byte) ([]byte, error) {
		close(began)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	lost := make(chan error, 1)
	go func() {
		_, err := a.Call(context.Background(), 2, 1, nil)
		lost <- err
	}()
	<-began
	closed := time.Now()
	go func() { _ = b.Close() }()
	a.want(t, event{what: "down", from: 2})
	if d := time.Since(closed); d > 100*time.Millisecond {
		t.Fatalf("PeerDown after %v, limit 100 ms", d)
	}
	wantErr(t, <-lost, ErrCallLost)
	if a.Up(2) {
		t.Fatal("still up")
	}
}

func TestRestartedPeerComesBack(t *testing.T) {
	for _, restarted := range []uint64{1, 2} { // the dialer, the acceptor
		t.Run(fmt.Sprint("n", restarted), func(t *testing.T) {
			a, b := pair(t)
			gone, stays := a, b
			if restarted == 2 {
				gone, stays = b, a
			}
			addr := gone.addr()
			if err := gone.Close(); err != nil {
				t.Fatal(err)
			}
			stays.want(t, event{what: "down", from: restarted})
			again := startNode(t, restarted, func(c *Config) { c.Addr = addr })
			introduce(again, stays)
			stays.want(t, event{what: "up", from: restarted})
			again.want(t, event{what: "up", from: stays.id})
			stays.Send(restarted, 3, []byte("hello again"))
			again.want(t, event{"raft", stays.id, 3, "hello again"})
		})
	}
}

// A dialer that restarted while its old connection looks alive replaces it.
func TestStaleConnectionIsReplaced(t *testing.T) {
	b := startNode(t, 2)
	life := func(incarnation uint64) *testNode {
		a := startNode(t, 1, func(c *Config) { c.Self.Incarnation = incarnation })
		a.SetPeer(2, "n2", b.addr())
		return a
	}
	old := life(5)
	b.want(t, event{what: "up", from: 1})
	old.want(t, event{what: "up", from: 2})
	now := life(6)
	b.want(t, event{what: "down", from: 1})
	b.want(t, event{what: "up", from: 1})
	now.want(t, event{what: "up", from: 2})
	old.want(t, event{what: "down", from: 2})
	// The old life is refused from now on: its data directory was copied.
	eventually(t, "the copy is told", func() bool { return strings.Contains(old.Peers()[0].LastRefusal, "rolled_back") })
	now.Send(2, 1, []byte("still here"))
	b.want(t, event{"raft", 1, 1, "still here"})
}

func TestRemovePeer(t *testing.T) {
	a, b := pair(t)
	a.RemovePeer(2)
	a.want(t, event{what: "down", from: 2})
	b.want(t, event{what: "down", from: 1})
	if len(a.Peers()) != 0 || a.Up(2) {
		t.Fatal("still known")
	}
	a.RemovePeer(2)
}

func TestSilentPeerIsDown(t *testing.T) {
	quick := func(c *Config) { c.PingInterval, c.DeadAfter = 50*time.Millisecond, 600*time.Millisecond }
	mute := func(c *Config) { c.PingInterval, c.DeadAfter = time.Hour, 2*time.Hour }
	a, b := startNode(t, 1, quick), startNode(t, 2, quick)
	introduce(a, b)
	a.want(t, event{what: "up", from: 2})
	b.want(t, event{what: "up", from: 1})
	eventually(t, "a round trip is measured", func() bool { return a.Peers()[0].RTT > 0 })
	a.none(t) // pings keep it up

	block := make(chan struct{})
	defer close(block)
	c := startNode(t, 3, mute) // never pings; its reader hangs, so it does not answer either
	c.Transport.SetHandler(&hanging{recorder: c.recorder, block: block})
	a.SetPeer(3, "n3", c.addr())
	a.want(t, event{what: "up", from: 3})
	a.want(t, event{what: "down", from: 3})
	if e := a.Peers()[1].LastError; !strings.Contains(e, "silent") {
		t.Fatalf("reason %q", e)
	}
}

// hanging blocks the reader of every connection.
type hanging struct {
	*recorder
	block chan struct{}
}

func (h *hanging) PeerUp(uint64) { <-h.block }

func TestSlowPeerDoesNotBlockOthers(t *testing.T) {
	small := func(c *Config) { c.MaxFrameBytes, c.MaxQueueBytes = 256<<10, 1<<20 }
	a, b := startNode(t, 1, small), startNode(t, 2, small)
	block := make(chan struct{})
	defer close(block)
	slow := startNode(t, 3, small)
	slow.Transport.SetHandler(&hanging{recorder: slow.recorder, block: block})
	introduce(a, b)
	a.SetPeer(3, "n3", slow.addr())
	eventually(t, "both are up", func() bool { return a.Up(2) && a.Up(3) })
	b.want(t, event{what: "up", from: 1})

	msg := bytes.Repeat([]byte("s"), 200<<10)
	var overloaded bool
	eventually(t, "the queue is full", func() bool { // 1 MiB, once the socket's buffers are
		for range 10 {
			a.Send(3, 0, msg)
		}
		overloaded = overloaded || errors.Is(a.Transport.Notify(3, 0, msg), ErrOverloaded)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := a.Call(ctx, 3, 0, msg)
		return errors.Is(err, ErrOverloaded) && overloaded && a.Peers()[1].Dropped > 0
	})
	if n := a.Peers()[1].QueuedBytes; n > 1<<20 {
		t.Fatalf("%d bytes queued, limit 1 MiB", n)
	}
	for i := range 100 {
		a.Send(2, uint32(i), []byte("fast"))
		b.want(t, event{"raft", 1, uint32(i), "fast"})
	}
}

func TestLimits(t *testing.T) {
	a, b := pair(t, func(c *Config) { c.MaxFrameBytes, c.CompressAbove = 256<<10, -1 })
	body := make([]byte, 256<<10)
	rand.NewChaCha8([32]byte{}).Read(body)
	a.Send(2, 1, body)
	b.want(t, event{"raft", 1, 1, string(body)})
	over := append(body, 0)
	a.Send(2, 1, over)
	if d := a.Peers()[0].Dropped; d != 1 {
		t.Fatalf("dropped %d", d)
	}
	wantErr(t, a.Transport.Notify(2, 1, over), ErrTooLarge)
	_, err := a.Call(t.Context(), 2, 1, over)
	wantErr(t, err, ErrTooLarge)
	a.Send(2, 2, nil)
	b.want(t, event{"raft", 1, 2, ""})
}

func TestInflightLimit(t *testing.T) {
	a, b := pair(t)
	var running sync.WaitGroup
	running.Add(MaxInflightRequests)
	release := make(chan struct{})
	b.request = func(context.Context, uint64, uint8, []byte) ([]byte, error) {
		running.Done()
		<-release
		return nil, nil
	}
	var calls sync.WaitGroup
	for range MaxInflightRequests {
		calls.Go(func() {
			if _, err := a.Call(context.Background(), 2, 1, nil); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	_, err := a.Call(t.Context(), 2, 1, nil)
	wantErr(t, err, ErrOverloaded)
	close(release)
	calls.Wait()
}

func TestConfigNamesEveryMistake(t *testing.T) {
	_, err := Listen(Config{MaxFrameBytes: 1, MaxQueueBytes: 1, PingInterval: time.Second, DeadAfter: time.Second, Self: Identity{NodeID: strings.Repeat("n", 256)}})
	for _, want := range []string{"Listener", "raft ID 0", "node ID", "cluster name", "MaxFrameBytes", "MaxQueueBytes", "DeadAfter"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestSetClusterOnce(t *testing.T) {
	a := startNode(t, 1, func(c *Config) { c.Self.ClusterID = [16]byte{} })
	if err := a.SetCluster([16]byte{}); err == nil {
		t.Fatal("zero accepted")
	}
	for range 2 {
		if err := a.SetCluster(testCluster); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.SetCluster([16]byte{9}); err == nil {
		t.Fatal("another cluster accepted")
	}
}
