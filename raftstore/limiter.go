package raftstore

import (
	"context"
	"io"
	"sync"
	"time"
)

// DefaultSnapshotBytesPerSecond is about one gigabit link. A stream costs either end some 5 ns a byte, two thirds of a
// processor at this rate.
const DefaultSnapshotBytesPerSecond = 128 << 20

// limiter spaces writes so that together they stay below a rate. What was not used is not saved up.
type limiter struct {
	perSecond int64 // not positive: no bound
	mu        sync.Mutex
	next      time.Time // when the next write may begin
}

// wait takes n bytes' worth of time, and waits for the writes before to have had theirs.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l == nil || l.perSecond <= 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	pause := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.perSecond) * float64(time.Second)))
	l.mu.Unlock()
	if pause <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *limiter) writer(ctx context.Context, w io.Writer) io.Writer {
	return limitedWriter{l, ctx, w}
}

type limitedWriter struct {
	l   *limiter
	ctx context.Context
	w   io.Writer
}

func (w limitedWriter) Write(p []byte) (int, error) {
	if err := w.l.wait(w.ctx, len(p)); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
