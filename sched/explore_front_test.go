package sched

import (
	"errors"
	"testing"
)

// The model of hints: front's steps 1 to 4, with pushers of two handles each
// and takers that take as often. A queue is how many it holds.
const (
	hintPushers = 2
	hintTakers  = 2
	hintEach    = 2
)

type hintBug struct {
	raiseFirst bool // a pusher looks at the hint before it publishes
	noAgain    bool // a taker that lowered the hint does not look at the queue again
}

type hintState struct {
	queued uint8
	hint   bool
	proc   [hintPushers + hintTakers]hintProc
}

type hintProc struct {
	pc, done uint8
	seen     bool // what it loaded last
}

func (b hintBug) step(s hintState, p int) []hintState {
	x := &s.proc[p]
	if x.done == hintEach {
		return nil
	}
	if p < hintPushers {
		at := x.pc
		if b.raiseFirst {
			at = [...]uint8{1, 2, 0}[at]
		}
		switch at {
		case 0:
			s.queued++
		case 1:
			x.seen = s.hint
		case 2:
			s.hint = s.hint || !x.seen // a compare-and-swap from 0
		}
		if x.pc++; x.pc == 3 {
			x.pc, x.done = 0, x.done+1
		}
		return []hintState{s}
	}
	switch x.pc {
	case 0: // take: by a hint that may be late
		if s.queued > 0 {
			s.queued--
		}
		x.pc = 1
	case 1: // note: look at the queue
		if x.pc = 3; s.queued > 0 {
			x.pc = 2
		}
	case 2:
		s.hint, x.pc, x.done = true, 0, x.done+1
	case 3:
		if x.pc = 4; !s.hint {
			x.pc, x.done = 0, x.done+1
		}
	case 4:
		if s.hint, x.pc = false, 1; b.noAgain {
			x.pc, x.done = 0, x.done+1
		}
	}
	return []hintState{s}
}

// TestHintExhaustive: when nobody is at it, what is queued has a hint.
func TestHintExhaustive(t *testing.T) {
	judge := func(s hintState) error {
		if s.queued > 0 && !s.hint {
			return errors.New("queued, and no hint says so")
		}
		return nil
	}
	n, err := explore(hintState{}, hintPushers+hintTakers, hintBug{}.step, judge)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d states", n)
	for name, bug := range map[string]hintBug{"raiseFirst": {raiseFirst: true}, "noAgain": {noAgain: true}} {
		if _, err := explore(hintState{}, hintPushers+hintTakers, bug.step, judge); err == nil {
			t.Errorf("the planted mistake %s was not found", name)
		}
	}
}

// TestHints: what pick goes by follows pushes and takes, a hint that lies is
// corrected by who believed it, and a lost one by who finds none.
func TestHints(t *testing.T) {
	s := New(Config{NowMillis: func() int64 { return 100 }})
	id := s.Class("a:x")
	c := s.class(id)
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:x"}})
	defer w.Close()
	says := func(want ...int64) {
		t.Helper()
		for b, x := range want {
			if got := c.front.oldest[b].Load(); got != x {
				t.Errorf("band %d: the hint is %d, want %d", b, got, x)
			}
		}
	}
	says(0, 0, 0, 0)
	s.Push(1, id, 1, 0)
	s.Push(2, id, 1, 7)
	s.Push(3, id, 3, 9)
	says(0, 1, 0, 19)
	buf := make([]Handle, 1)
	w.TryTake(buf)
	says(0, 1, 0, 0)
	w.TryTake(buf)
	says(0, 15, 0, 0)
	c.front.oldest[3].Store(1) // late: that queue was emptied
	if n := w.TryTake(buf); n != 1 || buf[0] != 2 {
		t.Errorf("took %d: %d", n, buf[0])
	}
	says(0, 0, 0, 0)
	s.Push(4, id, 2, 5)
	c.front.oldest[2].Store(0) // its pusher is still at it
	if n := w.TryTake(buf); n != 1 || buf[0] != 4 {
		t.Errorf("took %d: %d", n, buf[0])
	}
	if n := w.TryTake(buf); n != 0 || s.ready.has(uint32(id)) {
		t.Errorf("took %d; ready: %v", n, s.ready.has(uint32(id)))
	}
}

// TestMaskBeyond: classes beyond those that stand in the worker itself.
func TestMaskBeyond(t *testing.T) {
	s := New(Config{})
	var ids []Class
	for i := range nearBits + 2 {
		ids = append(ids, s.Class("a:"+string(rune('A'+i%26))+string(rune('a'+i/26))))
	}
	w := s.AddWorker(WorkerConfig{Capabilities: []string{"a:*"}})
	defer w.Close()
	for _, id := range ids[nearBits-1:] {
		s.Push(Handle(id), id, 1, 0)
	}
	if n := w.TryTake(make([]Handle, 8)); n != 3 {
		t.Errorf("took %d of 3", n)
	}
	w.UpdateCapabilities([]string{s.class(ids[nearBits]).name})
	for _, id := range ids[nearBits-1:] {
		s.Push(Handle(id), id, 1, 0)
	}
	buf := make([]Handle, 8)
	if n := w.TryTake(buf); n != 1 || buf[0] != Handle(ids[nearBits]) {
		t.Errorf("took %d: %d", n, buf[0])
	}
}
