package web

import (
	"bytes"
	"context"
	"net/http"

	"github.com/quorate/quorate/node/api"
)

type actionsAnswer struct {
	Actions []api.ActionVerdict `json:"actions"`
}

// transactions is the part of the table that is about transactions.
func (s *server) transactions() []operation {
	return []operation{
		{"POST", "/v1/actions", "declare_action", "Declare an intent, or an array of them; the agent that declares it performs it. One: 201 go, 200 done before (Idempotent-Replayed) or go again, 202 wait for approval, 409 in progress elsewhere (Retry-After) or in doubt. Many: 200 with a verdict each.",
			api.ActionRequest{}, api.ActionVerdict{}, nil, many, (*server).declare},
		{"POST", "/v1/tasks/{id}/approve", "approve", "Consent to a task that awaits approval.", api.Judgement{}, api.Task{}, nil, one, judgeOp(Backend.Approve)},
		{"POST", "/v1/tasks/{id}/reject", "reject", "End a task that awaits approval.", api.Judgement{}, api.Task{}, nil, one, judgeOp(Backend.Reject)},
		{"POST", "/v1/tasks/{id}/resolve", "resolve", "Settle a task in doubt, or one whose rollback failed.", api.Resolution{}, api.Task{}, nil, one, (*server).resolve},
		{"POST", "/v1/tasks/{id}/rollback", "rollback", "Have a task's effect undone by the rollback it declared.", reasonBody{}, api.Task{}, nil, one, (*server).rollback},
		{"POST", "/v1/sessions/{id}/rollback", "rollback_session", "Undo the steps of a session, the last one first; answers the task that does it.", api.SessionRollback{}, api.Task{}, nil, one, (*server).rollbackSession},
		{"POST", "/v1/tasks/{id}/checkpoint", "save_checkpoint", "Save progress on a held task for whoever holds it next.", api.SaveRequest{}, api.Task{}, nil, one, saveOp(false)},
		{"POST", "/v1/tasks/{id}/snapshot", "save_snapshot", "Attach the target's state before the effect to a held task.", api.SaveRequest{}, api.Task{}, nil, one, saveOp(true)},
	}
}

func (s *server) declare(w http.ResponseWriter, r *http.Request) error {
	b, err := body(r)
	if err != nil {
		return err
	}
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		var list []api.ActionRequest
		if err := decode(b, &list); err != nil {
			return err
		}
		if len(list) > api.MaxBatch {
			return errBatch(len(list), "actions").WithHint("send several requests")
		}
		v, err := s.b.Declare(r.Context(), list, actor(r))
		return answer(s, w, actionsAnswer{v}, err)
	}
	if limit := s.oneLimit(); int64(len(b)) > limit {
		return errTooLarge("the body", limit)
	}
	in := make([]api.ActionRequest, 1)
	if err := decode(b, &in[0]); err != nil {
		return err
	}
	out, err := s.b.Declare(r.Context(), in, actor(r))
	if err != nil {
		return err
	}
	v := out[0]
	if v.Error != nil {
		return v.Error
	}
	status := http.StatusOK
	switch {
	case v.Decision == api.DecisionWait:
		status = http.StatusAccepted
	case v.Decision == api.DecisionGo && !v.Replayed:
		status = http.StatusCreated
	}
	if v.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	w.Header().Set("Location", "/v1/tasks/"+v.TaskID)
	s.write(w, status, v)
	return nil
}

// judgeOp renders approve and reject.
func judgeOp(op func(Backend, context.Context, string, api.Judgement) (api.Task, error)) func(*server, http.ResponseWriter, *http.Request) error {
	return func(s *server, w http.ResponseWriter, r *http.Request) error {
		in, err := strict[api.Judgement](r)
		if err != nil {
			return err
		}
		if in.By == "" {
			in.By = actor(r)
		}
		t, err := op(s.b, r.Context(), r.PathValue("id"), in)
		return answer(s, w, t, err)
	}
}

func (s *server) resolve(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.Resolution](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	t, err := s.b.Resolve(r.Context(), r.PathValue("id"), in)
	return answer(s, w, t, err)
}

func (s *server) rollback(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[reasonBody](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	t, err := s.b.Rollback(r.Context(), r.PathValue("id"), in.By, in.Reason)
	return answer(s, w, t, err)
}

func (s *server) rollbackSession(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.SessionRollback](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	t, err := s.b.RollbackSession(r.Context(), r.PathValue("id"), in)
	return answer(s, w, t, err)
}

// saveOp renders checkpoint and snapshot.
func saveOp(snapshot bool) func(*server, http.ResponseWriter, *http.Request) error {
	return func(s *server, w http.ResponseWriter, r *http.Request) error {
		in, err := strict[api.SaveRequest](r)
		if err != nil {
			return err
		}
		t, err := s.b.Save(r.Context(), r.PathValue("id"), in, snapshot)
		return answer(s, w, t, err)
	}
}
