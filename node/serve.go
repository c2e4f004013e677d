package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/gate"
	"github.com/quorate/quorate/node/internal/stream"
	"github.com/quorate/quorate/node/internal/web"
)

// serve starts the HTTP face.
func (n *Node) serve() {
	sc, wc := stream.Config{Logger: n.cfg.Logger}, web.Config{MaxPayloadBytes: n.cfg.MaxPayloadBytes, Logger: n.cfg.Logger, StreamPrefix: stream.Prefix}
	n.cfg.faceBudget(&wc, &sc)
	wc.Streams = stream.New(n, sc)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	n.server = &http.Server{
		Handler:   n.tellsNodes(web.New(n, wc)),
		Protocols: protocols, HTTP2: n.cfg.http2Limits(),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return n.ctx }}
	n.wg.Go(func() {
		if err := n.server.Serve(gate.Listen(n.api, n.cfg.connections())); err != nil && !errors.Is(err, http.ErrServerClosed) && n.ctx.Err() == nil {
			n.fail(fmt.Errorf("API: %w", err))
		}
	})
	n.cfg.Logger.Info("listening", "api", n.APIAddr(), "peer", n.PeerAddr(), "gossip", n.GossipAddr(), "data_dir", n.cfg.DataDir)
}

// tellsNodes adds the API addresses of the cluster's nodes to the answers of
// requests of any kind that ask for them, so that a client that was given one
// node's knows where to go when that one is lost.
func (n *Node) tellsNodes(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(api.NodesHeader) != "" && n.isMember() {
			w.Header().Set(api.NodesHeader, strings.Join(n.core.Load().apiAddrs(), ","))
		}
		next.ServeHTTP(w, r)
	})
}

// pingAfter is how long a connection of streams may be silent before it is
// asked whether it is there.
const pingAfter = 15 * time.Second

// http2Limits bounds what one HTTP/2 connection may hold, and finds out about
// half-open ones: 15 s of silence, 10 s for the answer to a ping.
func (c *Config) http2Limits() *http.HTTP2Config {
	return &http.HTTP2Config{MaxConcurrentStreams: 1024, MaxReadFrameSize: 256 << 10, MaxReceiveBufferPerStream: 1 << 20,
		MaxReceiveBufferPerConnection: 4<<20 - 1, SendPingTimeout: c.pingAfter, PingTimeout: c.pingAfter * 2 / 3, WriteByteTimeout: 30 * time.Second}
}
