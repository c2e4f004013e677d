package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/trail"
	"github.com/quorate/quorate/raftstore"
)

// The audit log is read from this node's own journals where it has a replica,
// equal to the others' up to how far it has applied, and from a leader's where
// it has none. What a node verifies is its own.

// errPageFull stops a walk through the records.
var errPageFull = errors.New("page is full")

// Audit lists records in shard and sequence order, a page a call.
func (n *core) Audit(ctx context.Context, f api.AuditFilter) (api.RecordPage, error) {
	page := api.RecordPage{Records: []api.Record{}}
	limit, err := pageLimit(f.Limit)
	if err != nil {
		return page, err
	}
	list, some, err := terms(&f)
	if err != nil {
		return page, err
	}
	if f.Shard >= int(n.shards) {
		return page, errNoShard(uint32(f.Shard))
	}
	if err := n.auditBarrier(ctx, f.Shard); err != nil {
		return page, err
	}
	if some {
		return n.find(ctx, f, list, limit)
	}
	cur, err := openCursor(n.cursorKey, "audit", f.Cursor)
	if err != nil {
		return page, err
	}
	if page.Archived, err = n.archivedOf(ctx, f.Shard); err != nil {
		return page, err
	}
	var last cursor
	err = n.walkRecords(ctx, f, cur, func(r api.Record, at cursor) error {
		if len(page.Records) == limit {
			page.NextCursor = last.seal(n.cursorKey)
			return errPageFull
		}
		r.Bytes = nil
		page.Records = append(page.Records, r)
		last = at
		return nil
	})
	if errors.Is(err, errPageFull) {
		err = nil
	}
	return page, err
}

// ExportAudit streams records with the bytes their hashes cover.
func (n *core) ExportAudit(ctx context.Context, f api.AuditFilter, fn func(api.Record) error) error {
	if _, _, err := terms(&f); err != nil {
		return err
	}
	return n.walkRecords(ctx, f, cursor{}, func(r api.Record, _ cursor) error { return fn(r) })
}

// archivedOf lists what the journals of a shard, or all, lack.
func (n *core) archivedOf(ctx context.Context, only int) (list []api.Archived, err error) {
	for shard := range n.shards {
		if only >= 0 && uint32(only) != shard {
			continue
		}
		f, err := n.floorOf(ctx, shard)
		if err != nil {
			return nil, err
		}
		if x := f.archived(shard); x != nil {
			list = append(list, *x)
		}
	}
	return list, nil
}

// walkRecords calls fn for every record after cur that f selects, with where to
// go on after it, checking the chain on the way: a journal that was altered is
// an error, never a shorter list.
func (n *core) walkRecords(ctx context.Context, f api.AuditFilter, cur cursor, fn func(api.Record, cursor) error) error {
	if f.Shard >= int(n.shards) {
		return errNoShard(uint32(f.Shard))
	}
	for shard := range n.shards {
		if shard < cur.Shard || f.Shard >= 0 && uint32(f.Shard) != shard {
			continue
		}
		var fnErr error
		start, err := n.floorOf(ctx, shard)
		if err != nil {
			return err
		}
		from := start.place
		if shard == cur.Shard && cur.Seq > 0 && len(cur.After) == len(from.head.Hash) {
			from = place{offset: cur.Offset, head: ledger.Head{Seq: cur.Seq, Hash: [32]byte(cur.After)}}
		}
		bad, err := n.walkShard(ctx, shard, from, func(r *ledger.Record, body []byte, at place) bool {
			if x := renderRecord(r, body); selects(&f, &x) {
				fnErr = fn(x, cursor{Kind: "audit", Shard: shard, Seq: at.head.Seq, Offset: at.offset, After: at.head.Hash[:]})
			}
			return fnErr == nil
		})
		switch {
		case fnErr != nil:
			return fnErr
		case err != nil:
			return err
		case bad != nil:
			return api.Errorf(500, 7, "ledger_corrupt", api.RetryNo, "shard %d record %d: %s", bad.Shard, bad.Seq, bad.Reason).
				WithHint("stop this node and keep its data: `quorate ledger verify` on the others says whether they are whole")
		}
	}
	return nil
}

func errNoShard(shard uint32) error {
	return api.Errorf(404, 7, "no_shard", api.RetryNo, "there is no shard %d", shard)
}

// place is between two records: where the next one starts in the journal, and
// the chain so far. Journals are equal byte for byte on all nodes, so a place
// found on one is good on another.
type place struct {
	offset int64
	head   ledger.Head
}

