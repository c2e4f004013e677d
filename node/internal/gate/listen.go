package gate

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
)

// MaxConnections is how many connections a node's API has open, unless fewer
// files may be. One that says nothing costs about 10 KiB until its header is
// overdue.
const MaxConnections = 16_384

// A refused client gets turnAwayTime to say its request and take the answer;
// beyond turnAwayMost at a time it is cut off without one.
const (
	turnAwayTime = 2 * time.Second
	turnAwayMost = 64
)

// Listener hands out at most so many connections at a time.
type Listener struct {
	net.Listener
	limit, perHost int
	wg             sync.WaitGroup // of those that tell
	mu             struct {
		sync.Mutex
		open   int
		host   map[string]int
		away   map[net.Conn]struct{} // being turned away
		closed bool
	}
}

// Listen bounds l: to limit connections in all, three quarters of it from one
// host. limit 0 is MaxConnections, or half of the files this process may have
// open if that is less.
func Listen(l net.Listener, limit int) *Listener {
	if limit <= 0 {
		limit = MaxConnections
	}
	limit = min(limit, maxFiles()/2)
	x := &Listener{Listener: l, limit: limit, perHost: max(limit*3/4, 1)}
	x.mu.host, x.mu.away = map[string]int{}, map[net.Conn]struct{}{}
	return x
}

// Accept waits for the next connection that may stay.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			host = c.RemoteAddr().String()
		}
		if e := l.enter(host); e != nil {
			l.turnAway(c, e)
			continue
		}
		return &counted{Conn: c, leave: func() { l.leave(host) }}, nil
	}
}

// Close closes the listener; what was handed out stays open.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.mu.Lock()
	l.mu.closed = true
	for c := range l.mu.away {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

func (l *Listener) enter(host string) *api.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := func(status int, format string, args ...any) *api.Error {
		return api.Errorf(status, 2, "too_many_connections", api.RetryLater, format, args...).WithHint("close some, send more over one, or connect to another node")
	}
	switch {
	case l.mu.open >= l.limit:
		return over(503, "this node has %d connections open, its limit", l.mu.open)
	case l.mu.host[host] >= l.perHost:
		return over(429, "%s has %d connections open at this node, the limit of one host", host, l.mu.host[host])
	}
	l.mu.open++
	l.mu.host[host]++
	return nil
}

func (l *Listener) leave(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.open--
	drop(l.mu.host, host)
}

// turnAway has a refused client told why, beside the others.
func (l *Listener) turnAway(c net.Conn, e *api.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed || len(l.mu.away) >= turnAwayMost {
		_ = c.Close() // nobody is there to tell
		return
	}
	l.mu.away[c] = struct{}{}
	l.wg.Go(func() {
		tell(c, e)
		l.mu.Lock()
		delete(l.mu.away, c)
		l.mu.Unlock()
	})
}

// tell waits for a request, an answer before it would take a client by
// surprise, answers, and reads the rest of it: a connection closed before that
// would take the answer with it.
func tell(c net.Conn, e *api.Error) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(turnAwayTime)) // fails only when it is closed
	b := make([]byte, 4<<10)
	if _, err := c.Read(b); err != nil {
		return
	}
	body, _ := json.Marshal(e) // plain fields
	_, err := fmt.Fprintf(c, "HTTP/1.1 %d Refused\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", e.Status, len(body), body)
	half, ok := c.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		return
	}
	for {
		if _, err := c.Read(b); err != nil {
			return // the client's end, or the deadline
		}
	}
}

// counted is a connection that counts until it is closed.
type counted struct {
	net.Conn
	leave func()
	once  sync.Once
}

func (c *counted) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
