package stream

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// problem is nil for nil.
func problem(e *api.Error) *pb.Problem {
	if e == nil {
		return nil
	}
	return &pb.Problem{Status: int32(e.Status), Layer: int32(e.Layer), Code: e.Code, Retry: string(e.Retry), Detail: e.Detail, Hint: e.Hint,
		TaskId: e.Task, State: e.State, RetryAfterMs: int64(e.After)}
}

func helloOf(h *pb.Hello) api.WorkHello {
	return api.WorkHello{AgentID: h.AgentId, Manifest: h.Manifest, Digest: h.ManifestDigest, Resume: h.ResumeToken, Held: heldOf(h.Held)}
}

func heldOf(list []*pb.Claim) []api.Held {
	out := make([]api.Held, len(list))
	for i, c := range list {
		out[i] = api.Held{TaskID: c.TaskId, Epoch: c.Epoch}
	}
	return out
}

func revokedOf(list []api.SessionEvent) []*pb.Revoked {
	out := make([]*pb.Revoked, len(list))
	for i, ev := range list {
		out[i] = &pb.Revoked{TaskId: ev.TaskID, Epoch: ev.Epoch, Reason: ev.Reason}
	}
	return out
}

// tasksOf makes messages of leases, in one allocation.
func tasksOf(list []api.Lease) []*pb.Task {
	arena := make([]pb.Task, len(list))
	out := make([]*pb.Task, len(list))
	for i := range list {
		l, t := &list[i], &arena[i]
		t.TaskId, t.Epoch, t.FleetId, t.Action, t.Target, t.Description = l.TaskID, l.Epoch, l.FleetID, l.Action, l.Target, l.Description
		t.Input, t.Context, t.Priority, t.Guarantee, t.Attempt = l.Input, l.Context, l.Priority, l.Guarantee, int32(l.Attempt)
		t.LeaseSeconds, t.SessionId, t.ParentTaskId = l.LeaseSeconds, l.SessionID, l.ParentTaskID
		t.IdempotencyKey = l.IdempotencyKey
		if l.Deadline != nil {
			t.Deadline = timestamppb.New(*l.Deadline)
		}
		if c := l.Checkpoint; c != nil {
			t.Checkpoint = &pb.Checkpoint{Version: c.Version, State: c.State, AgentId: c.AgentID, Epoch: c.Epoch}
			if c.SavedAt != nil {
				t.Checkpoint.SavedAt = timestamppb.New(*c.SavedAt)
			}
		}
		out[i] = t
	}
	return out
}

func timeOf(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	v := t.AsTime()
	return &v
}

func specOf(t *pb.TaskSpec) api.TaskSpec {
	s := api.TaskSpec{Action: t.Action, Target: t.Target, Input: t.Input, IdempotencyKey: t.IdempotencyKey, Priority: t.Priority,
		Guarantee: t.Guarantee, LeaseSeconds: t.LeaseSeconds, FleetID: t.FleetId, Description: t.Description, Context: t.Context,
		Deadline: timeOf(t.Deadline), NotBefore: timeOf(t.NotBefore), After: t.After, Reversible: t.Reversible, Rollback: t.Rollback,
		Verify: t.Verify, Approval: t.Approval, Compliance: t.Compliance, SessionID: t.SessionId, ParentTaskID: t.ParentTaskId,
		Snapshot: t.Snapshot, OnDependencyFailure: t.OnDependencyFailure}
	if r := t.RetryPolicy; r != nil {
		s.RetryPolicy = &api.RetryPolicy{Backoff: r.Backoff, InitialDelaySeconds: r.InitialDelaySeconds, MaxDelaySeconds: r.MaxDelaySeconds}
		if r.MaxRetries != nil {
			n := int(*r.MaxRetries)
			s.RetryPolicy.MaxRetries = &n
		}
	}
	return s
}
