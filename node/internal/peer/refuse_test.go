package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// syncBuffer is a log that goroutines write.
type syncBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) lines(substr string) (n int) {
	b.Lock()
	defer b.Unlock()
	for l := range strings.Lines(b.String()) {
		if strings.Contains(l, substr) {
			n++
		}
	}
	return n
}

// Every code, as the dialer is told it; the log names layer and address, once.
func TestRefusals(t *testing.T) {
	var log syncBuffer
	b := startNode(t, 5, func(c *Config) {
		c.Self.Incarnation = 3
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Admit = func(_ uint64, nodeID string) error {
			if nodeID == "removed" {
				return errors.New("node removed was removed from the cluster")
			}
			return nil
		}
	})
	b.SetPeer(3, "n3", "127.0.0.1:1")
	fresh := startNode(t, 6, func(c *Config) { c.Self.ClusterID = [16]byte{} })
	good := hello{version: protocolVersion, purpose: forPeer, clusterID: testCluster, raftID: 3, wanted: 5, cluster: "test", nodeID: "n3"}
	cases := []struct {
		code RefusalCode
		to   *testNode
		edit func(*hello)
	}{
		{RefusedVersion, b, func(h *hello) { h.version = 9 }},
		{RefusedCluster, b, func(h *hello) { h.cluster = "other" }},
		{RefusedCluster, b, func(h *hello) { h.cluster, h.purpose = "other", forForm }},
		{RefusedClusterID, b, func(h *hello) { h.clusterID = [16]byte{7} }},
		{RefusedNotFormed, fresh, func(h *hello) { h.wanted = 6 }},
		{RefusedWrongNode, b, func(h *hello) { h.wanted = 8 }},
		{RefusedNodeID, b, func(h *hello) { h.raftID = 4 }},                   // n3 is raft ID 3
		{RefusedNodeID, b, func(h *hello) { h.nodeID = "n4" }},                // and the reverse
		{RefusedNodeID, b, func(h *hello) { h.nodeID, h.raftID = "n5", 4 }},   // b's own node ID
		{RefusedNodeID, b, func(h *hello) { h.raftID = 5 }},                   // b's own raft ID
		{RefusedDirection, b, func(h *hello) { h.raftID, h.nodeID = 9, "x" }}, // larger dials
		{RefusedAdmission, b, func(h *hello) { h.raftID, h.nodeID = 1, "removed" }},
	}
	for _, c := range cases {
		h := good
		c.edit(&h)
		nc, err := net.Dial("tcp", c.to.addr())
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = greet(nc, h, 1<<20)
		var r *RefusedError
		if !errors.As(err, &r) || r.Code != c.code || r.Local {
			t.Errorf("%v: got %v", c.code, err)
		}
		_ = nc.Close()
	}
	for range 20 {
		nc, err := net.Dial("tcp", b.addr())
		if err != nil {
			t.Fatal(err)
		}
		h := good
		h.nodeID = "n4"
		_, _, _ = greet(nc, h, 1<<20)
		_ = nc.Close()
	}
	if n := log.lines("code=node_id_taken"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if log.lines("layer=L5") == 0 || log.lines("peer=127.0.0.1:") == 0 {
		t.Error("no layer or address in the log")
	}
	if s := b.Peers()[0].LastRefusal; !strings.Contains(s, "node_id_taken") {
		t.Errorf("status says %q", s)
	}
	b.none(t)
}

// The dialer judges too, and its status shows it.
func TestDialerRefuses(t *testing.T) {
	a := startNode(t, 1)
	other := startNode(t, 2, func(c *Config) { c.Self.ClusterID = [16]byte{9} })
	stranger := startNode(t, 4)
	a.SetPeer(2, "n2", other.addr())
	a.SetPeer(3, "n3", stranger.addr()) // n4 listens there
	for i, want := range []string{"cluster_id_mismatch", "wrong_node"} {
		eventually(t, want, func() bool { return strings.Contains(a.Peers()[i].LastRefusal, want) })
	}
	// The right one comes up at another address, and is dialled at once.
	n3 := startNode(t, 3)
	a.SetPeer(3, "n3", n3.addr())
	a.want(t, event{what: "up", from: 3})
	if s := a.Peers()[1].LastRefusal; s != "" {
		t.Errorf("refusal %q kept after success", s)
	}
}

// raw does a good handshake as n1 and then sends bytes.
func raw(t *testing.T, n *testNode, send []byte) (net.Conn, error) {
	t.Helper()
	nc, err := net.Dial("tcp", n.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	h := hello{version: protocolVersion, purpose: forPeer, clusterID: testCluster, raftID: 1, wanted: n.id, cluster: "test", nodeID: "n1"}
	if _, _, err := greet(nc, h, 1<<20); err != nil {
		t.Fatal(err)
	}
	n.want(t, event{what: "up", from: 1})
	_, err = nc.Write(send)
	return nc, err
}

func TestBadFramesEndTheConnection(t *testing.T) {
	good := func() []byte { return appendFrame(nil, &frame{typ: typeRaft, shard: 1, body: []byte("hello")}) }
	flip := func(i int) []byte { b := good(); b[i] ^= 1; return b }
	cases := map[string][]byte{
		"crc":        flip(len(good()) - 1),
		"type bit":   flip(8),
		"flag bit":   flip(9),
		"no type":    appendRaw(0, 0, []byte("xxxx")),
		"unknown":    appendRaw(200, 0, []byte("xxxx")),
		"short":      appendRaw(typeRaft, 0, []byte("x")),
		"oversized":  appendRaw(typeRaft, 0, make([]byte, 300<<10)),
		"not s2":     appendRaw(typeRaft, flagS2, []byte("\x00\x00\x00\x00\xff\xff\xff")),
		"s2 bomb":    appendRaw(typeRaft, flagS2, append([]byte{0, 0, 0, 0}, binary.AppendUvarint(nil, 1<<31)...)),
		"late hello": appendFrame(nil, &frame{typ: typeHello, body: []byte("x")}),
		"chunk":      appendFrame(nil, &frame{typ: typeChunk, body: []byte("x")}),
		"length 0":   make([]byte, 32),
	}
	n := startNode(t, 2, func(c *Config) { c.MaxFrameBytes = 256 << 10 })
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			nc, _ := raw(t, n, b)
			n.want(t, event{what: "down", from: 1}) // and nothing was delivered before
			_ = nc.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.Copy(io.Discard, nc); errors.Is(err, errTimeout(err)) {
				t.Fatal("the connection stays open")
			}
		})
	}
	// A frame cut off by the end of the connection is not delivered either.
	nc, _ := raw(t, n, good()[:12])
	_ = nc.Close()
	n.want(t, event{what: "down", from: 1})
}

