package client

import (
	"context"
	"net/url"

	"github.com/quorate/quorate/node/api"
)

// PutPack enters a compliance rule pack, given as YAML.
func (c *Client) PutPack(ctx context.Context, text, by string) (api.RulePack, error) {
	return post[api.RulePack](ctx, c, answerWithin, "/v1/compliance/packs", api.PackText{Text: text, By: by})
}

// Packs lists the rule packs.
func (c *Client) Packs(ctx context.Context) (api.PackPage, error) {
	return get[api.PackPage](ctx, c, answerWithin, "/v1/compliance/packs", nil)
}

// Pack reads one, ID@version, with its rules and its text.
func (c *Client) Pack(ctx context.Context, name string) (api.RulePack, error) {
	return get[api.RulePack](ctx, c, answerWithin, "/v1/compliance/packs/"+url.PathEscape(name), nil)
}

// RemovePack removes a rule pack that binds no fleet.
func (c *Client) RemovePack(ctx context.Context, name string) error {
	return c.call(ctx, answerWithin, "DELETE", "/v1/compliance/packs/"+url.PathEscape(name), nil, nil)
}

// BindFleet has a fleet's intents checked against packs, in order; none ends it.
func (c *Client) BindFleet(ctx context.Context, fleet string, packs []string, by string) (api.FleetPacks, error) {
	return post[api.FleetPacks](ctx, c, answerWithin, "/v1/compliance/fleets/"+url.PathEscape(fleet), api.FleetPacks{Packs: packs, By: by})
}

// Validate says what the rules would make of an intent; nothing is declared.
func (c *Client) Validate(ctx context.Context, r api.ComplianceRequest) (api.ComplianceDecision, error) {
	return post[api.ComplianceDecision](ctx, c, answerWithin, "/v1/compliance/validate", r)
}
