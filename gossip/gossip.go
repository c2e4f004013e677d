package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config of one gossip instance.
type Config struct {
	Cluster string // label on every packet: 1 to 255 bytes
	NodeID  string // unique in the cluster

	BindAddr string // host:port, TCP and UDP; port 0 = any free one
	// Listener and PacketConn, both or neither, are used instead of sockets of
	// its own, and closed by Close. Others are reached through the system.
	Listener      net.Listener
	PacketConn    net.PacketConn
	AdvertiseAddr string // host:port others use; default what was bound

	Meta  Meta
	Seeds []string        // host:port of others, own address allowed
	Known func() []string // further gossip addresses to keep in touch with (members known from raft); may be nil
	Key   []byte          // 16, 24 or 32 bytes encrypt gossip (AES-GCM); nil = plain

	// The callbacks come from one goroutine of their own and may block it. Any may be nil.
	OnChange   func()                       // members changed; coalesced
	OnConflict func(nodeID, addr string)    // another process claims this node ID at addr; repeated while it does. Shortly after a node moved to another address it is that node
	OnForeign  func(Member)                 // a node of another cluster with the same name wants in, and is kept out; repeated while it does
	OnRefused  func(seed string, err error) // a seed or known address ends the exchange: another cluster name or key, most likely; repeated while it does

	Logger    *slog.Logger
	Profile   Profile
	RejoinMax time.Duration // longest wait between attempts to reach missing seeds and known addresses. Default 10 s
}

// Profile is a set of timings.
type Profile uint8

// Profiles.
const (
	Auto  Profile = iota // Local when bound to a loopback address, else LAN
	Local                // one host
	LAN
)

// Member is a node believed alive (this one included).
type Member struct {
	NodeID string
	Addr   string // gossip host:port
	Meta   Meta
}

const (
	// rejoinMin is the first wait for a seed that is not there yet; it doubles.
	rejoinMin = 100 * time.Millisecond
	// streamTimeout bounds a state exchange with one node, and so how long Close
	// may wait for one.
	streamTimeout  = 2 * time.Second
	gossipInterval = 300 * time.Millisecond
	// retransmits: a piece of news goes out that often for each digit of the number of nodes. memberlist counts
	// every recipient; two, its preset on loopback, left one of four nodes without the news.
	retransmits = 4
	// exchangeMax is the longest between two state exchanges with a random node, which bring what datagrams lost.
	exchangeMax = 10 * time.Second
	// reclaimAfter: a node that was dead for so long may come back at another address.
	reclaimAfter = time.Second
	// spreadTimeout bounds one wait for a new Meta to leave this node.
	spreadTimeout = 500 * time.Millisecond
)

// Gossip is a running instance. Its methods are safe for concurrent use.
type Gossip struct {
	cfg    Config
	list   *memberlist.Memberlist
	table  *table
	logs   *logs
	addr   string
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	respread chan struct{} // capacity 1: Meta changed
	again    chan struct{} // capacity 1: rejoin now
	refused  chan refusal  // to notify; further ones are dropped

	mu struct {
		sync.Mutex
		meta Meta
	}
	life struct { // held while leaving: memberlist panics when that meets Shutdown
		sync.Mutex
		closed bool
	}
}

type refusal struct {
	addr string
	err  error
}

