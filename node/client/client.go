// Package client speaks a Quorate node's HTTP interface from Go.
//
// A [Client] is given one or more nodes and uses any that answers. What is
// safe to repeat is repeated until the context ends: reads, and changes that
// carry a key or an epoch, so a submit without an idempotency key gets one. An
// error that a node answered is an *api.Error. The package starts no goroutine.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Client speaks to a cluster. It is safe for concurrent use.
type Client struct {
	urls  []string
	http  *http.Client
	actor string
	token string
	next  atomic.Uint32 // the node that answered last
}

// Config of a Client. Zero fields take the default.
type Config struct {
	URLs  []string // of nodes, tried in order; default http://127.0.0.1:7700
	Token string   // bearer token; default none
	Actor string   // who acts, for the ledger; default the remote address
	// MaxConns bounds the idle connections kept to each node; default 256.
	MaxConns int
}

// New makes a client.
func New(cfg Config) (*Client, error) {
	if len(cfg.URLs) == 0 {
		cfg.URLs = []string{"http://127.0.0.1:7700"}
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 256
	}
	c := &Client{actor: cfg.Actor, token: cfg.Token}
	for _, u := range cfg.URLs {
		if !strings.Contains(u, "://") {
			u = "http://" + u
		}
		p, err := url.Parse(u)
		if err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return nil, fmt.Errorf("client: %q is not a node's address: want http://host:port", u)
		}
		c.urls = append(c.urls, strings.TrimSuffix(u, "/"))
	}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost: cfg.MaxConns, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}
	return c, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Pauses between attempts: doubling with full jitter.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// call does one operation, at whichever node answers, until it is decided or
// ctx ends. out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("client: %w", err)
		}
	}
	pause := firstPause
	var last error
	for {
		for range c.urls {
			at := c.next.Load()
			resp, err := c.send(ctx, c.urls[int(at)%len(c.urls)], method, path, body)
			if err == nil {
				err = read(resp, out)
				if err == nil || !repeatable(err) {
					return err
				}
			}
			if ctx.Err() != nil {
				return ended(ctx, last, err)
			}
			last = err
			c.next.CompareAndSwap(at, at+1)
		}
		t := time.NewTimer(pause/2 + mathrand.N(pause/2))
		select {
		case <-ctx.Done():
			t.Stop()
			return ended(ctx, last, nil)
		case <-t.C:
		}
		pause = min(2*pause, lastPause)
	}
}

// ended is the error of a call that its context ended: what the nodes said
// last, if they said anything.
func ended(ctx context.Context, last, now error) error {
	var e *api.Error
	if errors.As(last, &e) {
		return e
	}
	if last == nil {
		last = now
	}
	return fmt.Errorf("client: no answer from any node: %w (last: %w)", ctx.Err(), last)
}

func (c *Client) send(ctx context.Context, base, method, path string, body []byte) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, r)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.actor != "" {
		req.Header.Set("X-Quorate-Actor", c.actor)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.http.Do(req)
}

// read takes an answer apart and closes it.
func read(resp *http.Response, out any) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err // cut off: repeatable
	}
	if resp.StatusCode >= 300 {
		e := &api.Error{}
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			e = api.Errorf(resp.StatusCode, 2, "unexpected_answer", api.RetryNo, "%s: %.200s", resp.Status, b)
		}
		return e
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return api.Errorf(502, 2, "unexpected_answer", api.RetryNo, "the answer does not decode: %v", err)
	}
	return nil
}

// repeatable says that an operation may be sent again: it was certainly not
// done, or repeating it is harmless.
func repeatable(err error) bool {
	var e *api.Error
	if !errors.As(err, &e) {
		return true // the connection broke; every operation here is idempotent
	}
	return e.Retry == api.RetryLater || e.Retry == api.RetrySameKey
}

func newKey() string { return "auto-" + rand.Text() }

// Submit declares one task. Without an idempotency key it gets one, so that
// repeating it after a lost answer is safe.
func (c *Client) Submit(ctx context.Context, spec api.TaskSpec) (api.SubmitVerdict, error) {
	if spec.IdempotencyKey == "" {
		spec.IdempotencyKey = newKey()
	}
	var v api.SubmitVerdict
	err := c.call(ctx, "POST", "/v1/tasks", spec, &v)
	return v, err
}

