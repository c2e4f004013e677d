package gossip

import (
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxPacket is more than a datagram can be.
	maxPacket = 64 << 10
	// maxPackets wait for memberlist; datagrams beyond are dropped, as the
	// network would.
	maxPackets = 256
	// acceptPause is before the next attempt after one that failed.
	acceptPause = 50 * time.Millisecond
)

// sockets is memberlist's transport over a listener and a packet connection
// that were brought.
type sockets struct {
	l       net.Listener
	p       net.PacketConn
	log     *log.Logger
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{} // closed by Shutdown
	once    sync.Once
	wg      sync.WaitGroup
}

func newSockets(l net.Listener, p net.PacketConn, to *log.Logger) *sockets {
	return &sockets{l: l, p: p, log: to, packets: make(chan *memberlist.Packet, maxPackets), streams: make(chan net.Conn), done: make(chan struct{})}
}

func (s *sockets) start() {
	s.wg.Go(s.receive)
	s.wg.Go(s.accept)
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (s *sockets) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if ip == "" {
		a, err := net.ResolveTCPAddr("tcp", s.l.Addr().String())
		if err != nil {
			return nil, 0, fmt.Errorf("gossip: the listener's address: %w", err)
		}
		if a.IP.IsUnspecified() {
			return nil, 0, fmt.Errorf("gossip: the listener is on %v, which others can't reach: give an address to advertise", a)
		}
		return a.IP, a.Port, nil
	}
	addr := net.ParseIP(ip)
	if addr == nil {
		return nil, 0, fmt.Errorf("gossip: advertised address %q is no IP", ip)
	}
	return addr, port, nil
}

// WriteTo implements memberlist.Transport.
func (s *sockets) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = s.p.WriteTo(b, to)
	return time.Now(), err
}

// PacketCh implements memberlist.Transport.
func (s *sockets) PacketCh() <-chan *memberlist.Packet { return s.packets }

// DialTimeout implements memberlist.Transport.
func (s *sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

// StreamCh implements memberlist.Transport.
func (s *sockets) StreamCh() <-chan net.Conn { return s.streams }

// Shutdown implements memberlist.Transport.
func (s *sockets) Shutdown() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = errors.Join(s.l.Close(), s.p.Close())
		s.wg.Wait()
	})
	return err
}

// receive hands datagrams on until Shutdown.
func (s *sockets) receive() {
	b := make([]byte, maxPacket)
	for {
		n, from, err := s.p.ReadFrom(b)
		if err != nil {
			if s.over("datagram", err) {
				return
			}
			continue
		}
		if n == 0 {
			continue
		}
		small := append([]byte(nil), b[:n]...) // memberlist keeps parts of it
		select {
		case s.packets <- &memberlist.Packet{Buf: small, From: from, Timestamp: time.Now()}:
		case <-s.done:
			return
		default:
		}
	}
}

// accept hands connections on until Shutdown.
func (s *sockets) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			if s.over("connection", err) {
				return
			}
			continue
		}
		select {
		case s.streams <- c:
		case <-s.done:
			_ = c.Close()
			return
		}
	}
}

// over says that it is, or waits a moment after an error.
func (s *sockets) over(what string, err error) bool {
	select {
	case <-s.done:
		return true
	default:
	}
	s.log.Printf("[ERR] memberlist: no %s was taken: %v", what, err)
	if errors.Is(err, net.ErrClosed) {
		return true // whoever brought it closed it: nothing more will come
	}
	select {
	case <-s.done:
		return true
	case <-time.After(acceptPause):
		return false
	}
}
