package client

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/quorate/quorate/node/api"
)

// Bounds of what a worker sends.
const (
	settlesInFlight = 8       // batches without an answer; the next waits and grows
	settleBytes     = 1 << 20 // of results and errors in one message, beyond the first
	errorBytes      = 8 << 10 // of an error's text; a longer one is cut, keeping its end as nodes do
	maxResultBytes  = 8 << 20 // no node takes as much; what else is in a message (4 MiB of progress, 1 MiB of claims) fits beside it
	resumeEvery     = 10 * time.Millisecond
)

// settlement is what a handler's answer says.
func (h Handler) settlement(ctx context.Context, t *Task) (s api.Settlement) {
	result, err := h(ctx, t)
	s.Verdict = "complete"
	if err == nil && result != nil {
		if s.Result, err = json.Marshal(result); err != nil {
			if err = Permanent(err); api.ExactlyOnce(t.Guarantee) { // it has happened
				s.Result, err = json.RawMessage(notEncodable), nil
			}
		}
	}
	if err != nil {
		s.Verdict, s.Error, s.NoRetry = "fail", err.Error(), errors.As(err, new(permanent))
	}
	return s
}

// settle hands verdicts to the writer. The ended tasks' credit goes with them.
func (w *worker) settle(list []api.Settlement) {
	w.mu.Lock()
	w.mu.settle = slices.Grow(w.mu.settle, len(list))
	for i := range list {
		if h := w.mu.held[list[i].TaskID]; h != nil && h.epoch == list[i].Epoch && !h.ended {
			h.ended = true
			w.mu.grant += 1 + w.mu.owed
			w.mu.owed = 0
			list[i].Error = tail(list[i].Error)
			if n := len(list[i].Result); n > maxResultBytes {
				cutResult(&list[i], h.once, api.Errorf(413, 2, "payload_too_large", api.RetryNo, "it has %d bytes, no node takes more than %d", n, maxResultBytes))
			}
			w.mu.settle = append(w.mu.settle, list[i])
		}
	}
	w.mu.Unlock()
	w.poke()
}

// tail keeps the end of an error's text, in characters that a message can carry.
func tail(s string) string {
	if len(s) > errorBytes {
		for s = s[len(s)-errorBytes:]; len(s) > 0 && !utf8.RuneStart(s[0]); s = s[1:] {
		}
	}
	return strings.ToValidUTF8(s, "?")
}

// answered takes the verdicts of one batch: what may be repeated is, when the
// node asked for it.
func (w *worker) answered(seq uint64, refused map[uint32]*api.Error) {
	w.mu.Lock()
	list := w.mu.flight[seq]
	delete(w.mu.flight, seq)
	done := list
	if len(refused) > 0 {
		done = make([]api.Settlement, 0, len(list))
	}
	for i := range list {
		s, e := &list[i], refused[uint32(i)]
		if e != nil && e.Retry != api.RetryNo {
			w.postpone(*s, e)
			continue
		}
		h := w.mu.held[s.TaskID]
		if h == nil || h.epoch != s.Epoch {
			continue
		}
		if e != nil && (e.Status == 400 || e.Status == 413 || e.Status == 422) && cutResult(s, h.once, e) { // the result is what is wrong
			w.mu.settle = append(w.mu.settle, *s)
			continue
		}
		if e != nil {
			w.cfg.Logger.Warn("verdict refused", "layer", e.Layer, "task", h.id, "code", e.Code, "detail", e.Detail)
		}
		if e == nil && len(refused) > 0 {
			done = append(done, *s)
		}
		delete(w.mu.held, h.id)
	}
	w.mu.Unlock()
	w.poke()
	if w.cfg.Settled != nil && len(done) > 0 {
		w.cfg.Settled(done)
	}
}

// postponed is a settlement that a node wants to be told again, at that time.
type postponed struct {
	api.Settlement
	at time.Time
}

// postpone keeps a settlement until the node wants to be asked again. Call
// with the lock held.
func (w *worker) postpone(s api.Settlement, e *api.Error) {
	pause := lastPause
	if h := w.mu.held[s.TaskID]; h != nil && h.epoch == s.Epoch {
		h.pause = min(max(2*h.pause, firstPause), lastPause)
		pause = h.pause
	}
	wait := max(pause/2+rand.N(pause/2), min(time.Duration(e.After)*time.Millisecond, askedPause))
	w.mu.later = append(w.mu.later, postponed{s, time.Now().Add(wait)})
	w.resumeIn(wait)
}

// resumeIn has what is due by then taken up. Call with the lock held.
func (w *worker) resumeIn(wait time.Duration) {
	wait = max(wait, resumeEvery)
	at := time.Now().Add(wait)
	if w.mu.again != nil {
		if !at.Before(w.mu.due) {
			return
		}
		w.mu.again.Stop()
	}
	w.mu.due = at
	w.mu.again = time.AfterFunc(wait, func() {
		w.mu.Lock()
		w.resume(time.Now())
		w.mu.Unlock()
		w.poke()
	})
}

// resume takes up what was postponed until now; at the zero time, all of it.
// Call with the lock held.
func (w *worker) resume(now time.Time) {
	if w.mu.again != nil {
		w.mu.again.Stop()
		w.mu.again = nil
	}
	var rest []postponed
	next := time.Time{}
	for _, x := range w.mu.later {
		if now.IsZero() || !x.at.After(now) {
			w.mu.settle = append(w.mu.settle, x.Settlement)
			continue
		}
		if rest = append(rest, x); next.IsZero() || x.at.Before(next) {
			next = x.at
		}
	}
	if w.mu.later = rest; len(rest) > 0 {
		w.resumeIn(next.Sub(now))
	}
}

// cutResult takes a result away that the node does not take. What was done
// exactly once and told so has happened, whatever its result; a task of
// another level fails. False: the result is not what is wrong.
func cutResult(s *api.Settlement, once bool, e *api.Error) bool {
	switch {
	case s.Verdict != "complete" && len(s.Result) > 0:
		s.Result = nil
	case s.Verdict != "complete" || len(s.Result) == 0 || string(s.Result) == resultTooLarge || string(s.Result) == resultRefused:
		return false
	case once && e.Status == 413:
		s.Result = json.RawMessage(resultTooLarge)
	case once:
		s.Result = json.RawMessage(resultRefused)
	default:
		s.Verdict, s.Result, s.Error, s.NoRetry = "fail", nil, "the result was refused: "+e.Detail, true
	}
	return true
}

// Results of effects that happened and whose own one no node takes.
const (
	resultTooLarge = `{"result_too_large":true}`
	resultRefused  = `{"result_refused":true}`
)

// shrink cuts the largest result that a node has not acknowledged, after one
// had refused a whole message as too large. False: there is none.
func (w *worker) shrink(e *api.Error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	var largest *api.Settlement
	look := func(list []api.Settlement) {
		for i := range list {
			if largest == nil || len(list[i].Result) > len(largest.Result) {
				largest = &list[i]
			}
		}
	}
	look(w.mu.settle)
	for _, list := range w.mu.flight {
		look(list)
	}
	if largest == nil || len(largest.Result) <= len(resultTooLarge) {
		return false
	}
	h := w.mu.held[largest.TaskID]
	size := len(largest.Result)
	if !cutResult(largest, h != nil && h.once, e) {
		return false
	}
	w.cfg.Logger.Warn("result too large for a message", "layer", 2, "task", largest.TaskID, "bytes", size, "detail", e.Detail)
	return true
}
