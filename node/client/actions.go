package client

import (
	"context"
	"net/url"

	"github.com/quorate/quorate/node/api"
)

// Declare asks for the go for an effect. A refusal is an error, save that an
// action under way elsewhere is asked again as long as the client's patience
// lasts. Without an idempotency key nothing can be asked again: it is required.
func (c *Client) Declare(ctx context.Context, a api.ActionRequest) (api.ActionVerdict, error) {
	return post[api.ActionVerdict](ctx, c, answerWithin+seconds(a.WaitSeconds), "/v1/actions", a)
}

// DeclareBatch declares up to api.MaxBatch intents; each gets its own verdict,
// in order.
func (c *Client) DeclareBatch(ctx context.Context, list []api.ActionRequest) ([]api.ActionVerdict, error) {
	v, err := post[struct {
		Actions []api.ActionVerdict `json:"actions"`
	}](ctx, c, answerWithin, "/v1/actions", list)
	return v.Actions, err
}

// Approve consents to a task.
func (c *Client) Approve(ctx context.Context, id string, j api.Judgement) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/approve", j)
}

// Reject ends a task that awaits approval.
func (c *Client) Reject(ctx context.Context, id string, j api.Judgement) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/reject", j)
}

// Resolve settles a task in doubt, or one whose rollback failed.
func (c *Client) Resolve(ctx context.Context, id string, r api.Resolution) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/resolve", r)
}

// Rollback has a task's effect undone.
func (c *Client) Rollback(ctx context.Context, id, by, reason string) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/rollback", map[string]string{"by": by, "reason": reason})
}

// RollbackSession undoes a session, the last step first.
func (c *Client) RollbackSession(ctx context.Context, session string, r api.SessionRollback) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/sessions/"+url.PathEscape(session)+"/rollback", r)
}

// SaveCheckpoint saves progress on a held task.
func (c *Client) SaveCheckpoint(ctx context.Context, id string, s api.SaveRequest) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/checkpoint", s)
}
