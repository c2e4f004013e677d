package sched

import (
	"errors"
	"testing"
)

// The model of parking: doc.go's steps 1 to 5, with as many pushers of one
// handle each as workers, each of which takes handles until it parks for good.
const (
	wakePushers = 2
	wakeWorkers = 2
)

type wakeBug struct {
	lookFirst   bool // a worker looks at the queue before it registers
	searchFirst bool // a pusher searches for a waiting worker before it publishes
	clearOnly   bool // a taker clears a ready bit and does not look again
	noDuty      bool // a roused worker does not take another look before it parks
	plain       bool // a worker that withdraws and finds its bit cleared leaves the token
}

type wakeState struct {
	queued  uint8
	ready   bool
	waiting [wakeWorkers]bool
	token   [wakeWorkers]bool
	taken   uint8
	doubled bool // a token was sent on top of another
	pusher  [wakePushers]uint8
	worker  [wakeWorkers]wakeWorker
	found   [wakePushers]uint8 // worker found waiting + 1
}

type wakeWorker struct {
	pc       uint8
	resettle uint8 // where it was when it cleared the ready bit
}

const (
	wTake = iota
	wRegister
	wLook
	wClear  // ready bit: it saw the queue empty
	wAgain  // having cleared it, looks again
	wMark   // it was wrong: sets the bit
	wRouse  // and rouses
	wParked //
	wWithdraw
	wToken
)

func (b wakeBug) step(s wakeState, p int) []wakeState {
	if p < wakePushers {
		return b.push(s, p)
	}
	return b.work(s, p-wakePushers)
}

// push is publish, set the ready bit, search, wake.
func (b wakeBug) push(s wakeState, p int) []wakeState {
	pc := &s.pusher[p]
	if *pc == 4 {
		return nil
	}
	at := *pc
	if b.searchFirst {
		at = [...]uint8{2, 0, 1, 3}[at]
	}
	*pc++
	switch at {
	case 0:
		s.queued++
	case 1:
		s.ready = true
	case 2:
		for w := range s.waiting {
			if s.waiting[w] {
				s.found[p] = uint8(w) + 1
				break
			}
		}
	case 3:
		return s.wake(s.found[p])
	}
	return []wakeState{s}
}

// wake claims worker w-1 and sends its token; 0 is nobody.
func (s wakeState) wake(w uint8) []wakeState {
	if w > 0 && s.waiting[w-1] {
		s.doubled = s.doubled || s.token[w-1]
		s.waiting[w-1], s.token[w-1] = false, true
	}
	return []wakeState{s}
}

func (b wakeBug) work(s wakeState, i int) []wakeState {
	w := &s.worker[i]
	switch w.pc {
	case wTake: // a claim is one step: that of the injector has its own tests
		switch {
		case s.ready && s.queued > 0:
			s.queued--
			s.taken++
		case s.ready:
			w.pc, w.resettle = wClear, wTake
		case b.lookFirst:
			w.pc = wLook
		default:
			w.pc = wRegister
		}
	case wRegister, wLook:
		b.register(&s, i)
	case wClear:
		s.ready = false
		if w.pc = wAgain; b.clearOnly {
			w.pc = w.resettle
		}
	case wAgain:
		if w.pc = w.resettle; s.queued > 0 {
			w.pc = wMark
		}
	case wMark:
		s.ready, w.pc = true, wRouse
	case wRouse:
		w.pc = w.resettle
		for k := range s.waiting {
			if s.waiting[k] {
				return s.wake(uint8(k) + 1)
			}
		}
	case wParked:
		if !s.token[i] {
			return nil
		}
		if s.token[i], w.pc = false, wTake; b.noDuty {
			s.waiting[i], w.pc = true, wParked // again, without a look
		}
	case wWithdraw:
		switch {
		case s.waiting[i]:
			s.waiting[i], w.pc = false, wTake
		case b.plain:
			w.pc = wTake
		default:
			w.pc = wToken
		}
	case wToken:
		if !s.token[i] {
			return nil
		}
		s.token[i], w.pc = false, wTake
	}
	return []wakeState{s}
}

// register sets the waiting bit and looks at the queue, or the other way.
func (b wakeBug) register(s *wakeState, i int) {
	w := &s.worker[i]
	if w.pc == wRegister {
		s.waiting[i] = true
		if w.pc = wLook; b.lookFirst {
			w.pc = wParked
		}
		return
	}
	switch {
	case s.ready && s.queued > 0:
		if w.pc = wWithdraw; b.lookFirst {
			w.pc = wTake
		}
	case s.ready:
		w.pc, w.resettle = wClear, wLook
	case b.lookFirst:
		w.pc = wRegister
	default:
		w.pc = wParked
	}
}

// check judges a state in which nobody can step: everything was taken, and
// every worker is parked with no token unread.
func (s wakeState) check() error {
	if s.queued > 0 || s.taken != wakePushers {
		return errors.New("everybody is parked, and something is queued")
	}
	for i := range s.token {
		if s.doubled || s.token[i] || !s.waiting[i] || s.worker[i].pc != wParked {
			return errors.New("a token was left over: the next wait would end at once")
		}
	}
	return nil
}

// TestWakeExhaustive tries every interleaving of two pushers and two workers
// that park, as it is and with each bug planted.
func TestWakeExhaustive(t *testing.T) {
	run := func(b wakeBug) (int, error) {
		return explore(wakeState{}, wakePushers+wakeWorkers, b.step, wakeState.check)
	}
	states, err := run(wakeBug{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states", states)
	for name, b := range map[string]wakeBug{
		"looked before registering": {lookFirst: true}, "searched before publishing": {searchFirst: true},
		"ready bit cleared, not looked again": {clearOnly: true}, "roused, and did not look": {noDuty: true},
		"token left when withdrawing": {plain: true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := run(b); err == nil {
				t.Error("not caught")
			}
		})
	}
}
