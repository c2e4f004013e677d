package node

import (
	"context"

	"github.com/quorate/quorate/node/api"
)

// read answers a question about a shard: on its leader behind a barrier, or,
// when the caller is content with that, from this node's replica. A node
// without a replica of the shard asks the leader in both cases.
func read[Q, R any](ctx context.Context, n *core, shard uint32, m method, q Q, local func(context.Context, Q) (R, error)) (R, error) {
	if api.IsStale(ctx) && n.store.Reader(shard) != nil {
		return local(ctx, q)
	}
	return onLeader(ctx, n, shard, m, q, local)
}

// barrier returns when this node, the leader, has applied everything that was
// acknowledged anywhere before the call. A stale read has none.
func (n *core) barrier(ctx context.Context, shard uint32) error {
	if api.IsStale(ctx) {
		return nil
	}
	_, err := n.store.ReadIndex(ctx, shard)
	return err
}

// caughtUp returns when this node's replica of a shard, if it has one, has
// applied everything that was acknowledged anywhere before the call.
func (n *core) caughtUp(ctx context.Context, shard uint32) error {
	a, err := onLeader(ctx, n, shard, methodHead, shardQuestion{Shard: shard, Barrier: true}, n.headHere)
	if err != nil || n.store.Reader(shard) == nil {
		return err
	}
	if err := n.store.WaitApplied(ctx, shard, a.Applied); err != nil {
		return api.Errorf(503, 5, "not_there_yet", api.RetryLater, "shard %d: this node has not applied what its leader has: %v", shard, err)
	}
	return nil
}
