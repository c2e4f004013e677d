// Package peer carries everything one node says to another over one framed TCP
// connection per pair: raft messages of all shards, calls, notices. Snapshot
// streams and the requests of cluster forming use connections of their own, so
// that neither delays a heartbeat.
//
// # Types
//
// [Transport] owns the listener, the dialers and the connections. [Handler] is
// what the node does with what arrives. [Config] fixes identity and limits.
// [RemoteError], [RefusedError], [ErrPeerDown], [ErrCallLost] and
// [ErrOverloaded] are the errors a caller branches on.
//
// # Life cycle
//
//	t, err := peer.Listen(cfg)       // bound, nothing accepted yet
//	t.SetForm(former.Answer)         // how a forming request is answered
//	t.Start()                        // forming connections are served
//	t.SetHandler(h)                  // after forming
//	t.SetCluster(clusterID)          // from now on peers are dialled and accepted
//	t.SetPeer(id, nodeID, addr)      // any time, again when an address changes
//	t.Close()                        // joins every goroutine
//
// # Invariants
//
//   - Of two nodes the one with the smaller raft ID dials. At most one main
//     connection per pair is up; a new one replaces the old (a restarted node),
//     after the old one was torn down and reported.
//   - Per connection: PeerUp, then what arrived, then PeerDown, each once and in
//     that order. PeerDown follows a FIN or RST at once, silence after 3 s.
//   - A frame is checked (length, CRC-32C, type, encoding) before anything is done
//     with it; a bad one changes nothing and ends the connection.
//   - A queue that is full never blocks a sender: raft messages are dropped (raft
//     sends them again), calls and notices are answered ErrOverloaded.
//   - ErrPeerDown and ErrOverloaded mean certainly not delivered; ErrCallLost
//     means it may have been.
//   - What is handed to a Handler belongs to it; what is passed to Send, Call and
//     Notify is copied before they return.
//
// # What it does not do
//
// No TLS, no membership, no ordering between calls, no retry of anything: the
// caller knows what is safe to repeat.
//
// # Goroutines
//
//	accept      Transport  the listener is closed
//	greet       accept     the handshake ended or took 5 s (HandshakeTimeout)
//	dial        Transport  one per known peer with a larger raft ID; Close, RemovePeer
//	serve       greet/dial one per connection: joins read, write and beat
//	read        serve      the connection is closed
//	write       serve      the outbox is closed
//	beat        serve      the connection is closed
//	request     read       the handler returned; its context ends with the connection
//
// Close waits for all of them.
package peer
