package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Client speaks to a cluster. It is safe for concurrent use.
type Client struct {
	book     *book
	http     *http.Client
	tls      *tls.Config
	actor    string
	token    string
	patience time.Duration
}

// Config of a Client. Zero fields take the default.
type Config struct {
	// URLs of nodes, tried in order; default http://127.0.0.1:7700. They tell the
	// addresses of the cluster's other nodes with their answers: when one is lost,
	// all that the client does goes on at another. What was given stays in use,
	// told or not; what is told but not reached is left out for a while.
	URLs []string
	// OnlyURLs has the client learn no nodes: for a proxy that is not to be gone
	// around.
	OnlyURLs bool
	// TLS is for https:// URLs: the CAs, a client's certificate, a ServerName.
	// Default the system's CAs. With it a URL without a scheme is https://. Nodes
	// that are learnt are spoken to as the one that told them is; without a
	// ServerName their certificates are for the addresses they listen on.
	TLS   *tls.Config
	Token string // bearer token; default none
	Actor string // who acts, for the ledger; default the remote address
	// MaxConns bounds the idle connections kept to each node; default 256.
	MaxConns int
	// Patience is how long a call is repeated, counted from its first failure;
	// default: until its context ends.
	Patience time.Duration
}

// New makes a client.
func New(cfg Config) (*Client, error) {
	if len(cfg.URLs) == 0 {
		cfg.URLs = []string{"http://127.0.0.1:7700"}
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 256
	}
	c := &Client{actor: cfg.Actor, token: cfg.Token, patience: cfg.Patience}
	scheme := "http://"
	if cfg.TLS != nil {
		c.tls, scheme = cfg.TLS.Clone(), "https://"
		c.tls.NextProtos = nil // a transport says itself which it speaks
	}
	var urls []string
	for _, u := range cfg.URLs {
		if !strings.Contains(u, "://") {
			u = scheme + u
		}
		p, err := url.Parse(u)
		if err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return nil, fmt.Errorf("client: %q is not a node's address: want http://host:port or https://host:port", u)
		}
		urls = append(urls, strings.TrimSuffix(u, "/"))
	}
	c.book = newBook(urls, cfg.OnlyURLs)
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost: cfg.MaxConns, IdleConnTimeout: time.Minute, DisableCompression: true,
		TLSClientConfig: c.tls.Clone(), TLSHandshakeTimeout: shakeWithin,
	}}
	return c, nil
}

// shakeWithin bounds a TLS handshake, as a dial is bounded.
const shakeWithin = 5 * time.Second

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func encode(in any) ([]byte, error) {
	if in == nil {
		return nil, nil
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return b, nil
}

// attempt asks one node once.
func (c *Client) attempt(ctx context.Context, within time.Duration, at *place, method, path string, body []byte, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("client: %s did not answer within %v", at.url, within))
	defer cancel()
	resp, err := c.send(ctx, at, method, path, body)
	if err != nil {
		return err
	}
	return read(resp, out)
}

func (c *Client) send(ctx context.Context, at *place, method, path string, body []byte) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, at.url+path, r)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	c.head(req.Header)
	return c.do(at, req)
}

// do sends a request to a node, and notes what it says of the others.
func (c *Client) do(at *place, req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err == nil {
		c.book.answered(at, resp.Header)
	}
	return resp, err
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
			e = strange(resp, b)
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

// strange is an answer that no node gives: a proxy's, when it did not reach
// one, or lost it and can't tell what came of the request.
func strange(resp *http.Response, b []byte) *api.Error {
	e := api.Errorf(resp.StatusCode, 2, "unexpected_answer", api.RetryNo, "%s: %.200s", resp.Status, b)
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		e.Retry = api.RetrySameKey
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		e.Retry = api.RetryLater
	default:
		return e
	}
	return e.WithHint("it is not a node's: look at the proxy in between")
}

func newKey() string { return "auto-" + rand.Text() }

// Submit declares one task. Without an idempotency key it gets one, so that
// repeating it after a lost answer is safe.
func (c *Client) Submit(ctx context.Context, spec api.TaskSpec) (api.SubmitVerdict, error) {
	if spec.IdempotencyKey == "" {
		spec.IdempotencyKey = newKey()
	}
	var v api.SubmitVerdict
	err := c.call(ctx, answerWithin, "POST", "/v1/tasks", spec, &v)
	return v, err
}

