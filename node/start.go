package node

import (
	"context"
	"slices"
	"time"

	"github.com/quorate/quorate/node/api"
)

// notStarted is why Open failed: what a caller is told, and its cause.
type notStarted struct {
	e     *api.Error
	cause error
}

// startError names the layer of a cause.
func startError(layer int, cause error) error {
	return &notStarted{api.Errorf(500, layer, "cannot_start", api.RetryNo, "%v", cause), cause}
}

func (e *notStarted) Error() string { return e.e.Error() }

// Unwrap gives errors.As the *api.Error, errors.Is the cause.
func (e *notStarted) Unwrap() []error { return []error{e.e, e.cause} }

// closeListeners keeps the promise to take them over when Open fails.
func (c *Config) closeListeners() {
	if c.APIListener != nil {
		_ = c.APIListener.Close() // closed already is fine, as below
	}
	if c.PeerListener != nil {
		_ = c.PeerListener.Close()
	}
	if c.GossipListener != nil {
		_ = c.GossipListener.Close()
	}
	if c.GossipPacketConn != nil {
		_ = c.GossipPacketConn.Close()
	}
}

// readyPoll is how often AwaitReady looks: what makes a node ready happens in
// several places.
const readyPoll = 10 * time.Millisecond

// AwaitReady returns nil when the node serves requests: its cluster has formed
// and every shard has a leader, or, on a gateway, a member is known. It fails
// when ctx ends or the node is closed.
func (n *Node) AwaitReady(ctx context.Context) error {
	t := time.NewTicker(readyPoll)
	defer t.Stop()
	for {
		gateway := n.Gateway()
		if gateway == nil && n.Ready() == nil || slices.ContainsFunc(gateway, func(u string) bool { return u != "" }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.ctx.Done():
			return errNodeClosed()
		case <-t.C:
		}
	}
}
