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
