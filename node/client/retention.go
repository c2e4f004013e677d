package client

import (
	"context"
	"net/url"

	"github.com/quorate/quorate/node/api"
)

// Retentions lists how long the fleets' ended tasks and keys live.
func (c *Client) Retentions(ctx context.Context) (api.RetentionPage, error) {
	return get[api.RetentionPage](ctx, c, answerWithin, "/v1/retention", nil)
}

// SetRetention says how long a fleet's ended tasks and keys live.
func (c *Client) SetRetention(ctx context.Context, r api.Retention) (out api.Retention, err error) {
	err = c.call(ctx, answerWithin, "PUT", "/v1/fleets/"+url.PathEscape(r.FleetID)+"/retention", r, &out)
	return out, err
}

// RemoveRetention leaves a fleet to the default.
func (c *Client) RemoveRetention(ctx context.Context, fleet string) error {
	return c.call(ctx, answerWithin, "DELETE", "/v1/fleets/"+url.PathEscape(fleet)+"/retention", nil, nil)
}

// SetRecordRetention says how long a fleet's audit records stay.
func (c *Client) SetRecordRetention(ctx context.Context, r api.RecordRetention) (out api.RecordRetention, err error) {
	err = c.call(ctx, answerWithin, "PUT", "/v1/fleets/"+url.PathEscape(r.FleetID)+"/record-retention", r, &out)
	return out, err
}

// RemoveRecordRetention leaves a fleet's audit records to the retention of *.
func (c *Client) RemoveRecordRetention(ctx context.Context, fleet string) error {
	return c.call(ctx, answerWithin, "DELETE", "/v1/fleets/"+url.PathEscape(fleet)+"/record-retention", nil, nil)
}

// Archive has the node archive the audit records whose time is over now.
func (c *Client) Archive(ctx context.Context) (out api.ArchivePage, err error) {
	err = c.call(ctx, verifyWithin, "POST", "/v1/audit/archive", nil, &out)
	return out, err
}

// Archived says which audit records the node's journals do not have any more.
func (c *Client) Archived(ctx context.Context) (api.ArchivePage, error) {
	return get[api.ArchivePage](ctx, c, answerWithin, "/v1/audit/archive", nil)
}
