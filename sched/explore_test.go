package sched

import (
	"fmt"
	"testing"
)

// explore visits every state that any interleaving of the processes' atomic
// steps can reach. next gives the states process p can step to (none: it waits
// or has ended); final judges states in which nobody can step. It returns how
// many states there are, and the first judgement that is not nil.
func explore[S comparable](start S, processes int, next func(s S, p int) []S, final func(S) error) (int, error) {
	seen := map[S]struct{}{start: {}}
	stack := []S{start}
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		stuck := true
		for p := range processes {
			for _, t := range next(s, p) {
				stuck = false
				if _, ok := seen[t]; !ok {
					seen[t] = struct{}{}
					stack = append(stack, t)
				}
			}
		}
		if stuck {
			if err := final(s); err != nil {
				return len(seen), err
			}
		}
	}
	return len(seen), nil
}

// Sizes of the model of a lane: everything the code's loops do with 256 slots
// and 32 bits of position, they do with these.
const (
	modelSlots   = 2
	modelHandles = 5
	modelThieves = 2
	modelSteals  = 2 // that each thief tries
)

// laneBug is a mistake planted in the model.
type laneBug struct {
	frees      bool // a thief's claim frees the slots before it has read them
	unchecked  bool // a thief reads, then claims by a store instead of a compare-and-swap
	earlyTail  bool // the owner publishes before it has written
	noLaps     bool // positions are slot numbers: they come again
	lateUnpin  bool // the owner's claim does not move steal along: never free again
	seenBeyond bool // the owner takes real, not steal, for what may be written over
}

// laneState is lane's atomics, its slots, and where each process stands. A
// position is counted on for ever (mod 256), as in the code; noLaps cuts it.
type laneState struct {
	steal, real, tail uint8
	slots             [modelSlots]uint8
	came              [modelHandles + 1]uint8 // how often each handle was taken
	owner             ownerState
	thieves           [modelThieves]thiefState
}

type ownerState struct {
	pc                      uint8
	next, told, seen        uint8
	pushed                  uint8 // handles so far
	batch, wrote            uint8
	loadSteal, loadReal, to uint8
}

type thiefState struct {
	pc, tries                   uint8
	loadSteal, loadReal, loadTo uint8
	read, count                 uint8
	got                         [modelSlots]uint8
}

const (
	ownIdle = iota
	ownWrite
	ownPublish
	ownClaim
	ownRead
	ownDone
)

const (
	thiefIdle = iota
	thiefTail
	thiefClaim
	thiefRead
	thiefLoad
	thiefUnpin
	thiefDone
)

func (b laneBug) pos(p uint8) uint8 {
	if b.noLaps {
		return p % (modelSlots + 1)
	}
	return p
}

// size is how many positions are between two.
func (b laneBug) size(from, to uint8) uint8 {
	if b.noLaps {
		return (to + modelSlots + 1 - from) % (modelSlots + 1)
	}
	return to - from
}

func (b laneBug) step(s laneState, p int) []laneState {
	if p == 0 {
		return b.ownerStep(s)
	}
	t := s
	if b.thiefStep(&t, &t.thieves[p-1]) {
		return []laneState{t}
	}
	return nil
}

// ownerStep is push (of one or two), claim of one, in any order, until every
// handle was pushed and the owner finds the lane empty.
func (b laneBug) ownerStep(s laneState) (out []laneState) {
	o := &s.owner
	switch o.pc {
	case ownIdle:
		for k := uint8(1); k <= 2 && o.pushed+k <= modelHandles; k++ {
			t := s
			x := &t.owner
			if x.seen = t.steal; b.seenBeyond {
				x.seen = t.real
			}
			if b.size(x.seen, x.next)+k <= modelSlots {
				x.batch, x.wrote, x.pc = k, 0, ownWrite
				if b.earlyTail {
					x.pc = ownPublish
				}
				out = append(out, t)
			}
		}
		t := s
		t.owner.loadSteal, t.owner.loadReal, t.owner.pc = s.steal, s.real, ownClaim
		if b.size(s.real, o.told) > 0 {
			out = append(out, t)
		} else if o.pushed == modelHandles {
			t.owner = ownerState{pc: ownDone}
			out = append(out, t)
		}
		return out
	case ownWrite:
		s.slots[(o.next+o.wrote)%modelSlots] = o.pushed + o.wrote + 1
		if o.wrote++; o.wrote == o.batch {
			if o.pc = ownPublish; b.earlyTail {
				o.pc, o.next, o.pushed = ownIdle, b.pos(o.next+o.batch), o.pushed+o.batch
			}
		}
	case ownPublish:
		o.told = b.pos(o.next + o.batch)
		if s.tail = o.told; b.earlyTail {
			o.pc = ownWrite
		} else {
			o.pc, o.next, o.pushed = ownIdle, o.told, o.pushed+o.batch
		}
	case ownClaim:
		if o.pc = ownIdle; s.steal == o.loadSteal && s.real == o.loadReal {
			if o.to = b.pos(o.loadReal + 1); s.steal == s.real && !b.lateUnpin {
				s.steal = o.to
			}
			s.real, o.pc = o.to, ownRead
		}
	case ownRead:
		s.came[s.slots[o.loadReal%modelSlots]]++
		o.pc = ownIdle
	case ownDone:
		return nil
	}
	return []laneState{s}
}

