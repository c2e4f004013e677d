package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate/quorate/node/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each limit lets in what is at it and refuses one more, which others do not
// notice; what leaves makes room.
func TestGate(t *testing.T) {
	g := New(Config{InAll: 6, PerHost: 4, PerIdentity: 2})
	enter := func(host, name, code string, status int) func() {
		t.Helper()
		leave, err := g.Enter(host, name)
		var e *api.Error
		if errors.As(err, &e); (err != nil) != (status != 0) || err != nil && (e.Status != status || e.Code != code || e.Layer != 2 || e.Retry != api.RetryLater) {
			t.Fatalf("%s at %s: %v, want %d", name, host, err, status)
		}
		return leave
	}
	const code = "too_many_streams"
	first := enter("h1", "ann", "", 0)
	enter("h2", "ann", "", 0)
	enter("h3", "ann", code, 429) // one identity, wherever it is
	enter("h1", "", "", 0)
	enter("h1", "", "", 0)
	enter("h1", "bob", "", 0)
	enter("h1", "eve", code, 429) // one host, whoever it is
	enter("h2", "eve", "", 0)
	enter("h4", "joe", code, 503) // in all
	first()
	enter("h1", "ann", "", 0)
	if g.Open() != 6 {
		t.Errorf("%d open", g.Open())
	}
	if g := New(Config{InAll: 8}); g.cfg.PerHost != 6 || g.cfg.PerIdentity != 2 {
		t.Errorf("parts of a small gate: %+v", g.cfg)
	}
	if g := New(Config{}); g.cfg != (Config{MaxRequests, MaxRequestsPerHost, MaxRequestsPerIdentity}) {
		t.Errorf("defaults: %+v", g.cfg)
	}
}

// What is over a limit of connections is told so by an HTTP answer, whether it
// has asked anything yet or not, and one that ends makes room.
func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(inner, 4) // three of one host
	accepted := make(chan net.Conn, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	url := "http://" + inner.Addr().String()
	var kept []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, c, <-accepted)
	}
	hc := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, body := range []string{"", strings.Repeat("x", 64<<10)} {
		resp, err := hc.Post(url, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var e api.Error
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != 429 || e.Code != "too_many_connections" || e.Layer != 2 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%v: %d %+v", err, resp.StatusCode, e)
		}
		resp.Body.Close()
	}
	_ = kept[1].Close()
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	kept = append(kept, c, <-accepted)
	for _, c := range kept {
		_ = c.Close()
		_ = c.Close() // counts once
	}
	if l.mu.open != 0 || len(l.mu.host) != 0 {
		t.Errorf("%d open after all were closed: %v", l.mu.open, l.mu.host)
	}
	if e := (&Listener{limit: 0, perHost: 1}).enter("h"); e == nil || e.Status != 503 {
		t.Errorf("over the limit in all: %v", e)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

// Clients that are turned away and neither read nor say anything hold up
// neither those that may stay nor Close.
func TestTurnedAwayAreNotWaitedFor(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(inner, 1)
	ended := make(chan error, 1)
	first := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			first <- c
			_, err = l.Accept()
		}
		ended <- err
	}()
	var conns []net.Conn
	for i := range 3 * turnAwayMost {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(i, err)
		}
		conns = append(conns, c)
	}
	last := conns[len(conns)-1] // beyond those that are told
	if b, _ := io.ReadAll(last); len(b) > 0 {
		t.Errorf("the last was told %q", b)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a closed listener accepts")
	}
	for _, c := range append(conns, <-first) {
		_ = c.Close()
	}
}

func ExampleGate() {
	g := New(Config{PerIdentity: 1})
	leave, _ := g.Enter("127.0.0.1", "ann")
	_, err := g.Enter("127.0.0.1", "ann")
	leave()
	fmt.Println(err)
	// Output: L2 communication: too_many_streams: "ann" has 1 streams and waiting requests open at this node, the limit of one identity (close some, or connect to another node)
}
