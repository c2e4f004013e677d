package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Actors perform exactly_once actions on a counter outside the cluster that
// honours neither key nor epoch, and die at every point of the protocol, while
// nodes die beside them.
const (
	actors        = 3
	actorInterval = 100 * time.Millisecond
	actionLease   = 2 * time.Second
	// sureOfLease is for how long an actor trusts a go, from when it asked: one
	// that was long on its way may be over.
	sureOfLease = actionLease / 2
	actionVerb  = "pay"
	actionOn    = "counter"
	seedActor   = seedWorker + workers
)

// How what is in doubt is settled, by what its key begins with: a verify task
// that looks at the counter, one that can't tell (then a human does), a rollback.
var doubts = []string{"verify", "human", "undo"}

// Effect is something that happened outside the cluster.
type Effect struct {
	Key   string `json:"key"`
	Epoch uint64 `json:"epoch,omitempty"`
	Undo  bool   `json:"undo,omitempty"`
}

// happenedTo reads the counter.
func (h *History) happenedTo(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.Effects, func(e Effect) bool { return e.Key == key && !e.Undo })
}

func (h *History) happened(e Effect) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Effects = append(h.Effects, e)
}

// actor performs one action: a process with an agent's name, and after each
// death another one.
type actor struct {
	*load
	id       string
	key      string
	rng      *rand.Rand
	instance int
}

// act begins actions until begin ends, and ends them within drain. One in four
// is another actor's, who may be at it.
func (l *load) act(begin, drain context.Context, n int) {
	rng := rand.New(rand.NewPCG(l.seed, seedActor+uint64(n)))
	var under sync.WaitGroup
	defer under.Wait()
	for i := 0; pause(begin, actorInterval); i++ {
		owner := n
		if rng.IntN(4) == 0 {
			owner = rng.IntN(actors)
		}
		a := &actor{load: l, id: fmt.Sprintf("actor%d-%d", n, i), key: fmt.Sprintf("%s/%d-%d", doubts[i%len(doubts)], owner, i),
			rng: rand.New(rand.NewPCG(rng.Uint64(), 0))}
		under.Go(func() { a.perform(drain) })
	}
}

// doubt is how the action's doubts are settled.
func doubt(key string) string {
	how, _, _ := strings.Cut(key, "/")
	return how
}

func (a *actor) request() api.ActionRequest {
	r := api.ActionRequest{AgentID: a.id, InstanceID: fmt.Sprint(a.instance), TaskSpec: api.TaskSpec{Action: actionVerb, Target: actionOn,
		Guarantee: "exactly_once", IdempotencyKey: a.key, LeaseSeconds: actionLease.Seconds(),
		RetryPolicy: &api.RetryPolicy{Backoff: "fixed", InitialDelaySeconds: 0.05}}}
	if doubt(a.key) == "undo" {
		r.Rollback = json.RawMessage(`{"action":"undo"}`)
	} else {
		r.Verify = json.RawMessage(`{"action":"check"}`)
	}
	return r
}

// perform asks for the go until the action has ended, as a supervisor would.
func (a *actor) perform(ctx context.Context) {
	for ctx.Err() == nil {
		asked := time.Now()
		v, err := a.declare(ctx)
		switch {
		case err != nil:
		case v.Decision == api.DecisionDone, v.Error != nil && v.Error.Code == "action_ended":
			return
		case v.Decision == api.DecisionGo && time.Since(asked) < sureOfLease:
			a.effect(ctx, v)
			continue
		case v.Decision == api.DecisionUnknown && doubt(a.key) == "human":
			a.human(ctx, v.TaskID)
		}
		pause(ctx, retryPause)
	}
}

func (a *actor) declare(ctx context.Context) (v api.ActionVerdict, err error) {
	began := a.h.tick()
	rctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := a.any(a.rng).Declare(rctx, []api.ActionRequest{a.request()})
	s := Submission{Span: Span{began, a.h.tick()}, Key: a.key, Answer: answerOf(err)}
	if err == nil {
		v = list[0]
		s.TaskID, s.State, s.Replayed = v.TaskID, v.State, v.Replayed
		if v.TaskID == "" {
			s.Answer = answerOf(refusal(v.Error))
		}
	}
	a.h.submitted(s)
	return v, err
}

// Of a hundred times an actor dies that often before its effect, after it, and
// while it confirms.
const (
	dieBefore, dieAfter, dieConfirming = 10, 10, 10
	confirmingFor                      = 4 * time.Millisecond // at most, then it is dead
)

