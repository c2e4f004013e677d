package raftstore

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPacer: work is spread over four times its time, but no more than half of the time goes to rests in the long run,
// and nothing to them once there is a hurry.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(time.Second)
		work := func(pieces int, piece time.Duration) (rested time.Duration) {
			began := time.Now()
			p.begin()
			for range pieces {
				time.Sleep(piece) // this bubble's clock: the work
				p.rest()
			}
			return time.Since(began) - time.Duration(pieces)*piece
		}
		if got := work(100, 2*time.Millisecond); got != 600*time.Millisecond {
			t.Errorf("200 ms of work with %v of rest, want 600 ms", got)
		}
		if got := work(10, paceWork/2); got != 5*paceRest*paceWork {
			t.Errorf("small steps: %v of rest, want %v", got, 5*paceRest*paceWork)
		}
		began, rested := time.Now(), time.Duration(0)
		for range 10 {
			rested += work(1000, time.Millisecond)
		}
		if all := time.Since(began); rested > all/2+time.Second || rested < all/3 {
			t.Errorf("under load: %v of rest in %v", rested, all)
		}
		p.hurry.Store(true)
		time.Sleep(time.Minute) // of this bubble's clock: it would fill up
		if got := work(100, 2*time.Millisecond); got != 0 {
			t.Errorf("%v of rest in a hurry", got)
		}
		var none *pacer
		none.begin()
		none.rest()
	})
}

func TestCheckpointPhase(t *testing.T) {
	for _, c := range []struct {
		id       uint64
		voters   []uint64
		part, of int
	}{{7, []uint64{9, 7, 8}, 0, 3}, {8, []uint64{9, 7, 8}, 1, 3}, {9, []uint64{9, 7, 8}, 2, 3}, {5, nil, 0, 1}, {9, []uint64{7, 8}, 0, 2}} {
		if part, of := checkpointPhase(c.id, c.voters); part != c.part || of != c.of {
			t.Errorf("%d of %v: %d/%d, want %d/%d", c.id, c.voters, part, of, c.part, c.of)
		}
	}
}
