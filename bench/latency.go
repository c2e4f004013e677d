package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept in microseconds, up to ten minutes, to three digits.
const (
	maxLatency    = 10 * time.Minute
	latencyDigits = 3
)

// latencies is a histogram that goroutines share: they record by the batch.
type latencies struct {
	mu struct {
		sync.Mutex
		hist *hdrhistogram.Histogram
	}
}

// record adds one latency for each due time within [from, to): those before
// belong to the warm-up, those after to nothing.
func (l *latencies) record(now time.Duration, from, to int64, due []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range due {
		if int64(d) < from || to != 0 && int64(d) >= to {
			continue
		}
		if l.mu.hist == nil {
			l.mu.hist = hdrhistogram.New(1, maxLatency.Microseconds(), latencyDigits)
		}
		_ = l.mu.hist.RecordValue(min(max((now-d).Microseconds(), 1), maxLatency.Microseconds())) // within its bounds
	}
}

// Quantiles are points of a latency distribution, in milliseconds.
type Quantiles struct {
	P50Millis  float64 `json:"p50_ms"`
	P99Millis  float64 `json:"p99_ms"`
	P999Millis float64 `json:"p99_9_ms"`
	MaxMillis  float64 `json:"max_ms"`
}

func (l *latencies) quantiles() Quantiles {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.hist == nil {
		return Quantiles{}
	}
	return quantilesOf(l.mu.hist)
}

func quantilesOf(h *hdrhistogram.Histogram) Quantiles {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Quantiles{at(50), at(99), at(99.9), float64(h.Max()) / 1000}
}
