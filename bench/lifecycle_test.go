package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate/quorate/ledger"
)

func TestConfigLimits(t *testing.T) {
	if err := (LifecycleConfig{}).withDefaults().validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	bad := LifecycleConfig{Rate: maxRate + 1, PayloadBytes: maxPayload + 1, Batch: maxBatch + 1, Window: maxWindow + 1, Duration: maxDuration + 1, WarmUp: -1}
	err := bad.withDefaults().validate()
	for _, name := range []string{"rate", "payload", "batch", "window", "duration", "warm-up"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s over its limit is not named in: %v", name, err)
		}
	}
	at := LifecycleConfig{Rate: maxRate, PayloadBytes: minPayload, Batch: maxBatch, Window: maxWindow, Duration: maxDuration}
	if err := at.withDefaults().validate(); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}

func TestInputHasTheSizeAskedFor(t *testing.T) {
	for _, size := range []int{minPayload, 128, 4096} {
		b := encodeInput(maxTasks-1, maxDuration, size)
		var in input
		if err := json.Unmarshal(b, &in); err != nil || len(b) != size || in.Seq != maxTasks-1 || in.Due != maxDuration {
			t.Errorf("size %d: %d bytes, %+v, %v", size, len(b), in, err)
		}
	}
	if len(result) != 40 {
		t.Errorf("a result has %d bytes, want 40", len(result))
	}
}

// TestScheduleKeepsTheRate: whoever takes late takes more, and each task keeps
// the moment it was due.
func TestScheduleKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		now := func() time.Duration { return time.Since(began) }
		s := newSchedule(10_000)
		var total int64
		for total < 1000 {
			first, n, ok := s.take(t.Context(), now, 64)
			if !ok || first != total {
				t.Fatalf("took %d from %d (%v), want from %d", n, first, ok, total)
			}
			if late := now() - s.due(first); late < 0 || late > dispatchInterval {
				t.Fatalf("task %d is taken %v after it was due", first, late)
			}
			total += int64(n)
		}
		if d := now(); d < 98*time.Millisecond || d > 102*time.Millisecond {
			t.Errorf("1000 tasks at 10000/s took %v", d)
		}
		time.Sleep(50 * time.Millisecond) // the generator is held up: 500 tasks fall due
		first, n, _ := s.take(t.Context(), now, 1024)
		if n < 480 || now()-s.due(first) < 45*time.Millisecond {
			t.Errorf("after a stall of 50 ms: %d tasks, the first %v late", n, now()-s.due(first))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, ok := s.take(ctx, now, 1); ok {
			t.Error("took a task after the end")
		}
	})
}

func TestBitsCountOnce(t *testing.T) {
	var a, b bits
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for range 4 {
		wg.Go(func() {
			for n := int64(0); n < 3*bitBlock; n += bitBlock / 64 {
				if a.set(n) {
					mu.Lock()
					fresh++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if fresh != 3*64 {
		t.Errorf("%d were new, want %d", fresh, 3*64)
	}
	b.set(0)
	b.set(bitBlock)
	b.set(bitBlock + 1) // not in a
	if got := a.minus(&b); got != 3*64-2 {
		t.Errorf("a minus b has %d, want %d", got, 3*64-2)
	}
	if !a.set(maxTasks - 1) {
		t.Error("the last number was in the set")
	}
}

func TestKillWatch(t *testing.T) {
	var k killWatch
	id := func(shard uint32) string { return ledger.NewTaskID(shard, 1, 1).String() }
	k.completed(id(1), time.Second, time.Second)
	if k.report() != nil {
		t.Error("a report without a kill")
	}
	k.begin("n1", []uint32{1, 2}, 10*time.Second)
	k.completed(id(1), 9*time.Second, 11*time.Second)  // asked for before the kill
	k.completed(id(3), 11*time.Second, 11*time.Second) // another leader's shard
	k.completed("nonsense", 11*time.Second, 11*time.Second)
	k.completed(id(1), 10*time.Second, 10500*time.Millisecond)
	k.completed(id(1), 11*time.Second, 12*time.Second) // not the first
	if r := k.report(); r.FirstMillis[1] != 500 || r.FirstMillis[2] != -1 || r.WorstMillis != -1 {
		t.Errorf("report %+v: shard 2 has had none", r)
	}
	k.completed(id(2), 10*time.Second, 10700*time.Millisecond)
	if r := k.report(); r.WorstMillis != 700 || len(r.FirstMillis) != 2 {
		t.Errorf("report %+v", r)
	}
}

func TestReportPrints(t *testing.T) {
	var out bytes.Buffer
	LifecycleReport{LifecyclesPerSecond: 12345, Rate: 10, Kill: &KillReport{Node: "n2", FirstMillis: map[uint32]int64{3: 400}, WorstMillis: 400}}.print(&out)
	for _, want := range []string{"12345 /s", "open loop, 10/s", "SIGKILL of n2", "3: 400 ms", "lost"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestLatenciesOfTheMeasuredTimeOnly(t *testing.T) {
	var l latencies
	if l.quantiles() != (Quantiles{}) {
		t.Error("nothing has quantiles")
	}
	s := time.Second
	l.record(10*s, int64(5*s), int64(9*s), []time.Duration{4 * s, 5 * s, 8 * s, 9 * s, 8 * s})
	if q := l.quantiles(); q.P50Millis < 1999 || q.P50Millis > 2002 || q.MaxMillis < 4990 || q.MaxMillis > 5010 {
		t.Errorf("quantiles %+v, want a median of 2 s and a maximum of 5 s", q)
	}
}