// SubmitBatch declares many tasks; each gets its own verdict, in order.
func (c *Client) SubmitBatch(ctx context.Context, specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
	for i := range specs {
		if specs[i].IdempotencyKey == "" {
			specs[i].IdempotencyKey = newKey()
		}
	}
	var out struct {
		Tasks []api.SubmitVerdict `json:"tasks"`
	}
	if err := c.call(ctx, "POST", "/v1/tasks", specs, &out); err != nil {
		return nil, err
	}
	if len(out.Tasks) != len(specs) {
		return nil, fmt.Errorf("client: %d verdicts for %d tasks", len(out.Tasks), len(specs))
	}
	return out.Tasks, nil
}

func get[T any](c *Client, ctx context.Context, path string, q url.Values) (v T, err error) {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	err = c.call(ctx, "GET", path, nil, &v)
	return v, err
}

func post[T any](c *Client, ctx context.Context, path string, in any) (v T, err error) {
	err = c.call(ctx, "POST", path, in, &v)
	return v, err
}

// query collects parameters that are not empty.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" && pairs[i+1] != "0" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// Task reads a task, waiting up to wait (at most a minute) for its end.
func (c *Client) Task(ctx context.Context, id string, wait time.Duration) (api.Task, error) {
	q := url.Values{}
	if wait > 0 {
		q.Set("wait", min(wait, time.Minute).String())
	}
	return get[api.Task](c, ctx, "/v1/tasks/"+url.PathEscape(id), q)
}

// Wait reads a task when it has ended, or ctx ends.
func (c *Client) Wait(ctx context.Context, id string) (api.Task, error) {
	for {
		t, err := c.Task(ctx, id, 30*time.Second)
		if err != nil || t.CompletedAt != nil || ctx.Err() != nil {
			return t, err
		}
	}
}

// Tasks lists a page of tasks.
func (c *Client) Tasks(ctx context.Context, f api.TaskFilter) (api.TaskPage, error) {
	return get[api.TaskPage](c, ctx, "/v1/tasks", query("state", strings.Join(f.States, ","), "fleet_id", f.FleetID, "action", f.Action,
		"target", f.Target, "agent_id", f.AgentID, "session_id", f.SessionID, "limit", strconv.Itoa(f.Limit), "cursor", f.Cursor))
}

// Why says where a task stands and what it waits for.
func (c *Client) Why(ctx context.Context, id string) (api.Why, error) {
	return get[api.Why](c, ctx, "/v1/tasks/"+url.PathEscape(id)+"/why", nil)
}

// Cancel ends a task.
func (c *Client) Cancel(ctx context.Context, id, reason string) (api.Task, error) {
	return post[api.Task](c, ctx, "/v1/tasks/"+url.PathEscape(id)+"/cancel", map[string]string{"reason": reason})
}

// Retry makes an ended, not completed task ready again.
func (c *Client) Retry(ctx context.Context, id string) (api.Task, error) {
	return post[api.Task](c, ctx, "/v1/tasks/"+url.PathEscape(id)+"/retry", struct{}{})
}

// Lease takes work for an agent.
func (c *Client) Lease(ctx context.Context, req api.LeaseRequest) (api.Leases, error) {
	return post[api.Leases](c, ctx, "/v1/leases", req)
}

// Renew prolongs a lease; Start and Progress do so too.
func (c *Client) Renew(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return post[api.Renewal](c, ctx, "/v1/tasks/"+url.PathEscape(id)+"/renew", cl)
}

// Start marks a held task running.
func (c *Client) Start(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return post[api.Renewal](c, ctx, "/v1/tasks/"+url.PathEscape(id)+"/start", cl)
}

// Progress reports progress on a held task.
func (c *Client) Progress(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return post[api.Renewal](c, ctx, "/v1/tasks/"+url.PathEscape(id)+"/progress", cl)
}

// Settle ends held tasks; each gets its own verdict, in order.
func (c *Client) Settle(ctx context.Context, agentID string, list []api.Settlement) ([]api.SettleVerdict, error) {
	v, err := post[struct {
		Outcomes []api.SettleVerdict `json:"outcomes"`
	}](c, ctx, "/v1/leases/settle", map[string]any{"agent_id": agentID, "outcomes": list})
	if err == nil && len(v.Outcomes) != len(list) {
		err = fmt.Errorf("client: %d verdicts for %d settlements", len(v.Outcomes), len(list))
	}
	return v.Outcomes, err
}