// errTimeout returns err if it is a timeout, else something it is not.
func errTimeout(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return err
	}
	return io.ErrNoProgress
}

// appendRaw builds a frame whose checksum is right, whatever is in it.
func appendRaw(typ, flags uint8, payload []byte) []byte {
	b := make([]byte, frameHeaderBytes, frameHeaderBytes+len(payload))
	binary.LittleEndian.PutUint32(b, uint32(2+len(payload)))
	b[8], b[9] = typ, flags
	b = append(b, payload...)
	binary.LittleEndian.PutUint32(b[4:], checksum(b[8:]))
	return b
}

func TestStrayClients(t *testing.T) {
	n := startNode(t, 2)
	for _, hi := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", magic + "short", magic + string(appendRaw(typePing, 0, make([]byte, 8))),
		magic + string(appendRaw(typeHello, 0, nil)), magic + string(appendRaw(typeHello, 0, []byte{1, 0, 1}))} {
		nc, err := net.Dial("tcp", n.addr())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write([]byte(hi))
		_ = nc.(*net.TCPConn).CloseWrite()
		_ = nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(nc)
		if errors.Is(err, errTimeout(err)) {
			t.Errorf("%.10q: left open", hi)
		}
		if len(b) > 0 && b[8] != typeRefuse {
			t.Errorf("%.10q: answered %q", hi, b)
		}
		_ = nc.Close()
	}
	n.none(t)
	if len(n.Peers()) != 0 {
		t.Error("a stray client became a peer")
	}
}