func (b laneBug) thiefStep(s *laneState, t *thiefState) bool {
	switch t.pc {
	case thiefIdle:
		if t.tries == modelSteals {
			*t = thiefState{pc: thiefDone}
			return true
		}
		t.tries++
		t.loadSteal, t.loadReal, t.read = s.steal, s.real, 0
		if s.steal == s.real {
			t.pc = thiefTail
		}
	case thiefTail:
		size := b.size(t.loadReal, s.tail)
		// Half of it, at least one; all, so that a copy has two steps.
		if t.count = size; size == 0 || size > modelSlots {
			t.pc = thiefIdle
			return true
		}
		if t.loadTo, t.pc = b.pos(t.loadReal+t.count), thiefClaim; b.unchecked {
			t.pc = thiefRead
		}
	case thiefClaim:
		if t.pc = thiefIdle; b.unchecked {
			s.steal, s.real = t.loadTo, t.loadTo
			t.keep(s)
		} else if s.steal == t.loadSteal && s.real == t.loadReal {
			if s.real, t.pc = t.loadTo, thiefRead; b.frees {
				s.steal = t.loadTo
			}
		}
	case thiefRead:
		t.got[t.read] = s.slots[(t.loadReal+t.read)%modelSlots]
		if t.read++; t.read < t.count {
			return true
		}
		switch {
		case b.unchecked:
			t.pc = thiefClaim
		case b.frees:
			t.keep(s)
			t.pc = thiefIdle
		default:
			t.keep(s)
			t.pc = thiefLoad
		}
	case thiefLoad:
		t.loadSteal, t.loadReal, t.pc = s.steal, s.real, thiefUnpin
	case thiefUnpin:
		if t.pc = thiefLoad; s.steal == t.loadSteal && s.real == t.loadReal {
			s.steal, t.pc = s.real, thiefIdle
		}
	default:
		return false
	}
	return true
}

func (t *thiefState) keep(s *laneState) {
	for _, h := range t.got[:t.count] {
		s.came[h]++
	}
	t.got = [modelSlots]uint8{}
}

// check says whether every handle came out once, or is still there.
func (s laneState) check() error {
	if s.came[0] > 0 {
		return fmt.Errorf("a slot never written was taken: %+v", s)
	}
	for h := 1; h <= modelHandles; h++ {
		if s.came[h] != 1 {
			return fmt.Errorf("handle %d came out %d times: %+v", h, s.came[h], s)
		}
	}
	return nil
}

// TestLaneExhaustive tries every interleaving of an owner that pushes five
// handles through two slots and two thieves, for lane as it is and with each
// bug planted.
func TestLaneExhaustive(t *testing.T) {
	run := func(b laneBug) (int, error) {
		return explore(laneState{}, 1+modelThieves, b.step, laneState.check)
	}
	states, err := run(laneBug{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states", states)
	if states < 10_000 {
		t.Errorf("only %d states: the model does not move", states)
	}
	for name, b := range map[string]laneBug{
		"slots freed before they are read": {frees: true}, "claimed after reading, unchecked": {unchecked: true},
		"published before written": {earlyTail: true}, "positions without laps": {noLaps: true},
		"pin never let go": {lateUnpin: true}, "pinned slots written over": {seenBeyond: true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := run(b); err == nil {
				t.Error("not caught")
			} else {
				t.Log("caught:", err)
			}
		})
	}
}
