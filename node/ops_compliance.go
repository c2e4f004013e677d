package node

import (
	"context"

	"github.com/quorate/quorate/node/api"
)

// PutPack checks and enters a compliance rule pack.
func (n *Node) PutPack(ctx context.Context, in api.PackText) (api.RulePack, error) {
	return on(n, func(c *core) (api.RulePack, error) { return c.PutPack(ctx, in) })
}

// Packs lists the rule packs.
func (n *Node) Packs(ctx context.Context) (api.PackPage, error) {
	return on(n, func(c *core) (api.PackPage, error) { return c.Packs(ctx) })
}

// Pack reads one rule pack.
func (n *Node) Pack(ctx context.Context, name string) (api.RulePack, error) {
	return on(n, func(c *core) (api.RulePack, error) { return c.Pack(ctx, name) })
}

// RemovePack removes a rule pack that binds no fleet.
func (n *Node) RemovePack(ctx context.Context, name, by string) error {
	_, err := on(n, func(c *core) (struct{}, error) { return struct{}{}, c.RemovePack(ctx, name, by) })
	return err
}

// BindFleet replaces the packs that a fleet's intents are checked against.
func (n *Node) BindFleet(ctx context.Context, in api.FleetPacks) (api.FleetPacks, error) {
	return on(n, func(c *core) (api.FleetPacks, error) { return c.BindFleet(ctx, in) })
}

// ValidateCompliance says what the rules would make of an intent.
func (n *Node) ValidateCompliance(ctx context.Context, in api.ComplianceRequest) (api.ComplianceDecision, error) {
	return on(n, func(c *core) (api.ComplianceDecision, error) { return c.ValidateCompliance(ctx, in) })
}
