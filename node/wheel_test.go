package node

import (
	"math/rand/v2"
	"testing"
)

// The wheel against a plain list: every armed slot fires once, never before
// its time and at most one tick and one advance late.
func TestWheelAgainstModel(t *testing.T) {
	const slots, seed = 300, 7
	rng := rand.New(rand.NewPCG(seed, seed))
	var w wheel
	due := map[uint32]int64{}
	now := int64(1_700_000_000_000)
	w.advance(now, func(uint32) { t.Fatal("fired before anything was armed") })
	for step := range 20_000 {
		s := uint32(rng.IntN(slots))
		switch rng.IntN(3) {
		case 0:
			d := now + int64(rng.IntN(200_000)) - 1000
			w.arm(s, d)
			due[s] = d
		case 1:
			w.disarm(s)
			delete(due, s)
		case 2:
			now += int64(rng.IntN(500))
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

func BenchmarkWheelRearm(b *testing.B) {
	var w wheel
	const slots = 1 << 20
	for i := range uint32(slots) {
		w.arm(i, int64(i))
	}
	b.ReportAllocs()
	i := uint32(0)
	for b.Loop() {
		w.arm(i%slots, int64(i)+60_000)
		i += 7919
	}
}
