package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

func (b *book) urls() (list []string) {
	for _, p := range b.places() {
		list = append(list, p.url)
	}
	return list
}

// What is told replaces what was told before, beside what was given, and is
// spoken to as the one who told is; addresses that mean nothing here are not
// taken.
func TestBookTell(t *testing.T) {
	b := newBook([]string{"https://lb.example/x", "http://10.0.0.1:7700"}, false)
	b.tell(b.given[0], []string{"10.0.0.2:7700", "[2001:db8::1]:7700", "0.0.0.0:7700", "[::]:7700", ":7700", "127.0.0.1:7700", "[::1]:7700", "10.0.0.2", "n3.example:7700"})
	want := []string{"https://lb.example/x", "http://10.0.0.1:7700", "https://10.0.0.2:7700", "https://[2001:db8::1]:7700", "https://n3.example:7700"}
	if got := b.urls(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	kept := b.places()[2]
	b.tell(b.given[0], []string{"10.0.0.4:7700", "10.0.0.2:7700"})
	if got := b.places(); len(got) != 4 || got[2].url != "https://10.0.0.4:7700" || got[3] != kept {
		t.Errorf("%v", b.urls())
	}
	b.tell(b.given[1], []string{"10.0.0.1:7700", "10.0.0.2:7700"})
	if got, want := b.urls(), []string{"https://lb.example/x", "http://10.0.0.1:7700", "http://10.0.0.2:7700"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, here := range []string{"http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"} {
		if b := newBook([]string{here}, false); !meant(here, "127.0.0.1:7700") || !b.given[0].told(b, "127.0.0.1:7700") {
			t.Errorf("%s: another node of this host is not taken", here)
		}
	}
	only := newBook([]string{"http://a:1"}, true)
	only.tell(only.given[0], []string{"b:1"})
	h := http.Header{}
	if only.ask(h); len(only.places()) != 1 || len(h) != 0 {
		t.Errorf("%v, asks %v", only.urls(), h)
	}
	many := make([]string, maxNodes)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.1.%d:7700", i)
	}
	b = newBook([]string{"http://a:1"}, false)
	if b.tell(b.given[0], many[1:]); len(b.places()) != maxNodes {
		t.Errorf("%d addresses at the limit", len(b.places()))
	}
	if b.tell(b.given[0], many); len(b.places()) != maxNodes {
		t.Errorf("%d addresses, at most %d", len(b.places()), maxNodes)
	}
}

// told says that an address p tells is in the list then.
func (p *place) told(b *book, addr string) bool {
	b.tell(p, []string{addr})
	return len(b.places()) == 2
}

// A node that is not reached is left out, longer each time, until it is found
// again or there is no other.
func TestBookShuns(t *testing.T) {
	b := newBook([]string{"http://a:1", "http://b:1", "http://c:1"}, false)
	now := time.Unix(1000, 0)
	b.now = func() time.Time { return now }
	a, bb, c := b.given[0], b.given[1], b.given[2]
	b.pass(a, io.EOF)
	if b.here() != bb {
		t.Fatalf("at %s", b.here().url)
	}
	b.pass(bb, api.Errorf(503, 5, "no_leader", api.RetryLater, "x")) // it answers: it is not left out
	b.pass(a, io.EOF)                                                // a late witness moves nothing
	b.pass(c, io.EOF)
	if b.here() != bb || a.fails.Load() != 1 {
		t.Fatalf("at %s; a failed %d times", b.here().url, a.fails.Load())
	}
	if b.after(bb) != bb {
		t.Errorf("after b comes %s", b.after(bb).url)
	}
	b.lost(bb) // all are: in turn
	if b.after(bb) != c || b.after(c) != a {
		t.Errorf("after b comes %s", b.after(bb).url)
	}
	for _, want := range []time.Duration{2, 4, 8, 16, 32, 64, 64, 64} {
		if got := time.Duration(a.until.Load() - now.UnixNano()); got != want*time.Second {
			t.Fatalf("left out for %v, want %v", got, want*time.Second)
		}
		now = time.Unix(0, a.until.Load())
		if b.found(c); b.after(c) != a {
			t.Fatal("not asked when its time is over")
		}
		b.lost(a)
	}
	b.found(a)
	if b.found(bb); b.after(c) != a || a.fails.Load() != 0 {
		t.Error("found again, and left out")
	}
	gone := &place{url: "http://gone:1"}
	if b.after(gone) != a {
		t.Error("after one that left the list comes not the first")
	}
}

// A failed handshake is final only when there is no other node, and none ever
// answered.
func TestBookJudges(t *testing.T) {
	b := newBook([]string{"https://a:1", "https://b:1"}, false)
	bad := fmt.Errorf("x: %w", &tls.CertificateVerificationError{Err: errors.New("expired")})
	steps := []struct {
		at    *place
		err   error
		final bool
	}{{b.given[0], bad, false}, {b.given[1], io.EOF, false}, {b.given[0], bad, false}, {b.given[1], bad, true}, {b.given[1], tls.RecordHeaderError{}, true},
		{b.given[1], &net.OpError{Op: "remote error", Err: errors.New("bad certificate")}, true}, {b.given[1], &net.OpError{Op: "dial", Err: io.EOF}, false}}
	for i, s := range steps {
		var e *api.Error
		if err := b.judge(s.at, s.err); errors.As(err, &e) != s.final || s.final && e.Code != "untrusted_node" || !s.final && err != s.err {
			t.Errorf("step %d: %v", i, err)
		}
	}
	b.found(b.given[0])
	for _, p := range b.given {
		if err := b.judge(p, bad); err != bad {
			t.Errorf("after an answer: %v", err)
		}
	}
}

// The nodes are asked for with the first request, then every few seconds, and
// after one was lost. One that is told but dead costs one attempt; a proxy's
// address, which nobody tells, stays.
func TestBookAsks(t *testing.T) {
	var asked, dead atomic.Int32
	var down atomic.Bool
	var told atomic.Value
	url, _ := node(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		if r.Header.Get(api.NodesHeader) != "" {
			asked.Add(1)
			w.Header().Set(api.NodesHeader, told.Load().(string))
		}
		problem(w, api.Errorf(409, 5, "x", api.RetryNo, "the end"))
	})
	other, _ := node(t, func(int, http.ResponseWriter, *http.Request) {
		dead.Add(1)
		down.Store(false)
		panic(http.ErrAbortHandler)
	})
	told.Store(strings.TrimPrefix(other, "http://"))
	c := dial(t, 0, url)
	now := time.Now()
	c.book.now = func() time.Time { return now }
	call := func() {
		t.Helper()
		var e *api.Error
		if _, err := c.Cluster(t.Context()); !errors.As(err, &e) || e.Code != "x" {
			t.Fatal(err)
		}
	}
	for range 3 {
		call()
	}
	if asked.Load() != 1 || len(c.book.places()) != 2 {
		t.Errorf("asked %d times, knows %v", asked.Load(), c.book.urls())
	}
	now = now.Add(askedAgain + 1)
	if call(); asked.Load() != 2 {
		t.Errorf("asked %d times", asked.Load())
	}
	down.Store(true) // until the other was tried
	if call(); asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
	before := dead.Load()
	c.book.pass(c.book.here(), api.Errorf(503, 5, "no_leader", api.RetryLater, "x"))
	if call(); dead.Load() != before {
		t.Error("the dead node is asked before its time")
	}
}
