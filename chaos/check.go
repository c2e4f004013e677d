package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Rules a history may violate, as a [Violation] names them.
const (
	RuleLost       = "lost"        // an acknowledged task is missing or has not ended
	RuleTerminal   = "terminal"    // a task has two terminal states, or nodes disagree
	RuleCompletion = "completion"  // an acknowledged completion is not what remained
	RuleEpoch      = "epoch"       // epochs repeat or go back
	RuleStale      = "stale"       // a stale epoch was accepted
	RuleAfterEnd   = "after_end"   // a task was handed out after it had ended
	RuleKey        = "key"         // one key, several tasks
	RuleLedger     = "ledger"      // a ledger does not verify, or two differ
	RuleUnrecorded = "unrecorded"  // something acknowledged is not in the ledger
	RuleOnce       = "once"        // an exactly_once task was run again though nobody knew that it had not happened
	RuleEffect     = "effect"      // an exactly_once effect happened twice, or not at all though it is completed
	RuleSteps      = "ledger_step" // the ledger tells an impossible life of a task
)

// Violation is one broken rule.
type Violation struct {
	Rule   string `json:"rule"`
	Task   string `json:"task_id,omitempty"`
	Detail string `json:"detail"`
}

func (v Violation) String() string {
	if v.Task == "" {
		return v.Rule + ": " + v.Detail
	}
	return v.Rule + ": task " + v.Task + ": " + v.Detail
}

// terminal says whether a task in that state has ended for good.
func terminal(state string) bool {
	switch state {
	case "completed", "failed", "cancelled", "timed_out", "rolled_back":
		return true
	}
	return false
}

// life is what a history says of one task.
type life struct {
	submissions []Submission // the acknowledged ones
	grants      []Grant
	settlings   []Settling
	sights      []Sight
	records     []api.Record // of the longest ledger of its shard
}

// checker collects violations while it walks a history.
type checker struct {
	h      *History
	lives  map[string]*life
	latest map[uint32]uint64 // see laterLeaders
	found  []Violation
}

// Check returns every violation in h, ordered by task and rule; nil when all
// rules hold. It expects that clients have stopped and the cluster is at rest.
func Check(h *History) []Violation {
	c := &checker{h: h, lives: map[string]*life{}}
	c.collect()
	c.latest = c.laterLeaders()
	c.keys()
	c.ledgers()
	c.once()
	for _, id := range slices.Sorted(maps.Keys(c.lives)) {
		l := c.lives[id]
		c.end(id, l)
		c.completion(id, l)
		c.epochs(id, l)
		c.stale(id, l)
		c.recorded(id, l)
		c.steps(id, l)
	}
	return c.found
}

func (c *checker) bad(rule, task, format string, args ...any) {
	c.found = append(c.found, Violation{Rule: rule, Task: task, Detail: fmt.Sprintf(format, args...)})
}

func (c *checker) life(id string) *life {
	l := c.lives[id]
	if l == nil {
		l = &life{}
		c.lives[id] = l
	}
	return l
}

func (c *checker) collect() {
	for _, s := range c.h.Submissions {
		if s.Answer == Acked {
			l := c.life(s.TaskID)
			l.submissions = append(l.submissions, s)
		}
	}
	for _, g := range c.h.Grants {
		l := c.life(g.TaskID)
		l.grants = append(l.grants, g)
	}
	for _, s := range c.h.Settlings {
		l := c.life(s.TaskID)
		l.settlings = append(l.settlings, s)
	}
	for _, s := range c.h.Sights {
		l := c.life(s.TaskID)
		l.sights = append(l.sights, s)
	}
}

// keys: a key names one task, a task has one key.
func (c *checker) keys() {
	tasks, keys := map[string]string{}, map[string]string{}
	for _, s := range c.h.Submissions {
		if s.Answer != Acked {
			continue
		}
		if first, ok := tasks[s.Key]; ok && first != s.TaskID {
			c.bad(RuleKey, s.TaskID, "key %s was answered with task %s before", s.Key, first)
		}
		if first, ok := keys[s.TaskID]; ok && first != s.Key {
			c.bad(RuleKey, s.TaskID, "answers key %s and key %s", first, s.Key)
		}
		tasks[s.Key], keys[s.TaskID] = s.TaskID, s.Key
	}
}

