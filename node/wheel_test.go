package node

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

// The wheel against a plain list: every armed slot fires once, never before
// its time and at most one tick and one advance late, over turns of both rings
// and after a pause.
func TestWheelAgainstModel(t *testing.T) {
	for seed := range uint64(6) {
		wheelAgainstModel(t, seed)
	}
}

func wheelAgainstModel(t *testing.T, seed uint64) {
	const slots = 300
	rng := rand.New(rand.NewPCG(seed, seed))
	var w wheel
	due := map[uint32]int64{}
	now := int64(1_700_000_000_000)
	if seed%2 == 0 { // else it is armed before it has seen a clock
		w.advance(now, func(uint32) { t.Fatal("fired before anything was armed") })
	}
	spans := []int{200_000, 20_000_000, 300_000_000} // of near, of a day, of more than far
	for step := range 20_000 {
		s := uint32(rng.IntN(slots))
		switch rng.IntN(3) {
		case 0:
			d := now + int64(rng.IntN(spans[rng.IntN(3)])) - 1000
			w.arm(s, d)
			due[s] = max(d, now) // what is past is due at the next tick
		case 1:
			w.disarm(s)
			delete(due, s)
		case 2:
			step := int64(rng.IntN(500))
			if seed%3 == 2 && rng.IntN(50) == 0 {
				step = int64(rng.IntN(10_000_000)) // the machine slept
			}
			if seed >= 3 {
				step *= 40
			}
			now += step
			w.advance(now, func(s uint32) {
				d, ok := due[s]
				if !ok || d > now {
					t.Fatalf("seed %d step %d: slot %d fired at %d, due %d (armed %v)", seed, step, s, now, d, ok)
				}
				delete(due, s)
			})
			for s, d := range due {
				if d+2*wheelTickMillis < now {
					t.Fatalf("seed %d step %d: slot %d due %d still waits at %d", seed, step, s, d, now)
				}
			}
		}
		if w.pending != len(due) {
			t.Fatalf("seed %d step %d: %d pending, want %d", seed, step, w.pending, len(due))
		}
	}
}

// TestWheelLooks counts how often a timer that is hours away is looked at: not
// once a minute.
func TestWheelLooks(t *testing.T) {
	var w wheel
	const slots, hours = 1000, 10
	now := int64(1_700_000_000_000)
	w.advance(now, nil)
	for s := range uint32(slots) {
		w.arm(s, now+hours*3_600_000)
	}
	moved := 0
	for range hours * 3600 {
		before := w.links[7].due
		now += 1000
		fired := 0
		w.advance(now, func(uint32) { fired++ })
		if w.links[7].due != before {
			moved++
		}
		if fired > 0 && fired != slots {
			t.Fatalf("%d fired of %d", fired, slots)
		}
	}
	w.advance(now+1000, func(uint32) {})
	if w.pending != 0 || moved != 2 { // to near, and out
		t.Errorf("%d pending, moved %d times", w.pending, moved)
	}
}

// BenchmarkWheel is a million timers, spread over ten minutes: arming one more
// while they are pending, arming it again, taking it back, and letting all run
// out; and what each weighs.
func BenchmarkWheel(b *testing.B) {
	const slots = 1 << 20
	const start = 1_700_000_000_000
	dueOf := func(i uint32) int64 { return start + int64(i*7919%slots)*600_000/slots }
	full := func() *wheel {
		w := &wheel{}
		w.advance(start, nil)
		for i := range uint32(slots) {
			w.arm(i, dueOf(i))
		}
		return w
	}
	b.Run("add", func(b *testing.B) {
		b.ReportAllocs()
		w, i := full(), uint32(0)
		for b.Loop() {
			if i%slots == 0 {
				b.StopTimer()
				w.reset()
				w.links = w.links[:0]
				b.StartTimer()
			}
			w.arm(i%slots, dueOf(i%slots))
			i++
		}
	})
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		w, i := full(), uint32(0)
		for b.Loop() {
			w.arm(i%slots, dueOf(i%slots)+60_000)
			i += 7919
		}
	})
	b.Run("cancel", func(b *testing.B) {
		b.ReportAllocs()
		w, i := full(), uint32(0)
		for b.Loop() {
			w.disarm(i * 7919 % slots)
			if i++; i%slots == 0 {
				b.StopTimer()
				w = full()
				b.StartTimer()
			}
		}
	})
	b.Run("expire", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			w := full()
			b.StartTimer()
			n := 0
			for now := int64(start); n < slots; now += 100 {
				w.advance(now, func(uint32) { n++ })
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/slots, "ns/timer")
		b.ReportMetric(float64(unsafe.Sizeof(wheelLink{})), "B/timer")
	})
}
