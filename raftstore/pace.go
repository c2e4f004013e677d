package raftstore

import (
	"sync/atomic"
	"time"
)

// A checkpoint of a busy shard is a tenth of a second of computing and some megabytes for the disk. Done in one go, and
// by all replicas together since all apply the same, it holds everything else up for as long. So replicas take turns,
// each in its own part of the interval (checkpointPhase), which leaves a majority without a checkpoint to commit; and
// writers rest after every paceWork for paceRest times as long, but never more than half of the time: what is under so
// much load that it needs the other half has no slack to spread it over.
const (
	paceWork = time.Millisecond
	paceRest = 3
	paceRows = 64 // between two looks at the clock
)

// checkpointPhase is where in an interval a replica begins: its rank among the voters, of as many.
func checkpointPhase(id uint64, voters []uint64) (part, of int) {
	for _, v := range voters {
		if v < id {
			part++
		}
	}
	of = max(len(voters), 1)
	return part % of, of
}

// pacer spreads work over time. It has one user at a time, who calls rest between small steps; nil never rests.
type pacer struct {
	most     time.Duration // of rest in one piece of work
	left     time.Duration
	worked   time.Time // since when
	refilled time.Time
	hurry    atomic.Bool // nobody rests any more
}

func newPacer(most time.Duration) *pacer { return &pacer{most: most, left: most} }

// begin is called before a piece of work.
func (p *pacer) begin() {
	if p == nil {
		return
	}
	p.worked = time.Now()
	p.left = min(p.most, p.left+p.worked.Sub(p.refilled)/2)
	p.refilled = p.worked
}

// rest returns at once unless paceWork has passed since the last one.
func (p *pacer) rest() {
	if p == nil || p.left <= 0 || p.hurry.Load() {
		return
	}
	began := time.Now()
	worked := began.Sub(p.worked)
	if worked < paceWork {
		return
	}
	time.Sleep(min(paceRest*worked, p.left)) // leaving the processor and the disk to others is the purpose
	p.worked = time.Now()
	p.left -= p.worked.Sub(began)
}
