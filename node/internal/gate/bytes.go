package gate

import (
	"cmp"
	"sync/atomic"

	"github.com/quorate/quorate/node/api"
)

// Limits of what arrives.
const (
	MaxArriving  = 512 << 20 // bytes of messages and bodies at a node that are not answered yet
	FreeArriving = 64 << 10  // of each, which are not counted: those that are only small cost nothing
)

// Bytes bounds what has arrived in messages and bodies and is not answered,
// over a whole node: their number alone bounds no memory when each may be
// large. Its methods are safe for concurrent use.
type Bytes struct {
	limit int64
	used  atomic.Int64
}

// NewBytes makes a bound; 0: MaxArriving.
func NewBytes(limit int64) *Bytes { return &Bytes{limit: cmp.Or(limit, MaxArriving)} }

// Used is what is counted now.
func (b *Bytes) Used() int64 { return b.used.Load() }

// Give takes bytes off that were answered.
func (b *Bytes) Give(n int64) {
	if n != 0 {
		b.used.Add(-n)
	}
}

func (b *Bytes) take(n int64) error {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return api.Errorf(503, 2, "too_many_bytes", api.RetryLater, "more than %d bytes of messages and bodies are on their way through this node", b.limit).
			WithHint("send fewer or smaller batches at a time, or to another node")
	}
	return nil
}

// Meter counts one message or body after the other. Its methods are called by
// one goroutine.
type Meter struct {
	of          *Bytes
	seen, taken int64
}

// Meter makes one.
func (b *Bytes) Meter() *Meter { return &Meter{of: b} }

// Add counts n bytes that came; its error says that they are too many.
func (m *Meter) Add(n int) error {
	m.seen += int64(n)
	more := m.seen - FreeArriving - m.taken
	if more <= 0 {
		return nil
	}
	if err := m.of.take(more); err != nil {
		return err
	}
	m.taken += more
	return nil
}

// Large says that the message or body is one that counts.
func (m *Meter) Large() bool { return m.taken > 0 }

// Done ends a message or body, and returns what is to be given once it is
// answered.
func (m *Meter) Done() (taken int64) {
	taken, m.seen, m.taken = m.taken, 0, 0
	return taken
}
