package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestSnapshotStreams(t *testing.T) {
	a, b := pair(t)
	for _, n := range []int{0, 1, SnapshotChunkBytes, SnapshotChunkBytes + 1, 5<<20 + 7} {
		for _, dir := range [][2]*testNode{{a, b}, {b, a}} {
			from, to := dir[0], dir[1]
			want := randomBytes(n)
			got := make(chan []byte, 1)
			to.snapshot = func(id uint64, r io.Reader) error {
				all, err := io.ReadAll(r)
				if id != from.id {
					t.Errorf("from %d", id)
				}
				got <- all
				return err
			}
			err := from.SendSnapshot(t.Context(), to.id, func(w io.Writer) error {
				_, err := io.Copy(w, bytes.NewReader(want))
				return err
			})
			if err != nil {
				t.Fatal(n, err)
			}
			if !bytes.Equal(<-got, want) {
				t.Fatalf("%d bytes arrived changed", n)
			}
		}
	}
}

func TestSnapshotFailures(t *testing.T) {
	a, b := pair(t)
	endless := func(w io.Writer) error {
		for chunk := randomBytes(SnapshotChunkBytes); ; {
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
	}
	t.Run("receiver refuses half-way", func(t *testing.T) {
		b.snapshot = func(_ uint64, r io.Reader) error {
			_, _ = io.CopyN(io.Discard, r, 1<<20)
			return &RemoteError{Code: "stale_snapshot", Text: "have a newer one"}
		}
		var re *RemoteError
		if err := a.SendSnapshot(t.Context(), 2, endless); !errors.As(err, &re) || re.Code != "stale_snapshot" {
			t.Fatal(err)
		}
	})
	t.Run("sender fails", func(t *testing.T) {
		seen := make(chan error, 1)
		b.snapshot = func(_ uint64, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			seen <- err
			return err
		}
		disk := errors.New("disk error")
		wantErr(t, a.SendSnapshot(t.Context(), 2, func(w io.Writer) error {
			_, _ = w.Write(randomBytes(1 << 20))
			return disk
		}), disk)
		wantErr(t, <-seen, io.ErrUnexpectedEOF)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b.snapshot = func(_ uint64, r io.Reader) error {
			cancel()
			_, err := io.Copy(io.Discard, r)
			return err
		}
		wantErr(t, a.SendSnapshot(ctx, 2, endless), context.Canceled)
	})
	t.Run("receiver closes", func(t *testing.T) {
		began := make(chan struct{})
		b.snapshot = func(_ uint64, r io.Reader) error {
			close(began)
			_, err := io.Copy(io.Discard, r)
			return err
		}
		go func() {
			<-began
			_ = b.Close()
		}()
		if err := a.SendSnapshot(t.Context(), 2, endless); err == nil {
			t.Fatal("no error")
		}
	})
}

func TestChunkReaderVerifies(t *testing.T) {
	chunk := appendFrame(nil, &frame{typ: typeChunk, body: []byte("hello")})
	end := func(total uint64, crc uint32) []byte {
		return appendFrame(nil, &frame{typ: typeEnd, id: total, crc: crc})
	}
	crc := checksum([]byte("hello"))
	cases := []struct {
		name string
		in   []byte
		err  error
	}{
		{"whole", append(bytes.Clone(chunk), end(5, crc)...), nil},
		{"cut", chunk, io.ErrUnexpectedEOF},
		{"length", append(bytes.Clone(chunk), end(6, crc)...), errFrameCRC},
		{"checksum", append(bytes.Clone(chunk), end(5, crc+1)...), errFrameCRC},
		{"chunk lost", end(5, crc), errFrameCRC},
		{"foreign frame", append(bytes.Clone(chunk), appendFrame(nil, &frame{typ: typePing})...), errFrameUnasked},
	}
	for _, c := range cases {
		r := &chunkReader{nc: noDeadline{}, fr: newFrameReader(bytes.NewReader(c.in), 100)}
		if _, err := io.ReadAll(r); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

type noDeadline struct{ *counted }

func (noDeadline) SetReadDeadline(time.Time) error { return nil }

func TestFormRequests(t *testing.T) {
	unformed := func(c *Config) { c.Self.ClusterID = [16]byte{} }
	a, b := startNode(t, 1, unformed), startNode(t, 2, unformed)
	formed := startNode(t, 3)
	foreign := startNode(t, 4, func(c *Config) { c.Self.Cluster = "foreign" })
	for _, n := range []*testNode{b, formed, foreign} {
		n.SetForm(func(req []byte) []byte { return append([]byte(n.addr()+" "), req...) })
	}
	for _, n := range []*testNode{b, formed} {
		got, err := a.CallForm(t.Context(), n.addr(), []byte("hi"))
		if want := n.addr() + " hi"; err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
	}
	var r *RefusedError
	if _, err := a.CallForm(t.Context(), foreign.addr(), []byte("hi")); !errors.As(err, &r) || r.Code != RefusedCluster {
		t.Fatal(err)
	}
	if _, err := b.CallForm(t.Context(), a.addr(), []byte("hi")); err == nil { // nobody answers there
		t.Fatal("no error")
	}
	if _, err := a.CallForm(t.Context(), b.addr(), make([]byte, MaxFormBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	if _, err := a.CallForm(t.Context(), b.addr(), make([]byte, MaxFormBytes-100)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	hang := make(chan struct{})
	b.SetForm(func([]byte) []byte { <-hang; return nil })
	if _, err := a.CallForm(ctx, b.addr(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(hang)
	// Before the cluster is formed nothing else is accepted.
	a.SetPeer(2, "n2", b.addr())
	b.SetPeer(1, "n1", a.addr())
	if err := a.SetCluster(testCluster); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not_formed", func() bool { return a.Peers()[0].LastRefusal != "" })
	if err := b.SetCluster(testCluster); err != nil {
		t.Fatal(err)
	}
	a.want(t, event{what: "up", from: 2})
}
