package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// MeterConfig says how load is made and what of it counts.
type MeterConfig struct {
	Rate   int   // tasks a second, open loop; 0: as fast as they complete
	Window int   // tasks under way when Rate is 0
	Batch  int   // tasks taken at once, at most
	Limit  int64 // tasks in all, however many are under way; 0: no limit
}

// A Meter is the generator's half of a measurement: it says which tasks are due, and takes note of when they were
// acknowledged and completed. At a rate latency counts from the moment a task was due, however late it was taken, so
// that a stall is charged to every task it delayed. Its methods are safe for concurrent use.
type Meter struct {
	cfg       MeterConfig
	began     time.Time
	sched     *schedule
	window    chan struct{}
	next      atomic.Int64 // sequence number of the next task
	done      bits         // completion acknowledged, by sequence number
	completed atomic.Int64 // bits in done
	from, to  atomic.Int64 // what is measured, in nanoseconds since began; to 0: not known yet
	submitLag latencies    // from due to acknowledged
	takeLag   latencies    // from due to handed to a worker
	endLag    latencies    // from due to completion acknowledged
	perStep   struct {
		sync.Mutex
		counts []int64 // completed in each timelineStep since began
	}
}

// timelineStep is how finely completions are counted over time: an hour is 36,000 counts.
const timelineStep = 100 * time.Millisecond

// NewMeter starts the clock.
func NewMeter(cfg MeterConfig) *Meter {
	m := &Meter{cfg: cfg, began: time.Now(), sched: newSchedule(cfg.Rate), window: make(chan struct{}, max(cfg.Window, 1))}
	m.from.Store(int64(maxDuration) * 4) // nothing counts before the warm-up is over
	return m
}

// restart sets the clock to zero, before anything was taken.
func (m *Meter) restart() { m.began = time.Now() }

// Since is the time on the meter's clock.
func (m *Meter) Since() time.Duration { return time.Since(m.began) }

// Next waits for the next tasks and says when each was due. It is false when ctx has ended.
func (m *Meter) Next(ctx context.Context) (first int64, due []time.Duration, ok bool) {
	if m.cfg.Rate > 0 {
		first, n, ok := m.sched.take(ctx, m.Since, m.cfg.Batch)
		due = make([]time.Duration, n)
		for i := range due {
			due[i] = m.sched.due(first + int64(i))
		}
		return first, due, ok
	}
	var n int
	if m.cfg.Limit > 0 {
		first = m.next.Add(int64(m.cfg.Batch)) - int64(m.cfg.Batch)
		n = int(min(int64(m.cfg.Batch), m.cfg.Limit-first))
	} else if n = m.admit(ctx); n > 0 {
		first = m.next.Add(int64(n)) - int64(n)
	}
	if n <= 0 || ctx.Err() != nil {
		return 0, nil, false
	}
	due = make([]time.Duration, n)
	now := m.Since()
	for i := range due {
		due[i] = now
	}
	return first, due, true
}

// admit waits until one more task may be under way, and takes up to a batch.
func (m *Meter) admit(ctx context.Context) (n int) {
	select {
	case m.window <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	for n = 1; n < m.cfg.Batch; n++ {
		select {
		case m.window <- struct{}{}:
		default:
			return n
		}
	}
	return n
}

// Submitted notes that tasks were acknowledged now.
func (m *Meter) Submitted(due []time.Duration) { m.record(&m.submitLag, m.Since(), due) }

// Taken notes that workers were handed tasks now.
func (m *Meter) Taken(due []time.Duration) { m.record(&m.takeLag, m.Since(), due) }

// First says whether the task with a sequence number is completed for the first time.
func (m *Meter) First(seq int64) bool { return seq >= 0 && seq < maxTasks && m.done.set(seq) }

// Completed notes that tasks were completed now, each for the first time.
func (m *Meter) Completed(due []time.Duration) { m.completedAt(due, m.Since()) }

func (m *Meter) completedAt(due []time.Duration, now time.Duration) {
	m.completed.Add(int64(len(due)))
	m.perStep.Lock()
	for step := int(now / timelineStep); step >= len(m.perStep.counts); {
		m.perStep.counts = append(m.perStep.counts, 0)
	}
	m.perStep.counts[now/timelineStep] += int64(len(due))
	m.perStep.Unlock()
	m.record(&m.endLag, now, due)
	if m.cfg.Rate > 0 || m.cfg.Limit > 0 {
		return
	}
	for range due {
		<-m.window
	}
}

// record adds what falls within the measured time.
func (m *Meter) record(l *latencies, now time.Duration, due []time.Duration) {
	l.record(now, m.from.Load(), m.to.Load(), due)
}

// MeterReport is what counted.
type MeterReport struct {
	Seconds     float64
	Completed   int64
	PerSecond   float64
	SubmitAcked Quantiles
	Latency     Quantiles // to completion
}

// Measure lets the load warm up, then counts for a duration.
func (m *Meter) Measure(ctx context.Context, warmUp, duration time.Duration) (MeterReport, error) {
	pause(ctx, warmUp)
	from, before := m.Since(), m.completed.Load()
	m.from.Store(int64(from))
	pause(ctx, duration)
	to, after := m.Since(), m.completed.Load()
	m.to.Store(int64(to))
	r := MeterReport{Seconds: (to - from).Seconds(), Completed: after - before, SubmitAcked: m.submitLag.quantiles(), Latency: m.endLag.quantiles()}
	r.PerSecond = float64(r.Completed) / r.Seconds
	if ctx.Err() == nil && r.Completed == 0 {
		return r, errors.New("bench: nothing was completed")
	}
	return r, ctx.Err()
}
