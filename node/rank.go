package node

import (
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

const (
	// priorAttempts is how many attempts the declared success rate counts for:
	// after so many measured ones, it is half of the estimate.
	priorAttempts = 4
	// rankFreshMs is for how long agents once rated are not rated again.
	rankFreshMs = 1000
	// rankShown is how many of a capability's best agents are kept with an
	// assignment, to say why they were not taken.
	rankShown = 4
)

// standing is what an agent is ranked by; each from 0 to 1.
type standing struct {
	success float64 // measured, with the mean of the declared rates as prior
	load    float64 // the larger of what it says and what it holds of its limit
	trust   float64 // smoothed share of leases it ended itself, and did not lose
}

func (w *rankWeights) score(s standing) float64 {
	return w.success*s.success + w.trust*s.trust - w.load*s.load
}

type rankWeights struct{ success, load, trust float64 }

// rated is an agent in a ranking.
type rated struct {
	agent string
	standing
}

// ranking is who could do a capability when it was made; never changed after.
type ranking struct {
	capability string
	// Its two words, as the ratings number them.
	action, target uint32
	weights        rankWeights
	best           []rated // best first, at most rankShown
	unable         string  // an agent that is well and can't
}

// choice is why an agent was given tasks of one capability; shared by those it
// was given at once.
//
// The node that leads a task's shard gives it: to the best of the agents that
// wait there, at once, or to one that is said to wait at another node and leads
// by handoverLead, or when none waits there (idlers.go). Otherwise it is queued,
// and agents of other nodes fetch it in the order in which they come. So one that
// is a little better, or came less than idleLookMax ago, is passed over. That is
// for the price: the lease of who waits here costs about a microsecond and no
// message, a lease handed over is a message to its node and one back before the
// task can be begun with.
type choice struct {
	standing
	of *ranking
}

// say explains the choice of agent by node at, which led the task's shard. Who
// ranked higher did not wait there: it would have been given the task. (If it
// waited elsewhere, it led by too little, or was gone when the task was sent.)
func (c *choice) say(agent, at string) string {
	out := fmt.Sprintf("given to %s: success %s, load %s, trust %s", agent, share(c.success), share(c.load), share(c.trust))
	mine := c.of.weights.score(c.standing)
	for _, r := range c.of.best {
		if r.agent == agent {
			continue
		}
		if c.of.weights.score(r.standing) > mine {
			out += fmt.Sprintf("; %s ranked higher and did not wait at %s, which gave it", r.agent, at)
		} else {
			out += fmt.Sprintf("; %s lost on %s", r.agent, c.of.weights.decisive(c.standing, r.standing))
		}
	}
	if c.of.unable != "" {
		out += fmt.Sprintf("; %s lacks %s", c.of.unable, c.of.capability)
	}
	return out
}

// decisive names what the loser lost most by.
func (w *rankWeights) decisive(won, lost standing) string {
	by, most := "its turn", 1e-9
	for _, x := range []struct {
		name string
		by   float64
	}{{"success", w.success * (won.success - lost.success)}, {"load", w.load * (lost.load - won.load)}, {"trust", w.trust * (won.trust - lost.trust)}} {
		if x.by > most {
			by, most = x.name, x.by
		}
	}
	return by
}

// share prints 0.94 as .94.
func share(x float64) string {
	return strings.TrimPrefix(fmt.Sprintf("%.2f", x), "0")
}

// rater rates agents, at most once in rankFreshMs.
type rater struct {
	weights rankWeights
	view    func() []ratedAgent
	now     func() int64
	current atomic.Pointer[ratings]
	making  sync.Mutex
}

// ratedAgent is an agent as the rater sees it.
type ratedAgent struct {
	id   string
	caps []ledger.CapabilitySpec
	well bool
	load float64
	t    tally
}

// ratings are every agent's at one time. Rankings made of them are found in
// of, and do not keep them alive.
//
// A lease looks one agent of thousands up, which no cache holds: it reads one
// line each of the table, of cards and of caps (and the agent's name).
type ratings struct {
	at    int64
	seed  maphash.Seed
	table []uint32 // by hash of the name: place in cards + 1; open addressing, at most half full
	cards []card   // by ID
	caps  []cardCap
	words map[string]uint32 // actions and targets that agents name, numbered from 1; "*" is 0
	of    sync.Map          // capability → *ranking
}

// card is an agent in ratings.
type card struct {
	agent               string
	load, trust         float64
	completed, attempts float64
	prior               float64
	first, count        uint32 // of caps
	well                bool
}

type cardCap struct {
	action, target uint32 // words
}

// wordUnknown is the number of what no agent names.
const wordUnknown = math.MaxUint32

func rate(at int64, agents []ratedAgent) *ratings {
	n := len(agents)
	c := &ratings{at: at, seed: maphash.MakeSeed(), cards: make([]card, n), table: make([]uint32, 2<<bits.Len(uint(n))),
		words: map[string]uint32{"*": 0}}
	number := func(word string) uint32 {
		x, ok := c.words[word]
		if !ok {
			x = uint32(len(c.words))
			c.words[word] = x
		}
		return x
	}
	for i := range agents {
		a := &agents[i]
		c.cards[i] = card{agent: a.id, load: a.load, trust: a.t.trust(), well: a.well, first: uint32(len(c.caps)), count: uint32(len(a.caps)), prior: priorOf(a.caps),
			completed: float64(a.t.completed), attempts: float64(a.t.completed + a.t.failed + a.t.lost)}
		for k := range a.caps {
			x := &a.caps[k]
			c.caps = append(c.caps, cardCap{number(x.Action), number(x.Target)})
		}
		at := c.place(a.id)
		for c.table[at] != 0 {
			at = (at + 1) % len(c.table)
		}
		c.table[at] = uint32(i) + 1
	}
	return c
}

// place is where the search for an agent begins in the table.
func (c *ratings) place(agent string) int {
	return int(maphash.String(c.seed, agent) & uint64(len(c.table)-1))
}

// card finds an agent's; nil: it is not registered.
func (c *ratings) card(agent string) *card {
	for at := c.place(agent); c.table[at] != 0; at = (at + 1) & (len(c.table) - 1) {
		if x := &c.cards[c.table[at]-1]; x.agent == agent {
			return x
		}
	}
	return nil
}

// word is the number of an action or target.
func (c *ratings) word(s string) uint32 {
	if x, ok := c.words[s]; ok {
		return x
	}
	return wordUnknown
}

// standing is an agent's for a capability, and whether it has it.
func (c *ratings) standing(a *card, action, target uint32) (standing, bool) {
	able := false
	for _, x := range c.caps[a.first : a.first+a.count] { // as sched.Matches does
		if (x.action == action || x.action == 0) && (x.target == target || x.target == 0) {
			able = true
			break
		}
	}
	return standing{success: estimate(a.completed, a.attempts, a.prior), load: a.load, trust: a.trust}, able
}

// refresh rates the agents again if it is time. Call it with no lock held.
func (r *rater) refresh() {
	now := r.now()
	if c := r.current.Load(); c != nil && now-c.at < rankFreshMs {
		return
	}
	if !r.making.TryLock() {
		return // somebody is at it
	}
	defer r.making.Unlock()
	r.current.Store(rate(now, r.view()))
}

// choose explains why agent gets tasks of capability; nil before the first
// refresh, and for one that is not registered.
func (r *rater) choose(capability, agent string) *choice {
	c := r.current.Load()
	if c == nil {
		return nil
	}
	a := c.card(agent)
	if a == nil {
		return nil
	}
	of := c.ranking(capability, r.weights)
	s, _ := c.standing(a, of.action, of.target)
	return &choice{standing: s, of: of}
}

func (c *ratings) ranking(capability string, w rankWeights) *ranking {
	if x, ok := c.of.Load(capability); ok {
		return x.(*ranking)
	}
	action, target, _ := strings.Cut(capability, ":")
	x := &ranking{capability: capability, action: c.word(action), target: c.word(target), weights: w, best: make([]rated, 0, rankShown+1)}
	for i := range c.cards { // ten thousand, for each capability: no allocation
		a := &c.cards[i]
		if !a.well {
			continue
		}
		if s, able := c.standing(a, x.action, x.target); able {
			x.enter(rated{agent: a.agent, standing: s})
		} else if x.unable == "" {
			x.unable = a.agent
		}
	}
	c.of.Store(capability, x)
	return x
}

// enter puts an agent in its place among the best; of equals, who came first.
func (x *ranking) enter(r rated) {
	i := len(x.best)
	for score := x.weights.score(r.standing); i > 0 && score > x.weights.score(x.best[i-1].standing); i-- {
		continue
	}
	if i < rankShown {
		x.best = slices.Insert(x.best, i, r)
		x.best = x.best[:min(len(x.best), rankShown)]
	}
}

// tally counts an agent's attempts, as the log tells of them.
type tally struct{ completed, failed, lost uint64 }

// success is the posterior mean of a Beta distribution whose prior is the
// declared rate, worth priorAttempts.
func (t tally) success(prior float64) float64 {
	return estimate(float64(t.completed), float64(t.completed+t.failed+t.lost), prior)
}

func estimate(completed, attempts, prior float64) float64 {
	return (completed + priorAttempts*prior) / (attempts + priorAttempts)
}

// trust is Laplace's estimate that a lease is ended by its holder.
func (t tally) trust() float64 {
	ended := float64(t.completed + t.failed)
	return (ended + 1) / (ended + float64(t.lost) + 2)
}

// priorOf is the success expected of an agent before anything is measured: the
// mean of the rates that its manifest declares, since what is measured is of all
// its capabilities together too.
func priorOf(caps []ledger.CapabilitySpec) float64 {
	return meanRate(len(caps), func(i int) float64 { return float64(caps[i].ConfidenceMillis) / 1000 })
}

// undeclared is the rate of who declares none.
const undeclared = 0.5

func meanRate(n int, rate func(int) float64) float64 {
	if n == 0 {
		return undeclared
	}
	sum := 0.0
	for i := range n {
		sum += rate(i)
	}
	return sum / float64(n)
}

// declared is priorOf for a manifest that is shown.
func declared(caps []api.Capability) float64 {
	return meanRate(len(caps), func(i int) float64 {
		if caps[i].Confidence == nil {
			return undeclared
		}
		return *caps[i].Confidence
	})
}

// viewAgents is every agent as this node's replica and roster know it.
func (n *core) viewAgents() []ratedAgent {
	var out []ratedAgent
	n.control.view(func(c *ledger.Control) {
		for _, a := range c.Agents() {
			out = append(out, ratedAgent{id: a.ID, caps: a.Capabilities, well: a.State == ledger.AgentHealthy, load: float64(a.MaxTasks)})
		}
	})
	for i := range out {
		a := &out[i]
		limit := int(a.load)
		a.t, a.load = n.roster.of(a.id)
		if limit > 0 {
			a.load = max(a.load, min(1, float64(n.holds.count(a.id))/float64(limit)))
		}
	}
	return out
}

// standing is what an agent connected here is ranked by; declared is its prior.
func (n *core) standing(s *seat) standing {
	t, load := n.roster.of(s.agent)
	if s.max > 0 {
		load = max(load, min(1, float64(n.holds.count(s.agent))/float64(s.max)))
	}
	return standing{success: t.success(s.declared), load: load, trust: t.trust()}
}