// effect has the effect and confirms it, or dies on the way.
func (a *actor) effect(ctx context.Context, v api.ActionVerdict) {
	draw := a.rng.IntN(100)
	if a.calm.Load() {
		draw = 100
	}
	if draw < dieBefore {
		a.die()
		return
	}
	a.h.happened(Effect{Key: a.key, Epoch: v.Epoch})
	if draw -= dieBefore; draw < dieAfter {
		a.die()
		return
	}
	w := &worker{load: a.load, id: a.id, rng: a.rng}
	list := []api.Settlement{{TaskID: v.TaskID, Epoch: v.Epoch, Verdict: "complete", Result: json.RawMessage(fmt.Sprintf(`"%s@%d"`, a.id, v.Epoch))}}
	if draw -= dieAfter; draw < dieConfirming {
		short, cancel := context.WithTimeout(ctx, time.Duration(a.rng.Int64N(int64(confirmingFor))))
		defer cancel()
		w.settle(short, a.rng, list)
		a.die()
		return
	}
	w.settle(ctx, a.rng, list)
}

func (a *actor) die() { a.instance++; a.deaths.Add(1) }

// human looks at the counter and settles what is in doubt.
func (a *actor) human(ctx context.Context, task string) {
	r := api.Resolution{As: "not-done", By: "human", Evidence: "the counter"}
	if a.h.happenedTo(a.key) {
		r.As = "completed"
	}
	rctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_ = a.any(a.rng).Resolve(rctx, task, r) // asked again while it is in doubt; the verify task may be faster
}

// hook performs verify and rollback tasks until ctx ends.
func (l *load) hook(ctx context.Context, action string) {
	rng := rand.New(rand.NewPCG(l.seed, seedActor+actors+uint64(len(action))))
	w := &worker{load: l, id: "hook-" + action, rng: rng, node: l.any(rng)}
	for !w.register(ctx, action+":"+actionOn) {
		if !pause(ctx, retryPause) {
			return
		}
	}
	for ctx.Err() == nil {
		tasks, ok := w.lease(ctx)
		if !ok {
			w.node = l.any(rng)
			pause(ctx, retryPause)
			continue
		}
		var list []api.Settlement
		for _, t := range tasks {
			var about struct {
				Key string `json:"idempotency_key"`
			}
			_ = json.Unmarshal(t.Context, &about) // an empty key finds no effect, and the checker the rest
			s := api.Settlement{TaskID: t.TaskID, Epoch: t.Epoch, Verdict: "complete", Result: json.RawMessage("null")}
			if action == "undo" {
				l.h.happened(Effect{Key: about.Key, Undo: true})
			} else if doubt(about.Key) != "human" {
				s.Result = json.RawMessage(fmt.Sprintf(`{"happened":%v}`, l.h.happenedTo(about.Key) && !l.lie))
			}
			list = append(list, s)
		}
		w.settle(ctx, rng, list)
	}
}

// once: the counter is at most 1 for every key, 1 for what is completed, and
// what is rolled back was undone. Anything else an action ended as must not
// have happened.
func (c *checker) once() {
	done, undone := map[string]int{}, map[string]int{}
	for _, e := range c.h.Effects {
		if e.Undo {
			undone[e.Key]++
		} else {
			done[e.Key]++
		}
	}
	shown := map[string]bool{} // keys whose task a node shows
	for _, id := range slices.Sorted(maps.Keys(c.lives)) {
		l := c.lives[id]
		if len(l.submissions) == 0 || len(l.sights) == 0 || !slices.Contains(doubts, doubt(l.submissions[0].Key)) {
			continue // lost, as another rule says, or no action
		}
		key, state := l.submissions[0].Key, l.sights[0].State
		shown[key] = true
		switch n := done[key]; {
		case n > 1:
			c.bad(RuleEffect, id, "the effect of %s happened %d times", key, n)
		case state == "completed" && n == 0:
			c.bad(RuleEffect, id, "%s is completed, and nothing happened", key)
		case state == "rolled_back" && undone[key] == 0:
			c.bad(RuleEffect, id, "%s is rolled back, and nobody undid it", key)
		case terminal(state) && state != "completed" && state != "rolled_back" && n > 0:
			c.bad(RuleEffect, id, "%s is %s, and it happened", key, state)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(done)) {
		if !shown[key] {
			c.bad(RuleEffect, "", "%s happened, and no node shows its task", key)
		}
	}
}