// SubmitBatch declares up to api.MaxBatch tasks; each gets its own verdict, in
// order. Those without an idempotency key get one, in specs itself.
func (c *Client) SubmitBatch(ctx context.Context, specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
	for i := range specs {
		if specs[i].IdempotencyKey == "" {
			specs[i].IdempotencyKey = newKey()
		}
	}
	return each(ctx, c, specs, func(specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
		v, err := post[struct {
			Tasks []api.SubmitVerdict `json:"tasks"`
		}](ctx, c, answerWithin, "/v1/tasks", specs)
		return v.Tasks, err
	}, func(v api.SubmitVerdict) *api.Error { return v.Error })
}

func get[T any](ctx context.Context, c *Client, within time.Duration, path string, q url.Values) (v T, err error) {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	err = c.call(ctx, within, "GET", path, nil, &v)
	return v, err
}

func post[T any](ctx context.Context, c *Client, within time.Duration, path string, in any) (v T, err error) {
	err = c.call(ctx, within, "POST", path, in, &v)
	return v, err
}

func onlyTrue(b bool) string {
	if b {
		return "true"
	}
	return ""
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

// reading adds how the read may be answered: under [api.WithStale], stale.
func reading(ctx context.Context, q url.Values) url.Values {
	if api.IsStale(ctx) {
		q.Set("consistency", api.Stale)
	}
	return q
}

// Task reads a task, waiting up to wait (at most a minute) for its end.
func (c *Client) Task(ctx context.Context, id string, wait time.Duration) (api.Task, error) {
	q := url.Values{}
	if wait = max(min(wait, time.Minute), 0); wait > 0 {
		q.Set("wait", wait.String())
	}
	return get[api.Task](ctx, c, answerWithin+wait, "/v1/tasks/"+url.PathEscape(id), reading(ctx, q))
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
	return get[api.TaskPage](ctx, c, answerWithin, "/v1/tasks", reading(ctx, query("state", strings.Join(f.States, ","), "fleet_id", f.FleetID, "action", f.Action,
		"target", f.Target, "agent_id", f.AgentID, "session_id", f.SessionID, "rollback_failed", onlyTrue(f.RollbackFailed), "limit", strconv.Itoa(f.Limit), "cursor", f.Cursor)))
}

// Why says where a task stands and what it waits for.
func (c *Client) Why(ctx context.Context, id string) (api.Why, error) {
	return get[api.Why](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/why", nil)
}

// Cancel ends a task.
func (c *Client) Cancel(ctx context.Context, id, reason string) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/cancel", map[string]string{"reason": reason})
}

// Retry makes an ended, not completed task ready again.
func (c *Client) Retry(ctx context.Context, id string) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/retry", struct{}{})
}

// Erase takes the payload out of an ended task.
func (c *Client) Erase(ctx context.Context, id, reason string) (api.Task, error) {
	return post[api.Task](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/erase", map[string]string{"reason": reason})
}

// Lease takes work for an agent.
func (c *Client) Lease(ctx context.Context, req api.LeaseRequest) (api.Leases, error) {
	return post[api.Leases](ctx, c, answerWithin+time.Duration(req.WaitSeconds*float64(time.Second)), "/v1/leases", req)
}

// Renew prolongs a lease; Start and Progress do so too.
func (c *Client) Renew(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return post[api.Renewal](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/renew", cl)
}

// Start marks a held task running.
func (c *Client) Start(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return post[api.Renewal](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/start", cl)
}

// Progress reports progress on a held task.
func (c *Client) Progress(ctx context.Context, id string, cl api.Claim) (api.Renewal, error) {
	return post[api.Renewal](ctx, c, answerWithin, "/v1/tasks/"+url.PathEscape(id)+"/progress", cl)
}

// Settle ends held tasks, up to api.MaxBatch; each gets its own verdict, in
// order.
func (c *Client) Settle(ctx context.Context, agentID string, list []api.Settlement) ([]api.SettleVerdict, error) {
	return each(ctx, c, list, func(list []api.Settlement) ([]api.SettleVerdict, error) {
		v, err := post[struct {
			Outcomes []api.SettleVerdict `json:"outcomes"`
		}](ctx, c, answerWithin, "/v1/leases/settle", map[string]any{"agent_id": agentID, "outcomes": list})
		return v.Outcomes, err
	}, func(v api.SettleVerdict) *api.Error { return v.Error })
}
