package client

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Bounds of what a client remembers of nodes.
const (
	maxNodes   = 64               // addresses
	askedAgain = 5 * time.Second  // for the addresses, at most, while all is well
	firstShun  = 2 * time.Second  // of a node that was not reached; doubles with each time it is not
	lastShun   = 64 * time.Second // 2 s doubled five times
)

// book is the nodes a client may go to: those it was given, which stay, as a
// proxy is in no node's list, and those that nodes told. It is shared by
// everything the client does. A node that could not be reached is left out for
// a while, as long as there is another.
type book struct {
	only  bool // those that were given
	given []*place
	now   func() time.Time
	list  atomic.Pointer[[]*place] // given, then told; never changed
	at    atomic.Pointer[place]    // where calls go: it answered last
	met   atomic.Bool              // some node has answered
	told  atomic.Int64             // when the list came, Unix ns; 0: it is asked for with the next request
	learn sync.Mutex               // one list at a time
}

// place is one node's address.
type place struct {
	url   string
	fails atomic.Int32 // since it was last reached
	until atomic.Int64 // Unix ns: not asked before then
	wary  atomic.Bool  // the TLS handshake failed, by this side's judgement or its
}

func newBook(urls []string, only bool) *book {
	b := &book{only: only, now: time.Now}
	for _, u := range urls {
		b.given = append(b.given, &place{url: u})
	}
	b.list.Store(&b.given)
	b.at.Store(b.given[0])
	return b
}

func (b *book) places() []*place { return *b.list.Load() }

func (b *book) here() *place { return b.at.Load() }

// after is the node to try after p: the next that is not left out, or else the
// next.
func (b *book) after(p *place) *place {
	list, now := b.places(), b.now().UnixNano()
	i := slices.Index(list, p) // -1, and so the first is next, when it is in the list no more
	for k := range list {
		if q := list[(i+1+k)%len(list)]; q.until.Load() <= now {
			return q
		}
	}
	return list[(i+1)%len(list)]
}

// pass has calls go on to the node after p, which ended one with err, which is
// what it returns, or that there is none to go on to.
func (b *book) pass(p *place, err error) error {
	err = b.judge(p, err)
	b.at.CompareAndSwap(p, b.after(p))
	return err
}

// judge notes what err says of p. It is final when the handshake failed with
// every node and none has ever answered: then what was configured is wrong, and
// not a certificate late in being renewed.
func (b *book) judge(p *place, err error) error {
	if err == nil || errors.As(err, new(*api.Error)) {
		return err
	}
	b.lost(p)
	p.wary.Store(handshake(err))
	if b.met.Load() || slices.ContainsFunc(b.places(), func(q *place) bool { return !q.wary.Load() }) {
		return err
	}
	return api.Errorf(502, 2, "untrusted_node", api.RetryNo, "%s: %v", p.url, err).
		WithHint("check Config.TLS, or SSL_CERT_FILE: the CA that signed the nodes' certificates, the name or address in them, the client's certificate, and that the node speaks TLS")
}

// handshake says that err is a TLS handshake that the two sides did not agree in.
func handshake(err error) bool {
	var remote *net.OpError // an alert has no type of its own
	return errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(tls.RecordHeaderError)) ||
		errors.As(err, &remote) && remote.Op == "remote error"
}

// lost notes that p was not reached, or broke off.
func (b *book) lost(p *place) {
	b.told.Store(0) // the nodes may be others by now
	now := b.now()
	until := p.until.Load()
	if until > now.UnixNano() {
		return // known: one death has many witnesses
	}
	shun := min(firstShun<<min(p.fails.Load(), 8), lastShun)
	if p.until.CompareAndSwap(until, now.Add(shun).UnixNano()) {
		p.fails.Add(1)
	}
}

// found notes that p answered.
func (b *book) found(p *place) {
	if !b.met.Load() {
		b.met.Store(true)
	}
	if p.fails.Load() != 0 {
		p.fails.Store(0)
		p.until.Store(0)
		p.wary.Store(false)
	}
}

// ask puts the question for the nodes' addresses into a request, when it is due.
func (b *book) ask(h http.Header) {
	if !b.only && b.now().UnixNano()-b.told.Load() > int64(askedAgain) {
		h.Set(api.NodesHeader, "?")
	}
}

// answered notes what p said with its answer.
func (b *book) answered(p *place, h http.Header) {
	b.found(p)
	if v := h.Get(api.NodesHeader); v != "" {
		b.tell(p, strings.Split(v, ","))
	}
}

// tell takes the API addresses that p told: the cluster's nodes, all of them.
// They are spoken to as p is, by TLS or without.
func (b *book) tell(p *place, addrs []string) {
	if b.only || len(addrs) == 0 {
		return
	}
	scheme, _, _ := strings.Cut(p.url, "://")
	b.learn.Lock()
	defer b.learn.Unlock()
	old := b.places()
	list := slices.Clone(b.given)
	for _, a := range addrs {
		u := scheme + "://" + a
		same := func(q *place) bool { return q.url == u }
		if len(list) >= maxNodes || !meant(p.url, a) || slices.ContainsFunc(list, same) {
			continue
		}
		if i := slices.IndexFunc(old, same); i >= 0 {
			list = append(list, old[i]) // with what is known of it
		} else {
			list = append(list, &place{url: u})
		}
	}
	if !slices.Equal(list, old) {
		b.list.Store(&list)
	}
	b.told.Store(b.now().UnixNano())
}

// meant says that an address means the same node here as where it was told:
// not so one to listen on everywhere, nor another host's loopback.
func meant(from, addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return true // a name
	case ip.IsUnspecified():
		return false
	case !ip.IsLoopback():
		return true
	}
	u, err := url.Parse(from)
	if err != nil {
		return false
	}
	teller, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && teller.IsLoopback()
}

// turn is one stream's own way through the nodes.
type turn struct {
	b  *book
	at *place
}

func (t *turn) url() string { return t.at.url }

// judge is what is to be made of a stream's end.
func (t *turn) judge(err error) error { return t.b.judge(t.at, err) }

// next leaves a node whose stream ended.
func (t *turn) next() { t.at = t.b.after(t.at) }

// learn takes what the node's first message told.
func (t *turn) learn(addrs []string) {
	t.b.found(t.at)
	t.b.tell(t.at, addrs)
}

func (t *turn) alone() bool { return len(t.b.places()) == 1 }
