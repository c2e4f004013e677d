package gate

import (
	"cmp"
	"sync"

	"github.com/quorate/quorate/node/api"
)

// Limits of requests that last. A host may hold more than an identity: behind
// one address there may be many agents.
const (
	MaxRequests            = 65_536 // at one node
	MaxRequestsPerHost     = 16_384
	MaxRequestsPerIdentity = 4_096
)

// Config of a gate. Zero fields take the limits above; where InAll is given
// and smaller, a host has three quarters of it and an identity a quarter.
type Config struct {
	InAll, PerHost, PerIdentity int
}

// Gate counts what is open. Its methods are safe for concurrent use.
type Gate struct {
	cfg Config
	mu  struct {
		sync.Mutex
		open       int
		host, name map[string]int
	}
}

// New makes a gate.
func New(cfg Config) *Gate {
	if n := cfg.InAll; n > 0 {
		cfg.PerHost = cmp.Or(cfg.PerHost, min(max(n*3/4, 1), MaxRequestsPerHost))
		cfg.PerIdentity = cmp.Or(cfg.PerIdentity, min(max(n/4, 1), MaxRequestsPerIdentity))
	}
	cfg.InAll, cfg.PerHost = cmp.Or(cfg.InAll, MaxRequests), cmp.Or(cfg.PerHost, MaxRequestsPerHost)
	cfg.PerIdentity = cmp.Or(cfg.PerIdentity, MaxRequestsPerIdentity)
	g := &Gate{cfg: cfg}
	g.mu.host, g.mu.name = map[string]int{}, map[string]int{}
	return g
}

// Enter counts a request in, or says which limit it is over; leave counts it
// out again. identity is who the request says it is from; empty is nobody, who
// is known by the host alone.
func (g *Gate) Enter(host, identity string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	over := func(status int, format string, args ...any) error {
		return api.Errorf(status, 2, "too_many_streams", api.RetryLater, format, args...).WithHint("close some, or connect to another node")
	}
	switch {
	case g.mu.open >= g.cfg.InAll:
		return nil, over(503, "this node has %d streams and waiting requests open, its limit", g.mu.open)
	case g.mu.host[host] >= g.cfg.PerHost:
		return nil, over(429, "%s has %d streams and waiting requests open at this node, the limit of one host", host, g.mu.host[host])
	case identity != "" && g.mu.name[identity] >= g.cfg.PerIdentity:
		return nil, over(429, "%.256q has %d streams and waiting requests open at this node, the limit of one identity", identity, g.mu.name[identity])
	}
	g.mu.open++
	g.mu.host[host]++
	if identity != "" {
		g.mu.name[identity]++
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mu.open--
		drop(g.mu.host, host)
		drop(g.mu.name, identity)
	}, nil
}

// Open is how much is open.
func (g *Gate) Open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.open
}

func drop(of map[string]int, key string) {
	if of[key]--; of[key] <= 0 {
		delete(of, key)
	}
}
