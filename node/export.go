package node

import (
	"bufio"
	"context"
	"io"
	"slices"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
)

// Export streams all records as an audit export (package ledger/proof), up to
// the given size of each shard, or as far as this node has them. Its memory is
// that of a buffer.
func (n *core) Export(ctx context.Context, sizes map[uint32]uint64, w io.Writer) error {
	c := proof.Checkpoint{Cluster: [16]byte(n.id.ClusterID)}
	starts, before := map[uint32]floor{}, map[uint32]proof.Tree{}
	for shard := range n.shards {
		have, err := n.recordCount(ctx, shard)
		if err != nil {
			return err
		}
		size, given := sizes[shard]
		switch {
		case sizes == nil:
			size = have
		case !given || size > have:
			return api.Errorf(409, 7, "not_there_yet", api.RetryLater, "shard %d has %d records on this node, the checkpoint has %d", shard, have, size).
				WithHint("ask the node that made the checkpoint, or again in a moment")
		}
		f, err := n.floorOf(ctx, shard)
		if err != nil {
			return err
		}
		if size < f.Records {
			return errArchived(shard, &f.Floor)
		}
		if starts[shard] = f; f.Records > 0 {
			before[shard] = f.tree
		}
		c.Shards = append(c.Shards, proof.Head{Shard: shard, Size: size})
	}
	buf := bufio.NewWriterSize(w, 64<<10)
	h := proof.NewHeader(&c, before)
	if _, err := buf.Write(h.Append(nil)); err != nil {
		return err
	}
	for _, s := range c.Shards {
		if err := n.exportShard(ctx, s, starts[s.Shard], buf); err != nil {
			return err
		}
	}
	return buf.Flush()
}

func (n *core) exportShard(ctx context.Context, s proof.Head, from floor, w io.Writer) error {
	lines := proof.Lines{Shard: s.Shard, Tree: from.tree.Clone()}
	var out []byte
	var failed error
	if s.Size == from.Records {
		return nil
	}
	bad, err := n.walkShard(ctx, s.Shard, from.place, func(r *ledger.Record, body []byte, at place) bool {
		out = lines.Append(out[:0], body, r)
		_, failed = w.Write(out)
		return failed == nil && r.Seq < s.Size
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return err
	case bad != nil:
		return errCorrupt(bad)
	case lines.Tree.Size != s.Size:
		return api.Errorf(503, 7, "not_there_yet", api.RetryLater, "shard %d ended at record %d of %d", s.Shard, lines.Tree.Size, s.Size)
	}
	return nil
}

// recordAt reads one record.
func (n *core) recordAt(ctx context.Context, shard uint32, seq uint64) (body []byte, rec *ledger.Record, err error) {
	from, err := n.floorOf(ctx, shard)
	if err != nil {
		return nil, nil, err
	}
	bad, err := n.walkShard(ctx, shard, from.place, func(r *ledger.Record, b []byte, _ place) bool {
		if r.Seq == seq {
			body, rec = slices.Clone(b), r
		}
		return r.Seq < seq
	})
	switch {
	case err != nil:
		return nil, nil, err
	case bad != nil:
		return nil, nil, errCorrupt(bad)
	case rec == nil:
		return nil, nil, api.Errorf(404, 7, "no_record", api.RetryNo, "shard %d has no record %d here", shard, seq)
	}
	return body, rec, nil
}

func errCorrupt(bad *api.BadRecord) error {
	return api.Errorf(500, 7, "ledger_corrupt", api.RetryNo, "shard %d record %d: %s", bad.Shard, bad.Seq, bad.Reason).
		WithHint("stop this node and keep its data: `quorate ledger verify` on the others says whether they are whole")
}
