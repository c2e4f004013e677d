package node

import (
	"context"

	"github.com/quorate/quorate/node/api"
)

// Retentions lists how long the fleets' ended tasks and keys live.
func (n *Node) Retentions(ctx context.Context) (api.RetentionPage, error) {
	return on(n, func(c *core) (api.RetentionPage, error) { return c.Retentions(ctx) })
}

// SetRetention says how long a fleet's ended tasks and keys live; fleet "*" is
// for those without a retention of their own.
func (n *Node) SetRetention(ctx context.Context, in api.Retention) (api.Retention, error) {
	return on(n, func(c *core) (api.Retention, error) { return c.SetRetention(ctx, in) })
}

// RemoveRetention leaves a fleet to the default.
func (n *Node) RemoveRetention(ctx context.Context, fleet, by string) error {
	_, err := on(n, func(c *core) (struct{}, error) { return struct{}{}, c.RemoveRetention(ctx, fleet, by) })
	return err
}
