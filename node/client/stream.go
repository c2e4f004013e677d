package client

import (
	"errors"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// maxMessageBytes is what a node sends in one message at most.
const maxMessageBytes = 16 << 20

// lane is a connection of its own for one stream, so that no other stream's
// backlog is ahead of its messages.
type lane struct {
	transport *http.Transport
	rpc       func(base string) pb.WorkClient
}

func (c *Client) lane() *lane {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: p, DisableCompression: true,
		TLSClientConfig: c.tls.Clone(), TLSHandshakeTimeout: shakeWithin, // a copy each: a transport changes it
		DialContext: (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		HTTP2: &http.HTTP2Config{MaxReadFrameSize: 256 << 10, MaxReceiveBufferPerStream: 4<<20 - 1, SendPingTimeout: 5 * time.Second,
			PingTimeout: 5 * time.Second, WriteByteTimeout: 20 * time.Second}}
	h := &http.Client{Transport: t}
	return &lane{transport: t, rpc: func(base string) pb.WorkClient {
		return pb.NewWorkClient(h, base, connect.WithReadMaxBytes(maxMessageBytes), connect.WithAcceptCompression("gzip", nil, nil))
	}}
}

func (l *lane) close() { l.transport.CloseIdleConnections() }

// head sets what names the caller, and asks for the nodes when that is due.
func (c *Client) head(h http.Header) {
	if c.actor != "" {
		h.Set("X-Quorate-Actor", c.actor)
	}
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
	c.book.ask(h)
}

// problemOf is the problem a stream ended with, or err itself.
func problemOf(err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if p, ok := v.(*pb.Problem); ok {
				return errorOf(p)
			}
		}
	}
	switch ce.Code() {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeUnimplemented, connect.CodeInvalidArgument:
		return api.Errorf(400, 2, "unexpected_answer", api.RetryNo, "%v", ce)
	}
	return err
}

func errorOf(p *pb.Problem) *api.Error {
	if p == nil {
		return nil
	}
	e := api.Errorf(int(p.Status), int(p.Layer), p.Code, api.Retry(p.Retry), "%s", p.Detail)
	e.Hint, e.Task, e.State, e.After = p.Hint, p.TaskId, p.State, int(p.RetryAfterMs)
	return e
}

func claimsOf(list []api.Held) []*pb.Claim {
	arena := make([]pb.Claim, len(list))
	out := make([]*pb.Claim, len(list))
	for i, h := range list {
		arena[i].TaskId, arena[i].Epoch = h.TaskID, h.Epoch
		out[i] = &arena[i]
	}
	return out
}

func leaseOf(t *pb.Task) api.Lease {
	l := api.Lease{TaskID: t.TaskId, Epoch: t.Epoch, FleetID: t.FleetId, Action: t.Action, Target: t.Target, Description: t.Description,
		Input: t.Input, Context: t.Context, Priority: t.Priority, Guarantee: t.Guarantee, Attempt: int(t.Attempt), LeaseSeconds: t.LeaseSeconds,
		IdempotencyKey: t.IdempotencyKey, SessionID: t.SessionId, ParentTaskID: t.ParentTaskId}
	if t.Deadline != nil {
		d := t.Deadline.AsTime()
		l.Deadline = &d
	}
	if c := t.Checkpoint; c != nil {
		l.Checkpoint = &api.Checkpoint{Version: c.Version, State: c.State, AgentID: c.AgentId, Epoch: c.Epoch}
		if c.SavedAt != nil {
			at := c.SavedAt.AsTime()
			l.Checkpoint.SavedAt = &at
		}
	}
	return l
}

func settlementsOf(list []api.Settlement) []*pb.Settlement {
	arena := make([]pb.Settlement, len(list))
	out := make([]*pb.Settlement, len(list))
	for i := range list {
		s, x := &list[i], &arena[i]
		x.TaskId, x.Epoch, x.Result, x.Error, x.NoRetry = s.TaskID, s.Epoch, s.Result, s.Error, s.NoRetry
		x.Failed, x.InDoubt = s.Verdict != "complete", s.Verdict == "unknown"
		out[i] = x
	}
	return out
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func specsOf(list []api.TaskSpec) []*pb.TaskSpec {
	arena := make([]pb.TaskSpec, len(list))
	out := make([]*pb.TaskSpec, len(list))
	for i := range list {
		s, t := &list[i], &arena[i]
		t.Action, t.Target, t.Input, t.IdempotencyKey, t.Priority, t.Guarantee = s.Action, s.Target, s.Input, s.IdempotencyKey, s.Priority, s.Guarantee
		t.LeaseSeconds, t.FleetId, t.Description, t.Context = s.LeaseSeconds, s.FleetID, s.Description, s.Context
		t.Deadline, t.NotBefore, t.After, t.Reversible = stamp(s.Deadline), stamp(s.NotBefore), s.After, s.Reversible
		t.Rollback, t.Verify, t.Approval, t.Compliance = s.Rollback, s.Verify, s.Approval, s.Compliance
		t.SessionId, t.ParentTaskId = s.SessionID, s.ParentTaskID
		t.Snapshot, t.OnDependencyFailure = s.Snapshot, s.OnDependencyFailure
		if r := s.RetryPolicy; r != nil {
			t.RetryPolicy = &pb.RetryPolicy{Backoff: r.Backoff, InitialDelaySeconds: r.InitialDelaySeconds, MaxDelaySeconds: r.MaxDelaySeconds}
			if r.MaxRetries != nil {
				n := int32(*r.MaxRetries)
				t.RetryPolicy.MaxRetries = &n
			}
		}
		out[i] = t
	}
	return out
}
