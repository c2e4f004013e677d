package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/ledger/proof"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/trail"
)

// findBudget bounds the work for one page of records: what is not found by
// then is for the next one. Of ten million records most pages take 5 ms.
const findBudget = 30 * time.Millisecond

// terms are what the index is asked for; false when there is nothing to ask.
func terms(f *api.AuditFilter) ([]trail.Term, bool, error) {
	var list []trail.Term
	add := func(field ledger.Field, v string) {
		if v != "" {
			list = append(list, trail.TermOf(field, []byte(v)))
		}
	}
	add(ledger.FieldVerb, f.Verb)
	add(ledger.FieldFleet, f.FleetID)
	add(ledger.FieldAgent, f.AgentID)
	add(ledger.FieldSession, f.SessionID)
	add(ledger.FieldRegulation, f.RegulationRef)
	if add(ledger.FieldAction, f.Action); f.Action != "" && f.Target != "" {
		add(ledger.FieldCapability, f.Action+":"+f.Target)
	}
	if f.GuaranteeLevel != "" {
		g, err := ledger.ParseGuarantee(f.GuaranteeLevel)
		if err != nil {
			return nil, false, api.Errorf(400, 7, "unknown_guarantee", api.RetryNo, "there is no guarantee level %q", f.GuaranteeLevel).
				WithHint("best_effort, at_least_once or exactly_once, or atp-1, atp-2, atp-3")
		}
		f.GuaranteeLevel = g.String()
		list = append(list, trail.TermOf(ledger.FieldGuarantee, []byte{byte(g)}))
	}
	if f.TaskID != "" {
		id, err := ledger.ParseTaskID(f.TaskID)
		if err != nil {
			return nil, false, api.Errorf(400, 5, "bad_task_id", api.RetryNo, "%q is not a task ID", f.TaskID)
		}
		list = append(list, trail.TermOf(ledger.FieldTask, id[:]))
		if f.Shard < 0 {
			f.Shard = int(id.Shard()) // all records about a task are in its shard
		}
	}
	return list, len(list) > 0 || !f.From.IsZero() || !f.To.IsZero(), nil
}

// finder collects a page with the index's help.
type finder struct {
	n        *core
	ctx      context.Context
	f        *api.AuditFilter
	terms    []trail.Term
	deadline time.Time
	limit    int
	page     api.RecordPage
	last     cursor // of the last record looked at
	full     bool
	err      error
}

// find lists a page of records; a page may be short, with a cursor, when
// there was much to look at.
func (n *core) find(ctx context.Context, f api.AuditFilter, list []trail.Term, limit int) (api.RecordPage, error) {
	cur, err := openCursor(n.cursorKey, "find", f.Cursor)
	if err != nil {
		return api.RecordPage{}, err
	}
	s := &finder{n: n, ctx: ctx, f: &f, terms: list, deadline: n.cfg.Now().Add(findBudget), limit: limit, page: api.RecordPage{Records: []api.Record{}}}
	if s.page.Archived, err = n.archivedOf(ctx, f.Shard); err != nil {
		return api.RecordPage{}, err
	}
	for shard := range n.shards {
		if shard < cur.Shard || f.Shard >= 0 && uint32(f.Shard) != shard {
			continue
		}
		from := uint64(1)
		if shard == cur.Shard {
			from = cur.Seq + 1
		}
		s.last = cursor{Kind: "find", Shard: shard, Seq: from - 1}
		if err := s.any(shard, from); err != nil {
			return api.RecordPage{}, err
		}
		if s.full {
			s.page.NextCursor = s.last.seal(n.cursorKey)
			break
		}
	}
	return s.page, nil
}

// findRequest asks a node for what it has of one shard.
type findRequest struct {
	Filter api.AuditFilter `json:"filter"`
	Shard  uint32          `json:"shard"`
	From   uint64          `json:"from"`
	Limit  int             `json:"limit"`
}

type findAnswer struct {
	Records []api.Record `json:"records"`
	Last    uint64       `json:"last"` // looked at
	Full    bool         `json:"full"`
}

// any looks through a shard, here or at a node that has it.
func (s *finder) any(shard uint32, from uint64) error {
	if s.n.store.Journal(shard) != nil {
		return s.shard(shard, from)
	}
	left := s.limit - len(s.page.Records)
	a, err := atHolder(s.ctx, s.n, shard, methodFind, findRequest{*s.f, shard, from, left}, s.n.findHere)
	if err != nil {
		return err
	}
	s.page.Records = append(s.page.Records, a.Records...)
	s.last.Seq, s.full = max(a.Last, from-1), a.Full
	return nil
}

