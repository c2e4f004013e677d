package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// Register enters an agent's manifest.
func (c *Client) Register(ctx context.Context, m api.Manifest) (api.Agent, error) {
	return post[api.Agent](ctx, c, answerWithin, "/v1/agents/register", m)
}

// Heartbeat says that an agent is alive.
func (c *Client) Heartbeat(ctx context.Context, id string, h api.Heartbeat) (api.HeartbeatAck, error) {
	return post[api.HeartbeatAck](ctx, c, answerWithin, "/v1/agents/"+url.PathEscape(id)+"/heartbeat", h)
}

// Agent reads an agent.
func (c *Client) Agent(ctx context.Context, id string) (api.Agent, error) {
	return get[api.Agent](ctx, c, answerWithin, "/v1/agents/"+url.PathEscape(id), reading(ctx, url.Values{}))
}

// Agents lists a page of agents.
func (c *Client) Agents(ctx context.Context, f api.AgentFilter) (api.AgentPage, error) {
	return get[api.AgentPage](ctx, c, answerWithin, "/v1/agents", reading(ctx, query("action", f.Action, "target", f.Target, "fleet_id", f.FleetID, "state", f.State,
		"limit", strconv.Itoa(f.Limit), "cursor", f.Cursor)))
}

// Deregister removes an agent.
func (c *Client) Deregister(ctx context.Context, id string) error {
	return c.call(ctx, answerWithin, "DELETE", "/v1/agents/"+url.PathEscape(id), nil, nil)
}

// sessionSilence is how long a session may say nothing: three of the node's
// pings.
const sessionSilence = 15 * time.Second

var errSilent = errors.New("client: the node went silent")

