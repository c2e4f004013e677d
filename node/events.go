package node

import (
	"context"
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Bounds of an event stream. Nothing queues for a reader: it is read to from
// the journals, at its own pace.
const (
	eventRun     = 256              // records of one shard before another's turn
	eventPing    = 15 * time.Second // a sign of life at least so often
	eventLook    = time.Second      // for records without an event, such as refusals
	maxEventLag  = 1 << 20          // records a reader that was up to date may fall behind
	eventIDShard = 4 + 8 + 8 + 32   // shard, offset, sequence, chain
)

// bell wakes those who wait for the next event.
type bell struct {
	mu sync.Mutex
	ch chan struct{} // nil when nobody waits
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// Events hands records to fn as this node applies them, until ctx ends or fn
// fails. Within a shard they come in order, each once. It calls ready when it
// knows where it begins, with the ID to come back with if no event does: what
// happens from then on is not missed, not even at another node.
func (n *core) Events(ctx context.Context, q api.EventRequest, ready func(id string), fn func(api.Event) error) error {
	at, err := n.eventStart(q.After)
	if err != nil {
		return err
	}
	ready(n.eventID(at))
	lively := false
	told := n.cfg.Now()
	for ctx.Err() == nil && n.ctx.Err() == nil {
		wake := n.events.next()
		some := false
		for _, shard := range n.store.Shards() {
			got, err := n.eventsOf(ctx, shard, at, &q.Filter, fn)
			if err != nil {
				return err
			}
			some = some || got
			if lag := n.head(shard).Seq - at[shard].head.Seq; lively && lag > maxEventLag && lag < 1<<63 {
				return api.Errorf(503, 2, "reader_too_slow", api.RetryLater, "the reader is %d records behind, at most %d", lag, maxEventLag).
					WithHint("go on from the last event's ID, and read faster")
			}
		}
		if some {
			told = n.cfg.Now()
			continue
		}
		lively = true
		if n.cfg.Now().Sub(told) >= eventPing {
			if err := fn(api.Event{}); err != nil {
				return err
			}
			told = n.cfg.Now()
		}
		look := time.NewTimer(eventLook)
		select {
		case <-wake:
		case <-look.C:
		case <-ctx.Done():
		case <-n.ctx.Done():
		}
		look.Stop()
	}
	return nil
}

// eventsOf hands on some of a shard's records and says whether there were any.
func (n *core) eventsOf(ctx context.Context, shard uint32, at map[uint32]place, f *api.AuditFilter, fn func(api.Event) error) (some bool, err error) {
	from, ok := at[shard]
	if !ok { // from the start, or the shard came to this node
		start, err := n.floorHere(shard)
		if err != nil {
			return false, err
		}
		from = start.place
	}
	count := 0
	var fnErr error
	bad, err := n.walkShard(ctx, shard, from, func(r *ledger.Record, body []byte, next place) bool {
		at[shard] = next
		some = true
		if x := renderRecord(r, body); selects(f, &x) {
			x.Bytes = nil
			fnErr = fn(api.Event{ID: n.eventID(at), Record: x})
		}
		count++
		return fnErr == nil && count < eventRun
	})
	switch {
	case fnErr != nil:
		return some, fnErr
	case errors.Is(err, context.Canceled):
		return some, nil
	case err != nil:
		return some, err
	case bad != nil:
		return some, api.Errorf(500, 7, "ledger_corrupt", api.RetryNo, "shard %d record %d: %s", bad.Shard, bad.Seq, bad.Reason)
	}
	return some, nil
}

// eventID names a position in all shards, so that it is as good at another
// node.
func (n *core) eventID(at map[uint32]place) string {
	b := make([]byte, 0, eventIDShard*len(at))
	for shard := range n.shards {
		p, ok := at[shard]
		if !ok {
			continue
		}
		b = binary.BigEndian.AppendUint32(b, shard)
		b = binary.BigEndian.AppendUint64(b, uint64(p.offset))
		b = binary.BigEndian.AppendUint64(b, p.head.Seq)
		b = append(b, p.head.Hash[:]...)
	}
	return base64.RawURLEncoding.EncodeToString(append(cursorMAC(n.cursorKey, b), b...))
}

// eventStart is where a stream begins.
func (n *core) eventStart(after string) (map[uint32]place, error) {
	at := map[uint32]place{}
	switch after {
	case "start":
		return at, nil
	case "":
		for _, shard := range n.store.Shards() {
			at[shard] = n.journalEnd(shard)
		}
		return at, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(after)
	if err != nil || len(b) < cursorMACBytes || (len(b)-cursorMACBytes)%eventIDShard != 0 || !hmac.Equal(b[:cursorMACBytes], cursorMAC(n.cursorKey, b[cursorMACBytes:])) {
		return nil, api.Errorf(400, 2, "bad_event_id", api.RetryNo, "the Last-Event-ID was not made by this cluster, or was altered").
			WithHint("begin without one, or with from=start")
	}
	for b = b[cursorMACBytes:]; len(b) > 0; b = b[eventIDShard:] {
		at[binary.BigEndian.Uint32(b)] = place{offset: int64(binary.BigEndian.Uint64(b[4:])),
			head: ledger.Head{Seq: binary.BigEndian.Uint64(b[12:]), Hash: [32]byte(b[20:eventIDShard])}}
	}
	return at, nil
}

// journalEnd is behind a shard's last record; Apply, which writes them, waits
// meanwhile.
func (n *core) journalEnd(shard uint32) (p place) {
	j := n.store.Journal(shard)
	if j == nil {
		return place{head: ledger.NewChain(shard)}
	}
	if shard == controlShard {
		n.control.view(func(c *ledger.Control) { p = place{offset: j.Size(), head: c.Head()} })
	} else if m := n.taskShard(shard); m != nil {
		m.view(func(t *ledger.Tasks) { p = place{offset: j.Size(), head: t.Head()} })
	}
	return p
}

// Events hands audit records on as they come; see the core's.
func (n *Node) Events(ctx context.Context, q api.EventRequest, ready func(id string), fn func(api.Event) error) error {
	c, err := n.member()
	if err != nil {
		return err
	}
	return c.Events(ctx, q, ready, fn)
}