// end: an acknowledged task is there, has ended, and in one way only.
func (c *checker) end(id string, l *life) {
	if len(l.submissions) > 0 && len(l.sights) == 0 {
		c.bad(RuleLost, id, "no node shows it")
	}
	states := map[string]bool{}
	for _, s := range l.sights {
		if terminal(s.State) {
			states[s.State] = true
		} else if len(l.submissions) > 0 {
			c.bad(RuleLost, id, "%s shows it as %q, not ended", s.NodeID, s.State)
		}
	}
	for _, s := range l.submissions { // a replayed one may name how the task ended
		if terminal(s.State) {
			states[s.State] = true
		}
	}
	for _, s := range l.settlings {
		if s.Answer == Acked && terminal(s.State) {
			states[s.State] = true
		}
	}
	if len(states) > 1 {
		c.bad(RuleTerminal, id, "ended in several ways: %v", slices.Sorted(maps.Keys(states)))
	}
}

// completion: one completion at most is acknowledged, and it is what remains.
func (c *checker) completion(id string, l *life) {
	var done *Settling
	for i, s := range l.settlings {
		if s.Answer != Acked || s.Verdict != "complete" {
			continue
		}
		if done != nil && (done.Epoch != s.Epoch || done.AgentID != s.AgentID) {
			c.bad(RuleCompletion, id, "completed by %s at epoch %d and by %s at epoch %d", done.AgentID, done.Epoch, s.AgentID, s.Epoch)
		}
		done = &l.settlings[i]
	}
	if done == nil {
		return
	}
	for _, s := range l.sights {
		if s.State != "completed" || s.AgentID != done.AgentID || s.Epoch != done.Epoch || s.Result != done.Result {
			c.bad(RuleCompletion, id, "%s shows %s by %s at epoch %d with %q; acknowledged was completion by %s at epoch %d with %q",
				s.NodeID, s.State, s.AgentID, s.Epoch, s.Result, done.AgentID, done.Epoch, done.Result)
		}
	}
}

// epochs: every grant has its own epoch, later grants have higher ones, and
// none follows the end.
func (c *checker) epochs(id string, l *life) {
	grants := slices.Clone(l.grants)
	slices.SortStableFunc(grants, func(a, b Grant) int { return cmp.Compare(a.Epoch, b.Epoch) })
	for i, g := range grants {
		if i > 0 && grants[i-1].Epoch == g.Epoch {
			c.bad(RuleEpoch, id, "epoch %d was given to %s and to %s", g.Epoch, grants[i-1].AgentID, g.AgentID)
		}
		// Grants with lower epochs must not have begun after this one was over.
		for _, low := range grants[:i] {
			if low.Epoch < g.Epoch && g.before(low.Span) {
				c.bad(RuleEpoch, id, "epoch %d (%s) was handed out after epoch %d (%s)", low.Epoch, low.AgentID, g.Epoch, g.AgentID)
			}
		}
		for _, s := range l.settlings {
			if s.Answer == Acked && terminal(s.State) && s.before(g.Span) {
				c.bad(RuleAfterEnd, id, "handed to %s at epoch %d after it was %s", g.AgentID, g.Epoch, s.State)
			}
		}
	}
}

// laterLeaders are, by shard, the latest terms of which a grant tells.
func (c *checker) laterLeaders() map[uint32]uint64 {
	latest := map[uint32]uint64{}
	for _, g := range c.h.Grants {
		if id, err := ledger.ParseTaskID(g.TaskID); err == nil {
			latest[id.Shard()] = max(latest[id.Shard()], g.Epoch>>ledger.EpochTermShift)
		}
	}
	return latest
}

// stale: who was overtaken by a newer grant before asking is refused, unless
// the answer only repeats one already given. Leases of these tasks are not in
// the log: what an overtaking leader gave, and nobody told the next one, that
// one can't know. So where there was a next one, the older holder may be
// believed: its attempt is as good as the other. Within one leader's reign, and
// its successor's, it is not.
func (c *checker) stale(id string, l *life) {
	for _, s := range l.settlings {
		if s.Answer != Acked || s.Replayed {
			continue
		}
		for _, g := range l.grants {
			if g.Epoch > s.Epoch && g.before(s.Span) && !c.forgotten(id, s.Epoch, g.Epoch) {
				c.bad(RuleStale, id, "%s of %s at epoch %d was accepted although %s held epoch %d", s.Verdict, s.AgentID, s.Epoch, g.AgentID, g.Epoch)
			}
		}
	}
}

// forgotten says that the leader that gave the task again, after a change, may
// have been followed by one that was not told.
func (c *checker) forgotten(task string, old, again uint64) bool {
	id, err := ledger.ParseTaskID(task)
	return err == nil && old>>ledger.EpochTermShift < again>>ledger.EpochTermShift && c.latest[id.Shard()] > again>>ledger.EpochTermShift
}
