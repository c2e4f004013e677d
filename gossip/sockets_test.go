package gossip

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// brought are a listener and a packet connection on one address.
func brought(t *testing.T) (net.Listener, net.PacketConn) { return broughtOn(t, "127.0.0.1") }

func broughtOn(t *testing.T, host string) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp4", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp4", l.Addr().String())
		if err == nil {
			return l, p
		}
		_ = l.Close() // its port is taken for datagrams
	}
	t.Fatal("no port is free for both")
	return nil, nil
}

// Nodes on sockets that were brought and on their own find each other; the
// brought ones are closed with the node.
func TestBroughtSockets(t *testing.T) {
	l, p := brought(t)
	a := start(t, "a", func(c *Config) { c.Listener, c.PacketConn, c.BindAddr = l, p, "" })
	if a.Addr() != l.Addr().String() {
		t.Errorf("it is at %s, not %s", a.Addr(), l.Addr())
	}
	b := start(t, "b", seeds(a.Addr()))
	l2, p2 := brought(t)
	c := start(t, "c", func(c *Config) { c.Listener, c.PacketConn, c.Seeds = l2, p2, []string{b.Addr()} })
	for _, v := range []*voice{a, b, c} {
		v.sees(t, "a", "b", "c")
	}
	if err := b.SetMeta(Meta{RaftID: 7, APIAddr: "b:1"}); err != nil {
		t.Fatal(err)
	}
	c.until(t, "sees news", func(ms []Member) bool { return len(ms) == 3 && ms[1].Meta.RaftID == 7 })
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was left open: %v", err)
	}
	if _, _, err := p.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the packet connection was left open: %v", err)
	}
}

func TestBroughtSocketsRefused(t *testing.T) {
	l, p := brought(t)
	l2, p2 := brought(t)
	any4, any4p := broughtOn(t, "0.0.0.0")
	for _, x := range []struct {
		l    net.Listener
		p    net.PacketConn
		want string
	}{{l, nil, "both or neither"}, {nil, p, "both or neither"}, {l, p2, "want one address"}, {any4, any4p, "give an address"}} {
		g, err := Open(Config{Cluster: "test", NodeID: "x", BindAddr: "127.0.0.1:0", Listener: x.l, PacketConn: x.p, Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			_ = g.Close()
		}
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("want %q: %v", x.want, err)
		}
	}
	for _, c := range []interface{ Close() error }{l, p, l2, p2, any4, any4p} {
		_ = c.Close() // some are
	}
}

// Datagrams that nobody takes are dropped; receiving goes on and Shutdown is
// not held up.
func TestSocketsDrop(t *testing.T) {
	l, p := brought(t)
	s := newSockets(l, p, nil)
	s.start()
	out, err := net.Dial("udp", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for len(s.packets) < maxPackets {
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		_, _ = out.Write([]byte("more")) // to be dropped
	}
	in, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	done := make(chan error, 1)
	go func() { done <- s.Shutdown() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("shutdown hangs")
	}
}