// Open binds and starts gossiping; seeds are contacted in the background.
func Open(cfg Config) (*Gossip, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.RejoinMax == 0 {
		cfg.RejoinMax = 10 * time.Second
	}
	g := &Gossip{cfg: cfg, logs: &logs{to: cfg.Logger}, respread: make(chan struct{}, 1), again: make(chan struct{}, 1), refused: make(chan refusal, 16)}
	meta, err := cfg.Meta.encode()
	if err != nil {
		return nil, err
	}
	g.table = newTable(func(nodeID string, err error) {
		g.logs.warn("a node tells what is not understood; it is ignored: "+nodeID, "err", err)
	})
	g.table.setMeta(cfg.Meta, meta)
	g.mu.meta = cfg.Meta
	mc, err := g.config()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if cfg.Listener != nil {
		t := newSockets(cfg.Listener, cfg.PacketConn, mc.Logger)
		t.start()
		mc.Transport = t
	}
	if g.list, err = memberlist.Create(mc); err != nil {
		if mc.Transport != nil {
			_ = mc.Transport.Shutdown() // the first error counts
		}
		return nil, fmt.Errorf("gossip: %w", err)
	}
	for _, m := range g.table.list() { // Create has announced this node to the table
		g.addr = m.Addr
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.wg.Go(g.notify)
	g.wg.Go(g.spread)
	g.wg.Go(g.rejoin)
	return g, nil
}

// config translates Config, naming every mistake.
func (g *Gossip) config() (*memberlist.Config, error) {
	var errs []error
	if n := len(g.cfg.Cluster); n == 0 || n > memberlist.LabelMaxSize {
		errs = append(errs, fmt.Errorf("cluster name of %d bytes, want 1 to %d", n, memberlist.LabelMaxSize))
	}
	if g.cfg.NodeID == "" {
		errs = append(errs, errors.New("no node ID"))
	}
	if (g.cfg.Listener == nil) != (g.cfg.PacketConn == nil) {
		errs = append(errs, errors.New("a listener or a packet connection alone: want both or neither"))
	} else if g.cfg.Listener != nil {
		g.cfg.BindAddr = g.cfg.Listener.Addr().String()
		if p := g.cfg.PacketConn.LocalAddr().String(); p != g.cfg.BindAddr {
			errs = append(errs, fmt.Errorf("the listener is on %s, the packet connection on %s: want one address", g.cfg.BindAddr, p))
		}
	}
	bind, err := net.ResolveTCPAddr("tcp", g.cfg.BindAddr)
	if err != nil {
		errs = append(errs, fmt.Errorf("bind address: %w", err))
	}
	var adv *net.TCPAddr
	if g.cfg.AdvertiseAddr != "" {
		if adv, err = net.ResolveTCPAddr("tcp", g.cfg.AdvertiseAddr); err != nil {
			errs = append(errs, fmt.Errorf("advertised address: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	mc := memberlist.DefaultLANConfig()
	if g.cfg.Profile == Local || g.cfg.Profile == Auto && bind.IP.IsLoopback() {
		mc = memberlist.DefaultLocalConfig()
	}
	mc.Name, mc.Label = g.cfg.NodeID, g.cfg.Cluster
	mc.BindAddr, mc.BindPort = "0.0.0.0", bind.Port
	if bind.IP != nil {
		mc.BindAddr = bind.IP.String()
	}
	mc.AdvertisePort = bind.Port
	if adv != nil {
		mc.AdvertiseAddr, mc.AdvertisePort = adv.IP.String(), adv.Port
	}
	mc.SecretKey = g.cfg.Key
	mc.Delegate, mc.Events, mc.Conflict = g.table, g.table, g.table
	mc.Alive, mc.Merge = g.table, g.table
	mc.EnableCompression = false // LZW: costs more than it saves on a packet of 1400 bytes
	mc.TCPTimeout = streamTimeout
	mc.GossipInterval = gossipInterval // also on loopback, where 100 ms is the preset: ten wake-ups a second of an idle node
	mc.RetransmitMult = max(mc.RetransmitMult, retransmits)
	mc.PushPullInterval = min(mc.PushPullInterval, exchangeMax)
	mc.DeadNodeReclaimTime = reclaimAfter
	mc.Logger = log.New(g.logs, "", 0)
	return mc, nil
}

// Addr is the advertised gossip address.
func (g *Gossip) Addr() string { return g.addr }

// Members lists who is believed alive, by node ID.
func (g *Gossip) Members() []Member {
	out := g.table.list()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range out {
		if out[i].NodeID == g.cfg.NodeID {
			out[i].Meta = g.mu.meta // newer than what has been spread
		}
	}
	return out
}

// SetMeta replaces what this node tells; spread in the background. One that is
// too large is refused, and the old one stays.
func (g *Gossip) SetMeta(m Meta) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.mu.meta = m
	g.table.setMeta(m, b)
	g.mu.Unlock()
	poke(g.respread)
	return nil
}

// Rejoin asks for an attempt to reach missing seeds and known addresses now.
func (g *Gossip) Rejoin() { poke(g.again) }

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// notify calls the user, from outside memberlist's lock.
func (g *Gossip) notify() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.table.changed:
			if g.cfg.OnChange != nil {
				g.cfg.OnChange()
			}
		case c := <-g.table.conflict:
			g.logs.warn("node ID claimed twice: "+c.nodeID, "addr", c.addr)
			if g.cfg.OnConflict != nil {
				g.cfg.OnConflict(c.nodeID, c.addr)
			}
		case m := <-g.table.foreign:
			if g.cfg.OnForeign != nil {
				g.cfg.OnForeign(m)
			}
		case r := <-g.refused:
			if g.cfg.OnRefused != nil {
				g.cfg.OnRefused(r.addr, r.err)
			}
		}
	}
}

// spreadDirect is how many nodes hear of a new Meta by a state exchange, over
// TCP: datagrams alone may all be lost on a busy host, and the next periodic
// exchange is up to half a minute away.
const spreadDirect = 8

// spread re-advertises this node after SetMeta. A Meta that found nobody to go
// to in time goes with the next state exchange.
func (g *Gossip) spread() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.respread:
			if err := g.list.UpdateNode(spreadTimeout); err != nil {
				g.cfg.Logger.Debug("spreading new meta", "layer", layer, "err", err)
			}
			told := 0
			for _, m := range g.table.list() {
				if m.Addr != g.addr && told < spreadDirect && g.ctx.Err() == nil {
					g.contact(m.Addr)
					told++
				}
			}
		}
	}
}

// Leave tells the others that this node goes on purpose, for at most timeout. Close is still needed.
func (g *Gossip) Leave(timeout time.Duration) error {
	g.life.Lock()
	defer g.life.Unlock()
	if g.life.closed {
		return nil
	}
	if err := g.list.Leave(timeout); err != nil {
		return fmt.Errorf("gossip: leave: %w", err)
	}
	return nil
}

// Close stops gossiping without a word; safe to call again.
func (g *Gossip) Close() error {
	g.life.Lock()
	closed := g.life.closed
	g.life.closed = true
	g.life.Unlock()
	var err error
	if !closed {
		g.cancel()
		err = g.list.Shutdown()
	}
	g.wg.Wait()
	if err != nil {
		return fmt.Errorf("gossip: close: %w", err)
	}
	return nil
}

// hostPort joins what memberlist takes.
func hostPort(ip net.IP, port int) string { return net.JoinHostPort(ip.String(), strconv.Itoa(port)) }
