package node

import (
	"context"
	"fmt"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/trail"
	"github.com/quorate/quorate/raftstore"
)

// A journal may begin behind the shard's first record: what was before was
// archived, or given up, and its note says what it came to. Whoever reads
// begins at the floor, and says so; whoever asks for what was before hears
// where it is.

// ownJournal is a shard's journal on this node.
type ownJournal struct {
	raftstore.Journal
	store *raftstore.Store
	shard uint32
}

// Floor implements trail.Journal.
func (j ownJournal) Floor() (int64, []byte) { return j.store.JournalFloor(j.shard) }

// journal is nil when the shard has no replica here.
func (n *core) journal(shard uint32) trail.Journal {
	if j := n.store.Journal(shard); j != nil {
		return ownJournal{j, n.store, shard}
	}
	return nil
}

// floor is where a journal begins.
type floor struct {
	place
	tree proof.Tree // of what was before
	trail.Floor
}

func readFloor(shard uint32, start int64, note []byte) (floor, error) {
	f, head, tree, err := trail.ReadFloor(shard, note)
	if err != nil {
		return floor{}, errInternal(err)
	}
	return floor{place{start, head}, tree, f}, nil
}

func (n *core) floorHere(shard uint32) (floor, error) {
	start, note := n.store.JournalFloor(shard)
	return readFloor(shard, start, note)
}

// floorOf is a shard's floor, here or at a node that has it.
func (n *core) floorOf(ctx context.Context, shard uint32) (floor, error) {
	if n.store.Journal(shard) != nil {
		return n.floorHere(shard)
	}
	a, err := atHolder(ctx, n, shard, methodHead, shardQuestion{Shard: shard}, n.headHere)
	if err != nil {
		return floor{}, err
	}
	return readFloor(shard, a.Start, a.Note)
}

// archived tells what a shard's journal lacks; nil: nothing.
func (f *floor) archived(shard uint32) *api.Archived {
	if f.Records == 0 {
		return nil
	}
	return &api.Archived{Shard: shard, Records: f.Records, File: f.Archive, NodeID: f.Node}
}

// errArchived is why a record can't be shown.
func errArchived(shard uint32, f *trail.Floor) error {
	e := api.Errorf(410, 7, "records_archived", api.RetryNo, "shard %d: records 1 to %d are not in the journals any more", shard, f.Records)
	if f.Archive == "" {
		return e.WithHint("they were dropped without an archive, as their fleets' retention says (quorate ledger retention)")
	}
	return e.WithHint("archived: see %s on node %s, and those before it; quorate ledger verify FILE checks one, zstd -dc FILE shows it", f.Archive, f.Node)
}

// errTrimmed is errArchived for who came upon it while reading.
func (n *core) errTrimmed(shard uint32) error {
	f, err := n.floorHere(shard)
	if err != nil {
		return err
	}
	if f.Records == 0 {
		return errInternal(fmt.Errorf("shard %d: %w", shard, raftstore.ErrTrimmed))
	}
	return errArchived(shard, &f.Floor)
}
