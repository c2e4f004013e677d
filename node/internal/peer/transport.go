package peer

import (
	"context"
	"errors"
	"io"
	"net"
)

// Transport is the node's end of all peer connections. Its methods are safe for
// concurrent use.
type Transport struct{}

var errTODO = errors.New("peer: not built")

// Listen binds the address; nothing is accepted before Start.
func Listen(cfg Config) (*Transport, error) { return nil, errTODO }

// Addr is the bound address.
func (t *Transport) Addr() net.Addr { return nil }

// SetForm sets how a forming request is answered, before Start; nil refuses them.
func (t *Transport) SetForm(answer func(req []byte) []byte) {}

// SetHandler sets the handler, once, before SetCluster.
func (t *Transport) SetHandler(h Handler) {}

// SetCluster says which cluster this node is part of, once. Peers are accepted and dialled from then on.
func (t *Transport) SetCluster(id [16]byte) error { return errTODO }

// Start begins accepting.
func (t *Transport) Start() {}

// SetPeer names a peer and its address, and tries it at once if it is down.
func (t *Transport) SetPeer(id uint64, nodeID, addr string) {}

// RemovePeer forgets a peer and closes its connection.
func (t *Transport) RemovePeer(id uint64) {}

// Send queues a raft message. It never blocks; the message is dropped when the
// peer is down or its queue is full.
func (t *Transport) Send(to uint64, shard uint32, msg []byte) {}

// Notify queues a notice. nil means queued, not delivered.
func (t *Transport) Notify(to uint64, kind uint8, body []byte) error { return errTODO }

// Call asks a peer and waits for the answer; ctx bounds the wait and its
// deadline is passed on.
func (t *Transport) Call(ctx context.Context, to uint64, method uint8, body []byte) ([]byte, error) {
	return nil, errTODO
}

// SendSnapshot streams what write writes to the peer's Handler.Snapshot and
// waits for its verdict.
func (t *Transport) SendSnapshot(ctx context.Context, to uint64, write func(io.Writer) error) error {
	return errTODO
}

// CallForm sends a forming request to an address.
func (t *Transport) CallForm(ctx context.Context, addr string, req []byte) ([]byte, error) {
	return nil, errTODO
}

// Up reports whether a connection to the peer is established.
func (t *Transport) Up(id uint64) bool { return false }

// Peers lists every known peer, by raft ID.
func (t *Transport) Peers() []PeerStatus { return nil }

// Close closes everything and waits for every goroutine.
func (t *Transport) Close() error { return nil }
