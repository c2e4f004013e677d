package node

import (
	"context"
	"slices"

	"github.com/quorate/quorate/node/api"
)

// What is told of agents' trust is what the scheduler ranks by: the share of
// their leases that they ended themselves. The control shard's leader counts
// the log's events since it started; what another node counted is not asked.

func trustOf(a *api.Agent) api.Trust {
	t := api.Trust{AgentID: a.AgentID, FleetID: a.FleetID, Tier: api.TrustHigh, Trust: a.Trust, Success: a.Success,
		Completed: a.Completed, Failed: a.Failed, Lost: a.Lost, MeasuredBy: a.MeasuredBy, MeasuredFrom: a.MeasuredFrom}
	switch {
	case t.Completed+t.Failed+t.Lost < api.ProvenLeases:
		t.Tier = api.TrustUnproven
	case t.Trust < api.FairTrust:
		t.Tier = api.TrustLow
	case t.Trust < api.HighTrust:
		t.Tier = api.TrustFair
	}
	return t
}

// Trust says what was measured of one agent.
func (n *Node) Trust(ctx context.Context, id string) (api.Trust, error) {
	a, err := n.Agent(ctx, id)
	if err != nil {
		return api.Trust{}, err
	}
	return trustOf(&a), nil
}

// Trusts lists what was measured, in the order of agent IDs.
func (n *Node) Trusts(ctx context.Context, f api.TrustFilter) (api.TrustPage, error) {
	return on(n, func(c *core) (api.TrustPage, error) { return c.trusts(ctx, f) })
}

func (n *core) trusts(ctx context.Context, f api.TrustFilter) (api.TrustPage, error) {
	page := api.TrustPage{Trust: []api.Trust{}}
	if tiers := []string{"", api.TrustUnproven, api.TrustLow, api.TrustFair, api.TrustHigh}; !slices.Contains(tiers, f.Tier) {
		return page, api.Errorf(422, 3, "unknown_tier", api.RetryNo, "tier %.64q", f.Tier).WithHint("want one of %v", tiers[1:])
	}
	limit, err := pageLimit(f.Limit)
	if err != nil {
		return page, err
	}
	cur, err := openCursor(n.cursorKey, "trust", f.Cursor)
	if err != nil {
		return page, err
	}
	as, err := read(ctx, n, controlShard, methodAgents, agentsRequest{}, n.agentsHere)
	if err != nil {
		return page, err
	}
	all := make([]api.Trust, 0, len(as))
	for i := range as {
		if t := trustOf(&as[i]); f.Tier == "" || f.Tier == t.Tier {
			all = append(all, t)
		}
	}
	from := min(int(cur.Seq), len(all))
	to := min(from+limit, len(all))
	page.Trust = append(page.Trust, all[from:to]...)
	if to < len(all) {
		page.NextCursor = cursor{Kind: "trust", Seq: uint64(to)}.seal(n.cursorKey)
	}
	return page, nil
}
