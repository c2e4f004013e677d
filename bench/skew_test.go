package bench

import (
	"strings"
	"testing"

	"github.com/quorate/quorate/ledger"
)

// Keys chosen for some shards are theirs, and differ.
func TestKeysOfShards(t *testing.T) {
	m := &measurement{keys: "x-", led: []bool{false, false, true, false, true}}
	seen := map[string]bool{}
	for seq := range int64(1000) {
		k := m.key(seq)
		if !m.led[shardOfKey(k, len(m.led))] || seen[k] || !strings.HasPrefix(k, "bx-") {
			t.Fatalf("task %d has the key %q of shard %d", seq, k, shardOfKey(k, len(m.led)))
		}
		seen[k] = true
	}
	m.placed(ledger.NewTaskID(2, 1, 1).String())
	m.placed(ledger.NewTaskID(3, 1, 1).String())
	if n := m.misplaced.Load(); n != 1 {
		t.Errorf("%d tasks are misplaced, want 1", n)
	}
}

func TestRatios(t *testing.T) {
	if m, r := ratios([]float64{1, 9, 4, 8}, []float64{1, 3, 2, 2}); m != 2.5 || r != [2]float64{1, 4} {
		t.Errorf("median %g, from %g to %g", m, r[0], r[1])
	}
	if m, r := ratios([]float64{1}, []float64{0}); m != 0 || r != [2]float64{} {
		t.Errorf("of nothing: %g, %v", m, r)
	}
	for _, bad := range []SkewConfig{{Turns: 101}, {Turns: -1}, {Rate: maxRate + 1}, {Duration: maxDuration + 1}, {WarmUp: -1}} {
		if _, err := Skew(t.Context(), bad); err == nil {
			t.Errorf("%+v was measured", bad)
		}
	}
}
