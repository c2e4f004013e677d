package node

import (
	"context"
	"slices"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// rulings are records to be made, and which of a call's tasks each is about.
type rulings struct {
	index []int
	list  []*ledger.Ruled
	asked []asked
}

// asked is an intent under a key that rules decided about, or refused.
type asked struct {
	i   int
	cmd ledger.Command
}

// add takes what the rules made of the call's task i. err: it is refused. c is
// nil when there is no telling what was asked.
func (r *rulings) add(i int, c ledger.Command, ruled *ledger.Ruled, err *api.Error) {
	if ruled != nil {
		r.index, r.list = append(r.index, i), append(r.list, ruled)
	}
	if c != nil && (ruled != nil || err != nil) && declaredSpec(c).Key != "" {
		r.asked = append(r.asked, asked{i, c})
	}
}

// drop forgets what was decided about a task: it is none of the rules' business.
func (r *rulings) drop(i int) {
	if k := slices.Index(r.index, i); k >= 0 {
		r.index, r.list = slices.Delete(r.index, k, k+1), slices.Delete(r.list, k, k+1)
	}
}

// recall answers intents whose key is known from what is stored, whatever the
// rules have become since: they decide about new ones only. found is called
// with each such answer, and where it can't be known.
func (n *core) recall(ctx context.Context, r *rulings, found func(i int, c ledger.Command, a answer)) {
	byShard := map[uint32][]asked{}
	for _, x := range r.asked {
		shard := declaredID(x.cmd).Shard()
		byShard[shard] = append(byShard[shard], x)
	}
	for shard, list := range byShard {
		cmds := make([]ledger.Command, len(list))
		for k, x := range list {
			s := declaredSpec(x.cmd)
			c := &ledger.Recall{Fleet: s.Fleet, Key: s.Key, RequestHash: declaredHash(x.cmd)}
			if d, ok := x.cmd.(*ledger.Declare); ok && d.Terms.Self {
				c.Agent, c.Node, c.Instance = d.Agent, d.Node, d.Instance
			}
			cmds[k] = c
		}
		for k, a := range n.do(ctx, shard, cmds) {
			if a.err == nil && a.outcome.Code == ledger.NotFound {
				continue
			}
			r.drop(list[k].i)
			found(list[k].i, list[k].cmd, a)
		}
	}
}

func declaredHash(c ledger.Command) [32]byte {
	if d, ok := c.(*ledger.Declare); ok {
		return d.RequestHash
	}
	return c.(*ledger.Submit).RequestHash
}

// recordRulings enters what the packs decided before anything follows from it:
// a decision that nobody could prove was not taken, and failed says so.
func (n *core) recordRulings(ctx context.Context, r rulings, failed func(i int, err *api.Error)) {
	byShard := map[uint32][]int{}
	for k, c := range r.list {
		byShard[c.ID.Shard()] = append(byShard[c.ID.Shard()], k)
	}
	for shard, ks := range byShard {
		cmds := make([]ledger.Command, len(ks))
		for j, k := range ks {
			cmds[j] = r.list[k]
		}
		for j, a := range n.do(ctx, shard, cmds) {
			switch {
			case a.err != nil:
				failed(r.index[ks[j]], asAPIError(a.err))
			case a.outcome.Code != ledger.OK:
				failed(r.index[ks[j]], outcomeError(a.outcome, r.list[ks[j]].ID))
			}
		}
	}
}