func (n *core) findHere(ctx context.Context, q findRequest) (findAnswer, error) {
	if n.store.Journal(q.Shard) == nil {
		return findAnswer{}, errNotLeader
	}
	list, _, err := terms(&q.Filter)
	if err != nil {
		return findAnswer{}, err
	}
	s := &finder{n: n, ctx: ctx, f: &q.Filter, terms: list, deadline: n.cfg.Now().Add(findBudget), limit: min(q.Limit, api.MaxPage), page: api.RecordPage{Records: []api.Record{}}}
	s.last = cursor{Seq: q.From - 1}
	if err := s.shard(q.Shard, q.From); err != nil {
		return findAnswer{}, err
	}
	return findAnswer{s.page.Records, s.last.Seq, s.full}, nil
}

func (s *finder) late() bool {
	s.full = s.full || s.n.cfg.Now().After(s.deadline)
	return s.full
}

// shard looks through the blocks of one shard's index, then at what is newer.
func (s *finder) shard(shard uint32, from uint64) error {
	x, err := s.n.trails.index(shard, s.n.journal(shard))
	if err != nil {
		return errInternal(err)
	}
	start, err := s.n.floorHere(shard)
	if err != nil {
		return err
	}
	from = max(from, start.Records+1)
	s.last.Seq = from - 1
	oldest, newest := int64(-1<<62), int64(1<<62)
	if !s.f.From.IsZero() {
		oldest = s.f.From.UnixMilli()
	}
	if !s.f.To.IsZero() {
		newest = s.f.To.UnixMilli()
	}
	next, err := x.Find(from, s.terms, oldest, newest, func() bool { return !s.late() }, func(seq uint64, offset int64) bool {
		s.err = s.n.store.Journal(shard).Read(offset, func(_, _ int64, b []byte) bool {
			s.take(shard, seq, b)
			return false
		})
		return s.err == nil && !s.full
	})
	switch {
	case errors.Join(err, s.err) != nil:
		return errInternal(errors.Join(err, s.err))
	case s.full && next > 0:
		s.last.Seq = next - 1
		return nil
	case s.full:
		return nil
	}
	seq, offset := x.Next()
	if offset < start.offset { // it is not indexed yet
		seq, offset = start.Records+1, start.offset
	}
	err = s.n.store.Journal(shard).Read(offset, func(_, _ int64, b []byte) bool {
		if seq >= from {
			if seq%findPause == 0 && s.late() {
				return false
			}
			s.take(shard, seq, b)
		}
		seq++
		return s.err == nil && !s.full && s.ctx.Err() == nil
	})
	return errors.Join(err, s.err, s.ctx.Err())
}

// findPause is how many records are looked at between two looks at the
// clock.
const findPause = 256

// take adds a record to the page if it is selected; with the page full it
// stays for the next one.
func (s *finder) take(shard uint32, seq uint64, b []byte) {
	body := b
	if len(b) > 0 && b[0] == 1 {
		body = b[:max(0, len(b)-32)] // the chain hash
	}
	r, err := ledger.DecodeRecord(body)
	if err != nil || r.Shard != shard || r.Seq != seq {
		s.err = errCorrupt(&api.BadRecord{Shard: shard, Seq: seq, Reason: fmt.Sprintf("it can't be read (%v) or another stands in its place", err)})
		return
	}
	x := renderRecord(r, nil)
	if !selects(s.f, &x) {
		s.last.Seq = seq
		return
	}
	if len(s.page.Records) == s.limit {
		s.full = true
		return
	}
	if s.err = s.n.trails.check(shard, seq, body); s.err == nil {
		x = renderRecord(r, body)
		x.Bytes = nil
		s.page.Records = append(s.page.Records, x)
		s.last.Seq = seq
	}
}

// index is a shard's index, opened when it is first asked for.
func (t *trails) index(shard uint32, j trail.Journal) (*trail.Index, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.mu.indexes[shard]; x != nil {
		return x, nil
	}
	x, err := trail.OpenIndex(t.fs, t.dir, shard, j)
	if err == nil {
		t.mu.indexes[shard] = x
	}
	return x, err
}

// check compares a record with the leaf that was made of it.
func (t *trails) check(shard uint32, seq uint64, body []byte) error {
	t.mu.Lock()
	l := t.mu.of[shard]
	t.mu.Unlock()
	if l == nil || l.Head().Size < seq {
		return nil
	}
	kept, err := l.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(seq-1))})
	if err == nil && kept[0] != proof.Leaf(body) {
		return errCorrupt(&api.BadRecord{Shard: shard, Seq: seq, Reason: "altered: it is not the record that was hashed"})
	}
	return err
}