// Session keeps an agent connected to one node and hands its events to on,
// until ctx or the connection ends, which is always an error: the node's, when
// it ended the session. The caller connects again, perhaps to another node,
// with what it holds by then.
func (c *Client) Session(ctx context.Context, id string, held []api.Held, on func(api.SessionEvent)) error {
	body, err := encode(map[string]any{"held": held})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(sessionSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	at := c.book.here()
	err = c.session(ctx, at, id, body, func(ev api.SessionEvent) {
		silent.Reset(sessionSilence)
		on(ev)
	})
	if errors.Is(context.Cause(ctx), errSilent) {
		err = errSilent
	}
	if repeatable(err) && (err == errSilent || ctx.Err() == nil) {
		return c.book.pass(at, err)
	}
	return err
}

func (c *Client) session(ctx context.Context, at *place, id string, body []byte, on func(api.SessionEvent)) error {
	resp, err := c.send(ctx, at, "POST", "/v1/agents/"+url.PathEscape(id)+"/session", body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return read(resp, nil)
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var ev api.SessionEvent
		if err := lines.Decode(&ev); err != nil {
			return fmt.Errorf("client: session: %w", err)
		}
		if ev.Type == "end" && ev.Error != nil {
			return ev.Error
		}
		on(ev)
	}
}

func auditQuery(f api.AuditFilter) url.Values {
	q := query("agent_id", f.AgentID, "verb", f.Verb, "task_id", f.TaskID, "fleet_id", f.FleetID, "regulation_ref", f.RegulationRef,
		"guarantee_level", f.GuaranteeLevel, "session_id", f.SessionID, "action", f.Action, "target", f.Target, "limit", strconv.Itoa(f.Limit), "cursor", f.Cursor)
	if f.Shard >= 0 {
		q.Set("shard", strconv.Itoa(f.Shard))
	}
	if !f.From.IsZero() {
		q.Set("from", f.From.Format(time.RFC3339Nano))
	}
	if !f.To.IsZero() {
		q.Set("to", f.To.Format(time.RFC3339Nano))
	}
	return q
}

// Audit lists a page of records.
func (c *Client) Audit(ctx context.Context, f api.AuditFilter) (api.RecordPage, error) {
	return get[api.RecordPage](ctx, c, answerWithin, "/v1/audit", reading(ctx, auditQuery(f)))
}

// Export streams records with the bytes their hashes cover to fn, from one
// node.
func (c *Client) Export(ctx context.Context, f api.AuditFilter, fn func(api.Record) error) error {
	path := "/v1/audit/export"
	if q := auditQuery(f); len(q) > 0 {
		path += "?" + q.Encode()
	}
	resp, err := c.open(ctx, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(bufio.NewReaderSize(resp.Body, 64<<10))
	for {
		var r api.Record
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("client: export was cut off: %w", err)
		}
		if r.Seq == 0 { // the header, or a root between records
			continue
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}

// AuditExport streams the whole audit log up to the sizes given, as the node
// sends it; the caller closes it.
func (c *Client) AuditExport(ctx context.Context, sizes string) (io.ReadCloser, error) {
	resp, err := c.open(ctx, "/v1/audit/export?sizes="+url.QueryEscape(sizes))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// AuditText reads one of the small documents below /v1/audit: checkpoint,
// keys, proof?….
func (c *Client) AuditText(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.open(ctx, "/v1/audit/"+path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAuditText+1))
	if err == nil && len(b) > maxAuditText {
		err = fmt.Errorf("client: %s has over %d bytes", path, maxAuditText)
	}
	return b, err
}

// maxAuditText bounds a checkpoint with all its signatures, and a proof.
const maxAuditText = 1 << 20

// Backup streams one shard, in raftstore's snapshot format, from the node that
// leads it. The caller closes it and checks what it reads.
func (c *Client) Backup(ctx context.Context, shard uint32) (io.ReadCloser, error) {
	r := rounds{patience: c.patience}
	for {
		resp, err := c.open(ctx, fmt.Sprintf("/v1/backup/%d", shard))
		if err == nil {
			return resp.Body, nil
		}
		if !repeatable(err) || !r.again(ctx, err) {
			return nil, err
		}
	}
}

// open begins a stream at the first node that offers it.
func (c *Client) open(ctx context.Context, path string) (*http.Response, error) {
	var last error
	for range c.book.places() {
		at := c.book.here()
		resp, err := c.send(ctx, at, "GET", path, nil)
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		if err == nil {
			err = read(resp, nil)
		}
		if ctx.Err() == nil && repeatable(err) {
			err = c.book.pass(at, err)
		}
		if last = better(last, err); !repeatable(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, ended(ctx, last)
}

// LedgerHeads is where the answering node's chains end.
func (c *Client) LedgerHeads(ctx context.Context) ([]api.LedgerHead, error) {
	v, err := get[struct {
		Heads []api.LedgerHead `json:"heads"`
	}](ctx, c, answerWithin, "/v1/audit/heads", nil)
	return v.Heads, err
}

// VerifyLedger has the answering node recompute its chains.
func (c *Client) VerifyLedger(ctx context.Context) (api.LedgerVerification, error) {
	return get[api.LedgerVerification](ctx, c, verifyWithin, "/v1/audit/verify", nil)
}

// Cluster is the whole picture.
func (c *Client) Cluster(ctx context.Context) (api.Cluster, error) {
	return get[api.Cluster](ctx, c, answerWithin, "/v1/cluster", nil)
}

// Doctor is the layer-by-layer health report.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	return get[api.Doctor](ctx, c, answerWithin, "/v1/doctor", nil)
}

// Events hands audit records on as nodes apply them, from now on or after the
// event with the given ID ("start": from the beginning), until ctx ends or fn
// fails, whose error it returns. When its node goes away it goes on at the
// next; within a shard every record comes once and in order.
func (c *Client) Events(ctx context.Context, after string, fn func(api.Event) error) error {
	pause := rounds{patience: c.patience}
	for {
		at := c.book.here()
		last, err := c.events(ctx, at, after, fn)
		var stop stopped
		switch {
		case errors.As(err, &stop):
			return stop.error
		case ctx.Err() != nil:
			return ctx.Err()
		case !repeatable(err):
			return err
		}
		if last != after {
			after, pause = last, rounds{patience: c.patience}
		}
		if err = c.book.pass(at, err); !repeatable(err) {
			return err
		}
		if !pause.again(ctx, err) {
			return ended(ctx, err)
		}
	}
}

// stopped is what the caller's function said.
type stopped struct{ error }

// events reads one node's stream; it returns the ID to go on from.
func (c *Client) events(ctx context.Context, at *place, after string, fn func(api.Event) error) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(eventSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	path := "/v1/events"
	if after == "start" {
		path += "?from=start"
	}
	req, err := http.NewRequestWithContext(ctx, "GET", at.url+path, nil)
	if err != nil {
		return after, stopped{err}
	}
	c.head(req.Header)
	if after != "" && after != "start" {
		req.Header.Set("Last-Event-ID", after)
	}
	resp, err := c.do(at, req)
	if err != nil {
		return after, err
	}
	if resp.StatusCode != http.StatusOK {
		return after, read(resp, nil)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventBytes)
	var id, name string
	for lines.Scan() {
		silent.Reset(eventSilence)
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "":
			after = cmp.Or(id, after) // also of an event without data, which says where the stream begins
		case "event":
			name = value
		case "data":
			if name == "end" {
				e := &api.Error{}
				if err := json.Unmarshal([]byte(value), e); err != nil {
					return after, err
				}
				return after, e
			}
			ev := api.Event{ID: id}
			if err := json.Unmarshal([]byte(value), &ev.Record); err != nil {
				return after, stopped{fmt.Errorf("client: event %s: %w", id, err)}
			}
			if err := fn(ev); err != nil {
				return after, stopped{err}
			}
			after = id
		}
	}
	if err := lines.Err(); err != nil {
		return after, err
	}
	return after, io.ErrUnexpectedEOF
}

// eventSilence is three of the node's signs of life; maxEventBytes bounds a
// line.
const (
	eventSilence  = 45 * time.Second
	maxEventBytes = 1 << 20
)
