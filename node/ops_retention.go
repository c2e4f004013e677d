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

// SetRecordRetention says how long a fleet's audit records stay in the
// journals; fleet "*" is for those without a retention of their own, and for
// records that name no fleet.
func (n *Node) SetRecordRetention(ctx context.Context, in api.RecordRetention) (api.RecordRetention, error) {
	return on(n, func(c *core) (api.RecordRetention, error) { return c.SetRecordRetention(ctx, in) })
}

// RemoveRecordRetention leaves a fleet's audit records to the retention of "*".
func (n *Node) RemoveRecordRetention(ctx context.Context, fleet, by string) error {
	_, err := on(n, func(c *core) (struct{}, error) { return struct{}{}, c.RemoveRecordRetention(ctx, fleet, by) })
	return err
}

// Archive has this node archive the audit records whose time is over now, and
// let go of them.
func (n *Node) Archive(ctx context.Context) (api.ArchivePage, error) {
	return on(n, func(c *core) (api.ArchivePage, error) { return c.Archive(ctx) })
}

// Archived says which audit records the journals do not have any more.
func (n *Node) Archived(ctx context.Context) (api.ArchivePage, error) {
	return on(n, func(c *core) (api.ArchivePage, error) { return c.Archived(ctx) })
}
