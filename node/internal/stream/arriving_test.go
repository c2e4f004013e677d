package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
	"github.com/quorate/quorate/node/internal/gate"
)

// unfinished opens a stream of submits and sends size bytes of a message that
// is said to have more. The answer's body says how it ends.
func unfinished(t *testing.T, url string, size int) (answer <-chan string) {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r, w := io.Pipe()
	q, err := http.NewRequestWithContext(ctx, "POST", url+Prefix+"Submit", r)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/connect+proto")
	out := make(chan string, 1)
	go func() {
		a, err := tr.RoundTrip(q)
		if err != nil {
			out <- err.Error()
			return
		}
		b, err := io.ReadAll(a.Body)
		_ = a.Body.Close()
		if err != nil {
			b = append(b, err.Error()...)
		}
		out <- string(b)
	}()
	head := append([]byte{0}, binary.BigEndian.AppendUint32(nil, uint32(size+1))...)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(w, io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, size-len(head))))) // it may be refused meanwhile
	}()
	t.Cleanup(func() {
		cancel()
		_ = w.Close()
		<-sent
		tr.CloseIdleConnections()
	})
	return out
}

func used(t *testing.T, b *gate.Bytes, want int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); b.Used() != want; time.Sleep(time.Millisecond) { // nothing tells of it
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are counted, want %d", b.Used(), want)
		}
	}
}

// What has arrived of messages, finished or not, is bounded over all streams.
func TestArrivingBytes(t *testing.T) {
	const limit = 1 << 20
	b := gate.NewBytes(limit)
	url := serve(t, newFake(), Config{Bytes: b, WholeWithin: time.Hour})
	first := unfinished(t, url, limit/2+gate.FreeArriving)
	used(t, b, limit/2)
	unfinished(t, url, limit/2+gate.FreeArriving) // at the limit
	used(t, b, limit)
	for range 10 {
		unfinished(t, url, gate.FreeArriving) // which cost nothing
	}
	over := <-unfinished(t, url, 2*gate.FreeArriving)
	if !strings.Contains(over, "too_many_bytes") || !strings.Contains(over, "unavailable") {
		t.Errorf("one over: %q", over)
	}
	if b.Used() != limit {
		t.Errorf("%d bytes are counted after the refusal", b.Used())
	}
	select {
	case got := <-first:
		t.Errorf("an earlier stream ended: %q", got)
	default:
	}
}

// The rest of a large message has to come, and what came is forgotten then.
func TestUnfinishedMessage(t *testing.T) {
	b := gate.NewBytes(0)
	url := serve(t, newFake(), Config{Bytes: b, WholeWithin: 200 * time.Millisecond})
	small := unfinished(t, url, gate.FreeArriving)
	if got := <-unfinished(t, url, 1<<20); !strings.Contains(got, "message_timeout") {
		t.Errorf("ended with %q", got)
	}
	used(t, b, 0)
	select {
	case got := <-small:
		t.Errorf("a small one ended: %q", got)
	default:
	}
}

// blocking is a node whose submits wait.
type blocking struct {
	*fake
	got  chan struct{}
	done chan struct{}
}

func (f *blocking) Submit(ctx context.Context, specs []api.TaskSpec, by string) ([]api.SubmitVerdict, error) {
	f.got <- struct{}{}
	<-f.done
	return f.fake.Submit(ctx, specs, by)
}

// A message counts until it is answered; the deadline ends when it is there.
func TestBytesUntilAnswered(t *testing.T) {
	b := gate.NewBytes(0)
	f := &blocking{fake: newFake(), got: make(chan struct{}, 1), done: make(chan struct{})}
	url := serve(t, f, Config{Bytes: b, WholeWithin: 300 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	st := dial(t, url).Submit(ctx)
	defer func() { _ = st.CloseResponse() }()
	task := func(n int) *pb.SubmitRequest {
		return &pb.SubmitRequest{Tasks: []*pb.TaskSpec{{Action: "a", Target: "b", IdempotencyKey: "k", Input: make([]byte, n)}}}
	}
	if err := st.Send(task(1 << 20)); err != nil {
		t.Fatal(err)
	}
	<-f.got
	if n := b.Used(); n < 1<<20-gate.FreeArriving || n > 1<<20 {
		t.Errorf("%d bytes are counted for 1 MiB on its way", n)
	}
	<-unfinished(t, url, 1<<20) // whose time is over, and that of the first one would be
	close(f.done)
	if _, err := st.Receive(); err != nil {
		t.Fatal(err)
	}
	used(t, b, 0)
	if err := st.Send(task(10)); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Receive(); err != nil {
		t.Fatalf("after a pause: %v", err)
	}
	if err := st.CloseRequest(); err != nil {
		t.Fatal(err)
	}
}
