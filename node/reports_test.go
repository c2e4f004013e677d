package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// A new leader waits for the report of a connected node, however often that
// refuses at first, not for one whose connection is gone, and not for ever.
func TestAwaitReport(t *testing.T) {
	refused := errors.New("not yet")
	held := []heldReport{{ID: ledger.NewTaskID(1, 1, 1), Agent: "a", Epoch: 1}}
	for _, c := range []struct {
		name            string
		answers, leaves time.Duration // after the first question; 0: never
		slow            bool          // silent until it answers, instead of refusing
		reports         int
		failed          bool
		took            time.Duration
	}{
		{name: "refuses for a while", answers: heldLimit / 2, reports: 1, took: heldLimit / 2},
		{name: "answers late", answers: heldLimit / 2, slow: true, reports: 1, took: heldLimit / 2},
		{name: "just in time", answers: heldLimit - heldAgain, reports: 1, took: heldLimit - heldAgain},
		{name: "goes away", leaves: 100 * time.Millisecond, took: 100 * time.Millisecond},
		{name: "never answers", failed: true, took: heldLimit},
		{name: "never says a word", slow: true, failed: true, took: heldLimit},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), heldLimit)
				defer cancel()
				began := time.Now()
				passed := func(d time.Duration) bool { return d != 0 && time.Since(began) >= d }
				list, err := awaitReport(ctx, func() bool { return !passed(c.leaves) }, func() ([]heldReport, error) {
					if c.slow {
						var answer <-chan time.Time
						if c.answers != 0 {
							answer = time.After(c.answers)
						}
						select {
						case <-answer:
						case <-ctx.Done():
							return nil, ctx.Err()
						}
					}
					if passed(c.answers) {
						return held, nil
					}
					return nil, refused
				})
				if len(list) != c.reports || (err != nil) != c.failed {
					t.Errorf("%d reports, %v; want %d, failed %v", len(list), err, c.reports, c.failed)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("after %v, want %v", took, c.took)
				}
			})
		})
	}
}

// An idle node asks the longer of two, unless the other's work has waited for
// an aging bound more; and never one without work that it can do.
func TestLongerOfTwo(t *testing.T) {
	const now = 1_000_000
	draw := func(of map[uint64][]depth) map[uint64]int {
		d := newDepths()
		for id, list := range of {
			d.set(id, list)
		}
		got := map[uint64]int{}
		for range 3000 {
			got[d.best([]string{"vet:go"})]++
		}
		return got
	}
	one := func(capability string, n int, oldest int64) []depth { return []depth{{capability, n, oldest}} }
	if got := draw(map[uint64][]depth{2: one("vet:go", 3, now), 3: one("vet:go", 4, now), 4: one("fly:kite", 900, 0)}); got[3] != 3000 {
		t.Errorf("not the longer: %v", got)
	}
	if got := draw(map[uint64][]depth{2: {{"vet:go", 3, now}, {"fly:kite", 900, 0}}, 3: one("vet:go", 4, now)}); got[3] != 3000 {
		t.Errorf("work it can't do was counted: %v", got)
	}
	for past, want := range map[int64]uint64{0: 3, 1: 2} {
		old := int64(now - sched.DefaultAgingMillis - past)
		if got := draw(map[uint64][]depth{2: one("vet:go", 1, old), 3: one("vet:go", 4000, now)}); got[want] != 3000 {
			t.Errorf("%d ms past the aging bound: %v, want %d", past, got, want)
		}
	}
	// Of three the shortest is never asked, the longest two times in three.
	got := draw(map[uint64][]depth{2: one("vet:go", 1, now), 3: one("vet:go", 2, now), 4: one("vet:go", 3, now)})
	if got[2] != 0 || got[3] < 800 || got[3] > 1200 || got[3]+got[4] != 3000 {
		t.Errorf("of three: %v, want about 1000 and 2000", got)
	}
	if got := draw(map[uint64][]depth{2: one("fly:kite", 1, now)}); got[0] != 3000 {
		t.Errorf("nobody has work: %v", got)
	}
}
