package chaos

import (
	"maps"
	"slices"

	"github.com/quorate/quorate/node/api"
)

// ledgers: each verifies, is dense from 1, and any two are prefixes of one
// another. The longest of each shard is the one tasks are checked against.
func (c *checker) ledgers() {
	longest := map[uint32]chain{}
	for _, b := range c.h.Books {
		for _, bad := range b.Bad {
			c.bad(RuleLedger, "", "%s: shard %d record %d: %s", b.NodeID, bad.Shard, bad.Seq, bad.Reason)
		}
		shards := map[uint32][]api.Record{}
		for _, r := range b.Records {
			if want := uint64(len(shards[r.Shard])) + 1; r.Seq != want {
				c.bad(RuleLedger, "", "%s: shard %d has record %d where %d belongs", b.NodeID, r.Shard, r.Seq, want)
				return
			}
			shards[r.Shard] = append(shards[r.Shard], r)
		}
		for _, shard := range slices.Sorted(maps.Keys(shards)) {
			mine := chain{b.NodeID, shards[shard]}
			c.prefix(shard, longest[shard], mine)
			if len(mine.records) > len(longest[shard].records) {
				longest[shard] = mine
			}
		}
	}
	for _, l := range longest {
		for _, r := range l.records {
			if r.TaskID != "" {
				l := c.life(r.TaskID)
				l.records = append(l.records, r)
			}
		}
	}
}

// chain is one shard's records on one node.
type chain struct {
	nodeID  string
	records []api.Record
}

func (c *checker) prefix(shard uint32, a, b chain) {
	for i := range min(len(a.records), len(b.records)) {
		if a.records[i].Hash != b.records[i].Hash {
			c.bad(RuleLedger, "", "shard %d: %s and %s differ from record %d on", shard, a.nodeID, b.nodeID, i+1)
			return
		}
	}
}

// moved says whether a record is a step of a task's life; a refusal is not. A
// failed attempt that is ready again at once is one, from ready to ready.
func moved(r api.Record) bool { return r.Verb != "refused" }

// recorded: what was acknowledged stands in the ledger.
func (c *checker) recorded(id string, l *life) {
	if len(c.h.Books) == 0 {
		return
	}
	if len(l.submissions) > 0 && (len(l.records) == 0 || l.records[0].From != "") {
		c.bad(RuleUnrecorded, id, "its submission was acknowledged and is not in the ledger")
	}
	for _, s := range l.settlings {
		if s.Answer != Acked {
			continue
		}
		if !slices.ContainsFunc(l.records, func(r api.Record) bool {
			return moved(r) && r.Verb != "stolen" && r.AgentID == s.AgentID && r.Epoch == s.Epoch
		}) {
			c.bad(RuleUnrecorded, id, "%s by %s at epoch %d was acknowledged and is not in the ledger", s.Verdict, s.AgentID, s.Epoch)
		}
	}
}

// steps: a task's records are one life, each starting where the last ended,
// one end, epochs of its attempts strictly increasing.
func (c *checker) steps(id string, l *life) {
	state, epoch, ended := "", uint64(0), false
	stolen := uint64(0) // an epoch that was told when it was given
	for _, r := range l.records {
		if !moved(r) {
			continue
		}
		switch {
		case ended && !undoes(r):
			c.bad(RuleTerminal, id, "ledger record %d/%d (%s → %s) follows its end", r.Shard, r.Seq, r.From, r.To)
		case r.From != state:
			c.bad(RuleSteps, id, "ledger record %d/%d goes from %q, the one before went to %q", r.Shard, r.Seq, r.From, state)
		case again(r):
			c.bad(RuleOnce, id, "ledger record %d/%d takes it from %s to %s by %s", r.Shard, r.Seq, r.From, r.To, r.Verb)
		case r.Epoch != 0 && (r.Epoch < epoch || r.Epoch == epoch && !logged(r) && (r.Epoch != stolen || r.Verb == "stolen")):
			c.bad(RuleEpoch, id, "ledger record %d/%d has epoch %d after %d", r.Shard, r.Seq, r.Epoch, epoch)
		}
		if stolen = 0; r.Verb == "stolen" {
			stolen = r.Epoch
		}
		state, ended = r.To, terminal(r.To)
		epoch = max(epoch, r.Epoch)
	}
	for _, s := range l.sights {
		if len(l.records) > 0 && s.State != state {
			c.bad(RuleSteps, id, "%s shows %q, the ledger ends with %q", s.NodeID, s.State, state)
		}
	}
}

// logged says that a record is of a lease that is in the ledger itself: its
// epoch is told when it is given, and again by what ends it, or undoes it.
func logged(r api.Record) bool {
	return r.From == "running" || r.From == "unknown" || r.To == "rolling_back" || r.From == "rolling_back" || r.Verb == "resolve"
}

// undoes says that a record leaves an end rightly: an effect is rolled back,
// or somebody settles a rollback that failed.
func undoes(r api.Record) bool {
	return r.To == "rolling_back" || r.From == "failed" && (r.To == "rolled_back" || r.Verb == "resolve")
}

// again says that an exactly_once task became ready to be run again without
// anybody's word that it had not happened.
func again(r api.Record) bool {
	if r.Guarantee != "exactly_once" || r.From != "running" && r.From != "unknown" || r.To != "ready" && r.To != "submitted" {
		return false
	}
	switch r.Verb {
	case "fail", "release", "verified", "resolve":
		return false
	}
	return true
}