// walkShard reads one shard's journal from a place on, verifying the chain.
// bad names the first record that does not verify.
func (n *core) walkShard(ctx context.Context, shard uint32, from place, fn func(r *ledger.Record, body []byte, at place) bool) (bad *api.BadRecord, err error) {
	var j raftstore.Journal = remoteJournal{ctx, n, shard}
	if own := n.store.Journal(shard); own != nil {
		j = own
	}
	if from.offset > j.Size() {
		return nil, nil // this node is not there yet
	}
	err = j.Read(from.offset, func(_, next int64, b []byte) bool {
		head, r, body, verr := ledger.VerifyChain(shard, from.head, b)
		if verr != nil {
			bad = &api.BadRecord{Shard: shard, Seq: from.head.Seq + 1, Reason: verr.Error()}
			return false
		}
		from = place{offset: next, head: head}
		return fn(r, body, from) && ctx.Err() == nil
	})
	if errors.Is(err, raftstore.ErrTrimmed) {
		return nil, n.errTrimmed(shard)
	}
	if errors.Is(err, raftstore.ErrCorrupt) {
		return &api.BadRecord{Shard: shard, Seq: from.head.Seq + 1, Reason: err.Error()}, nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return bad, err
}

// raiseAuditFormat has a shard that this node leads write its records in the
// newest version.
func (n *core) raiseAuditFormat(shard uint32) {
	var have uint8
	if shard == controlShard {
		n.control.view(func(c *ledger.Control) { have = c.AuditVersion() })
	} else {
		m := n.taskShard(shard)
		if m == nil {
			return // dropped meanwhile
		}
		m.view(func(t *ledger.Tasks) { have = t.AuditVersion() })
	}
	if have < ledger.AuditFormatNow {
		n.propose(shard, []ledger.Command{&ledger.AuditFormat{Version: ledger.AuditFormatNow}})
	}
}

func selects(f *api.AuditFilter, r *api.Record) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(f.AgentID, r.AgentID) && is(f.Verb, r.Verb) && is(f.TaskID, r.TaskID) && is(f.FleetID, r.FleetID) &&
		is(f.SessionID, r.SessionID) && is(f.Action, r.Action) && is(f.Target, r.Target) &&
		is(f.GuaranteeLevel, r.Guarantee) && (f.RegulationRef == "" || slices.Contains(r.RegulationRefs, f.RegulationRef)) &&
		(f.From.IsZero() || !r.Time.Before(f.From)) && (f.To.IsZero() || r.Time.Before(f.To))
}

func renderRecord(r *ledger.Record, body []byte) api.Record {
	hash := ledger.LeafHash(body)
	x := api.Record{Shard: r.Shard, Seq: r.Seq, Index: r.Index, Time: timeOf(r.TimeMillis), Verb: r.Verb, FleetID: r.Fleet,
		AgentID: r.Agent, Actor: r.Actor, Epoch: r.Epoch, Attempt: int(r.Attempt),
		Detail: r.Detail, StolenFrom: r.StolenFrom, Hash: hex.EncodeToString(hash[:]), Bytes: body}
	if !r.Task.IsZero() {
		x.Action, x.Target, _ = api.SplitCapability(r.Capability)
		x.TaskID = r.Task.String()
		x.Guarantee = r.Guarantee.String()
	}
	if r.Code != ledger.OK {
		x.Code = r.Code.String()
	}
	x.From, x.To = stateName(r.From), stateName(r.To)
	if r.AssignedMillis != 0 {
		x.AssignedAt = timeOf(r.AssignedMillis)
	}
	if r.StartedMillis != 0 {
		x.StartedAt = timeOf(r.StartedMillis)
	}
	x.Request, x.Result, x.Params = hexDigest(&r.RequestDigest), hexDigest(&r.ResultDigest), hexDigest(&r.ParamsDigest)
	x.Approver, x.SessionID, x.Classification, x.RegulationRefs = r.Approver, r.Session, r.Classification, r.Regulations
	x.RulePack, x.Evidence = r.Pack, r.Evidence
	x.StolenFromLoad, x.StolenToLoad = r.FromLoad, r.ToLoad
	for _, id := range []struct {
		to *string
		id ledger.TaskID
	}{{&x.ParentTaskID, r.Parent}, {&x.VerifyTaskID, r.VerifyTask}, {&x.RollbackTaskID, r.RollbackTask}} {
		if !id.id.IsZero() {
			*id.to = id.id.String()
		}
	}
	return x
}

func hexDigest(h *[32]byte) string {
	if *h == ([32]byte{}) {
		return ""
	}
	return hex.EncodeToString(h[:])
}

