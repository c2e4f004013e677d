package node

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/raftstore"
)

// Backup streams one shard as of now in raftstore's snapshot format; only the
// node that leads the shard does.
func (n *Node) Backup(ctx context.Context, shard uint32, w io.Writer) error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.Backup(ctx, shard, w)
}

func (n *core) Backup(ctx context.Context, shard uint32, w io.Writer) error {
	if shard >= n.shards {
		return api.Errorf(404, 5, "no_shard", api.RetryNo, "there is no shard %d", shard)
	}
	err := n.store.Backup(ctx, shard, w)
	var elsewhere *raftstore.NotLeaderError
	switch {
	case errors.As(err, &elsewhere), errors.Is(err, raftstore.ErrNoShard):
		return api.Errorf(503, 5, "not_leader", api.RetryLater, "shard %d is led by another node", shard).
			WithHint("ask the node that `quorate status` names as its leader")
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("node: %w", err)
	}
	return err
}
