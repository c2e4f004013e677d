package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/trail"
)

// What a node shows of the audit log of a shard that it has no replica of, it
// has from a node that does. It takes nobody's word for it: heads are signed
// only with a proof that they extend the last ones signed, records are checked
// against what was signed.

func (n *core) auditRequest(ctx context.Context, m method, body []byte) ([]byte, bool) {
	switch m {
	case methodCosign:
		return serve(ctx, body, n.cosignHere), true
	case methodHead:
		return serve(ctx, body, n.headHere), true
	case methodLinks:
		return serve(ctx, body, n.linksHere), true
	case methodLeaf:
		return serve(ctx, body, n.leafHere), true
	case methodFind:
		return serve(ctx, body, n.findHere), true
	}
	return nil, false
}

// atHolder asks this node, if it has a replica of the shard, or one that has:
// its leader first, then the others.
func atHolder[Q, R any](ctx context.Context, n *core, shard uint32, m method, q Q, local func(context.Context, Q) (R, error)) (R, error) {
	var zero R
	var errs []error
	if n.store.Journal(shard) != nil {
		r, err := local(ctx, q)
		if !errors.Is(err, trail.ErrGap) { // another node may have what this one lacks
			return r, err
		}
		errs = append(errs, errGap(shard))
	}
	leader, _ := n.leaders.of(shard)
	ids := []uint64{leader}
	if p, ok := n.placement(shard); ok {
		ids = append(ids, p.Voters...)
	}
	for i, id := range ids {
		if id == 0 || id == n.id.RaftID || i > 0 && id == leader || !n.peers.Up(id) {
			continue
		}
		r, err := callPeer[Q, R](ctx, n, id, m, q)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	var known *api.Error
	if len(errs) > 0 && errors.As(errs[0], &known) {
		return zero, known
	}
	return zero, api.Errorf(503, 7, "no_holder", api.RetryLater, "no node that has a replica of shard %d answers: %v", shard, errors.Join(errs...)).
		WithHint("quorate status shows where its replicas are, quorate doctor what is wrong with them")
}

// errGap is why there is no proof: this node's copy of the journal came when
// its beginning had been archived.
func errGap(shard uint32) error {
	return api.Errorf(410, 7, "proof_archived", api.RetryNo, "shard %d: this node has no hashes of the records before its journal's beginning, so it can't prove anything about so small a log", shard).
		WithHint("ask a node that has been there longer, or prove it from the archives")
}

// shardQuestion is about a shard's log: from and to are sizes or numbers.
type shardQuestion struct {
	Shard uint32 `json:"shard"`
	From  uint64 `json:"from,omitempty"`
	To    uint64 `json:"to,omitempty"`
	// Barrier asks the leader how far the shard has come for certain, and for
	// nothing else.
	Barrier bool `json:"barrier,omitempty"`
}

// headAnswer is how far a shard's log reaches; no root: it is not hashed there.
type headAnswer struct {
	Applied uint64 `json:"applied,omitempty"` // for a barrier, alone
	Records uint64 `json:"records"`
	Size    uint64 `json:"size"`
	Root    string `json:"root,omitempty"`
	Start   int64  `json:"start,omitempty"` // of the journal, and its note
	Note    []byte `json:"note,omitempty"`
}

func (n *core) headHere(ctx context.Context, q shardQuestion) (headAnswer, error) {
	if q.Barrier {
		index, err := n.store.ReadIndex(ctx, q.Shard)
		return headAnswer{Applied: index}, err
	}
	if n.store.Journal(q.Shard) == nil {
		return headAnswer{}, errNotLeader
	}
	a := headAnswer{Records: n.head(q.Shard).Seq}
	a.Start, a.Note = n.store.JournalFloor(q.Shard)
	if n.trails.off {
		return a, nil
	}
	l, err := n.trail(q.Shard)
	if err != nil {
		return a, err
	}
	h := l.Head()
	a.Size, a.Root = h.Size, hex.EncodeToString(h.Root[:])
	return a, nil
}

// auditBarrier returns when the journals here have every record of what was
// acknowledged anywhere before the call: of one shard, or of all. Where this
// node has no replica, it is the leader that is asked for records, if it answers.
func (n *core) auditBarrier(ctx context.Context, only int) error {
	if api.IsStale(ctx) {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	errs := make([]error, n.shards)
	var wg sync.WaitGroup
	for shard := range n.shards {
		if only >= 0 && uint32(only) != shard {
			continue
		}
		wg.Go(func() { errs[shard] = n.caughtUp(ctx, shard) })
	}
	wg.Wait()
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	if e := asAPIError(errs[i]); e.Layer == 5 {
		return e.WithHint("ask again, or with consistency=stale (quorate ledger log --stale) for what the answering node has")
	}
	return errs[i]
}

// treeHead is a shard's head: this node's own, or a holder's.
func (n *core) treeHead(ctx context.Context, shard uint32) (proof.Head, error) {
	if n.store.Journal(shard) != nil {
		l, err := n.trail(shard)
		if err != nil {
			return proof.Head{}, err
		}
		return l.Head(), nil
	}
	a, err := atHolder(ctx, n, shard, methodHead, shardQuestion{Shard: shard}, n.headHere)
	if err != nil {
		return proof.Head{}, err
	}
	root, err := hex.DecodeString(a.Root)
	if a.Root == "" || err != nil || len(root) != tlog.HashSize {
		return proof.Head{}, api.Errorf(409, 7, "audit_not_hashed", api.RetryNo, "shard %d has no replica here, and the node that has one runs with audit level %q", shard, AuditLog).
			WithHint("start all nodes with --audit-level=hash")
	}
	return proof.Head{Shard: shard, Size: a.Size, Root: tlog.Hash(root)}, nil
}

// recordCount is how many records a shard has, here or at a holder.
func (n *core) recordCount(ctx context.Context, shard uint32) (uint64, error) {
	a, err := atHolder(ctx, n, shard, methodHead, shardQuestion{Shard: shard}, n.headHere)
	return a.Records, err
}

// linksHere proves that a shard's tree of To records extends that of From.
func (n *core) linksHere(_ context.Context, q shardQuestion) (p proof.ConsistencyProof, err error) {
	l, err := n.trail(q.Shard)
	if err != nil {
		return p, err
	}
	if have := l.Head().Size; q.From > q.To || q.To > have {
		return p, api.Errorf(409, 7, "not_there_yet", api.RetryLater, "shard %d: from %d to %d of %d records", q.Shard, q.From, q.To, have)
	}
	head, err := l.HeadAt(q.To)
	if err != nil {
		return p, err
	}
	old, err := l.HeadAt(q.From)
	if err != nil {
		return p, err
	}
	var path tlog.TreeProof
	if q.From > 0 {
		path, err = tlog.ProveTree(int64(q.To), int64(q.From), l)
	}
	return proof.NewConsistencyProof(old, head, path), err
}

// leaf is a record's canonical bytes, and its path to the root of a size.
type leaf struct {
	Body []byte      `json:"body"`
	Path []tlog.Hash `json:"path"`
}

// leafHere proves record From in the tree of To.
func (n *core) leafHere(ctx context.Context, q shardQuestion) (leaf, error) {
	l, err := n.trail(q.Shard)
	if err != nil {
		return leaf{}, err
	}
	if have := l.Head().Size; q.From == 0 || q.From > q.To || q.To > have {
		return leaf{}, api.Errorf(404, 7, "no_record", api.RetryNo, "shard %d has records 1 to %d here", q.Shard, have)
	}
	if f, err := n.floorHere(q.Shard); err != nil {
		return leaf{}, err
	} else if q.From <= f.Records {
		return leaf{}, errArchived(q.Shard, &f.Floor)
	}
	body, _, err := n.recordAt(ctx, q.Shard, q.From)
	if err != nil {
		return leaf{}, err
	}
	path, err := tlog.ProveRecord(int64(q.To), int64(q.From-1), l)
	if err != nil {
		return leaf{}, errInternal(fmt.Errorf("shard %d: %w", q.Shard, err))
	}
	return leaf{body, path}, nil
}