func stateName(s ledger.State) string {
	if s == 0 {
		return ""
	}
	return s.String()
}

// LedgerHeads is where this node's trees end; at audit level log, where its
// journals do, with a checksum.
func (n *core) LedgerHeads(context.Context) ([]api.LedgerHead, error) {
	heads := make([]api.LedgerHead, 0, n.shards)
	for _, shard := range n.store.Shards() {
		if l, err := n.trail(shard); err == nil {
			h := l.Head()
			heads = append(heads, api.LedgerHead{Shard: shard, Size: h.Size, Hash: hex.EncodeToString(h.Root[:])})
			continue
		}
		h := n.head(shard)
		heads = append(heads, api.LedgerHead{Shard: shard, Size: h.Seq, Hash: hex.EncodeToString(h.Hash[:])})
	}
	return heads, nil
}

func (n *core) head(shard uint32) (h ledger.Head) {
	if shard == controlShard {
		n.control.view(func(c *ledger.Control) { h = c.Head() })
	} else if m := n.taskShard(shard); m != nil {
		m.view(func(t *ledger.Tasks) { h = t.Head() })
	}
	return h
}

// VerifyLedger: this node's journals are read again, every hash is
// made anew, and the roots compared with those that were kept.
func (n *core) VerifyLedger(ctx context.Context) (api.LedgerVerification, error) {
	v := api.LedgerVerification{NodeID: n.id.NodeID, OK: true}
	for _, shard := range n.store.Shards() {
		if n.store.Journal(shard) == nil {
			continue
		}
		head, bad, err := n.verifyShard(ctx, shard)
		if err != nil {
			return v, err // with what was verified until then
		}
		if bad != nil {
			v.OK = false
			v.Bad = append(v.Bad, *bad)
		}
		v.Heads = append(v.Heads, head)
	}
	return v, nil
}

func (n *core) verifyShard(ctx context.Context, shard uint32) (api.LedgerHead, *api.BadRecord, error) {
	want := n.head(shard)
	var kept proof.Head // of the trail, before the journal is read
	from, err := n.floorHere(shard)
	if err != nil {
		return api.LedgerHead{}, nil, err
	}
	l, err := n.trails.log(shard, n.journal(shard))
	if l != nil {
		kept = l.Head()
	}
	if err != nil && l == nil && !n.trails.off {
		return api.LedgerHead{}, nil, err
	}
	tree := from.tree.Clone()
	atKept, atWant := tree.Root(), from.head.Hash // if nothing follows
	bad, err := n.walkShard(ctx, shard, from.place, func(r *ledger.Record, body []byte, at place) bool {
		tree.Append(proof.Leaf(body))
		if r.Seq == want.Seq {
			atWant = at.head.Hash
		}
		if r.Seq == kept.Size {
			atKept = tree.Root()
		}
		return true
	})
	root := tree.Root()
	head := api.LedgerHead{Shard: shard, Size: tree.Size, Hash: hex.EncodeToString(root[:])}
	switch {
	case err != nil || bad != nil:
	case kept.Size >= max(from.Records, 1) && atKept != kept.Root:
		bad, err = n.firstAltered(ctx, shard, l, from, kept.Size)
	case want.Seq > 0 && atWant != want.Hash:
		bad = &api.BadRecord{Shard: shard, Seq: head.Size + 1, Reason: fmt.Sprintf("the state machine is at record %d, the journal ends at %d or differs", want.Seq, head.Size)}
	}
	return head, bad, err
}

// firstAltered finds the first of size records whose bytes do not give the
// leaf that was kept.
func (n *core) firstAltered(ctx context.Context, shard uint32, l *trail.Log, from floor, size uint64) (bad *api.BadRecord, err error) {
	seq := from.Records
	broken, err := n.walkShard(ctx, shard, from.place, func(r *ledger.Record, body []byte, _ place) bool {
		seq = r.Seq
		var kept []tlog.Hash
		if kept, err = l.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(seq-1))}); err == nil && kept[0] != proof.Leaf(body) {
			bad = &api.BadRecord{Shard: shard, Seq: seq, Reason: "altered: it is not the record that was hashed"}
		}
		return err == nil && bad == nil && seq < size
	})
	if bad == nil && broken == nil && err == nil {
		bad = &api.BadRecord{Shard: shard, Seq: seq + 1, Reason: fmt.Sprintf("missing: %d records were hashed, the journal has %d", size, seq)}
	}
	if bad == nil {
		bad = broken
	}
	return bad, err
}
