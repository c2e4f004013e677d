package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// hookRetries is how often a verify or rollback task is tried again unless it
// says otherwise.
const hookRetries = 10

// termFields are the fields whose content is the cluster's business.
type termFields struct {
	verify, rollback api.Hook
	approval         api.Approval
	compliance       api.Compliance
}

// noTermFields are a plain task's, which has none: most tasks are plain, and
// decoding nothing into fields of their own was a fifth of a lifecycle's
// allocations. Never written.
var noTermFields termFields

func parseTermFields(s *api.TaskSpec) (*termFields, *api.Error) {
	if len(s.Verify)+len(s.Rollback)+len(s.Approval)+len(s.Compliance) == 0 {
		return &noTermFields, nil
	}
	t := new(termFields)
	for _, f := range []struct {
		name string
		raw  json.RawMessage
		into any
	}{{"verify", s.Verify, &t.verify}, {"rollback", s.Rollback, &t.rollback}, {"approval", s.Approval, &t.approval}, {"compliance", s.Compliance, &t.compliance}} {
		if e := strictField(f.name, f.raw, f.into); e != nil {
			return nil, e
		}
	}
	return t, nil
}

// parseTerms reads what a task asks beyond being run. has is false when that
// is nothing: the task is a plain one.
func (n *core) parseTerms(s *api.TaskSpec, spec *ledger.Spec) (m ledger.Terms, has bool, e *api.Error) {
	f, e := parseTermFields(s)
	if e != nil {
		return m, false, e
	}
	if m.Verify, e = n.hook("verify", s.Verify, f.verify, s.Target); e != nil {
		return m, false, e
	}
	if m.Rollback, e = n.hook("rollback", s.Rollback, f.rollback, s.Target); e != nil {
		return m, false, e
	}
	if e := parseRollback(&m, f.rollback, spec); e != nil {
		return m, false, e
	}
	if e := parseApproval(&m, f.approval, len(s.Approval) > 0); e != nil {
		return m, false, e
	}
	m.Regulations, m.Classification = f.compliance.Regulations, f.compliance.Classification
	if len(m.Regulations) > ledger.MaxRegulations {
		return m, false, errTerms("compliance names %d regulations, at most %d", len(m.Regulations), ledger.MaxRegulations)
	}
	if e := checkNames("data_classification", m.Classification); e != nil {
		return m, false, e
	}
	if e := checkNames("a regulation", m.Regulations...); e != nil {
		return m, false, e
	}
	switch s.OnDependencyFailure {
	case "", "fail":
	case "skip":
		m.SkipDependents = true
	default:
		return m, false, errTerms("on_dependency_failure %q: want fail or skip", s.OnDependencyFailure)
	}
	if len(s.Snapshot) > ledger.MaxSnapshotBytes {
		return m, false, api.Errorf(413, 2, "payload_too_large", api.RetryNo, "snapshot has %d bytes, at most %d", len(s.Snapshot), ledger.MaxSnapshotBytes).
			WithHint("store it elsewhere and attach a reference")
	}
	m.Snapshot = s.Snapshot
	if spec.Guarantee == ledger.ExactlyOnce {
		if e := onceTerms(spec, &m); e != nil {
			return m, false, e
		}
	}
	has = spec.Guarantee == ledger.ExactlyOnce || len(s.After)+len(s.Verify)+len(s.Rollback)+len(s.Approval)+len(s.Compliance)+len(s.Snapshot) > 0 || m.SkipDependents
	return m, has, nil
}

// onceTerms checks what exactly_once needs.
func onceTerms(spec *ledger.Spec, m *ledger.Terms) *api.Error {
	switch {
	case spec.Key == "":
		return api.Errorf(422, 7, "idempotency_key_missing", api.RetryNo, "exactly_once needs an idempotency_key").
			WithHint("name the effect, not the attempt: the same effect has the same key")
	case !m.Verify.Declared() && !m.Rollback.Declared():
		return api.Errorf(422, 7, "verify_or_rollback_missing", api.RetryNo, "exactly_once needs verify or rollback: when the agent disappears, something must tell what happened, or undo it").
			WithHint(`for example "verify":{"action":"check","target":%q}`, spec.Target)
	}
	return nil
}

func errTerms(format string, args ...any) *api.Error {
	return api.Errorf(422, 7, "invalid_terms", api.RetryNo, format, args...)
}

// strictField decodes a field whose content is the cluster's business.
func strictField(name string, raw json.RawMessage, into any) *api.Error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return errTerms("%s: %v", name, err).WithHint("GET /openapi.json has its fields")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errTerms("%s: something follows it", name)
	}
	return nil
}

func (n *core) hook(name string, raw json.RawMessage, h api.Hook, target string) (out ledger.Hook, e *api.Error) {
	if len(raw) == 0 || string(raw) == "null" {
		return out, nil
	}
	out = ledger.Hook{Action: h.Action, Target: h.Target, Input: h.Input, MaxRetries: hookRetries, LeaseMillis: int64(h.LeaseSeconds * 1000)}
	if out.Target == "" {
		out.Target = target
	}
	if h.MaxRetries != nil {
		if *h.MaxRetries < 0 || *h.MaxRetries > maxRetries {
			return out, errTerms("%s: max_retries %d is not within 0 to %d", name, *h.MaxRetries, maxRetries)
		}
		out.MaxRetries = uint32(*h.MaxRetries)
	}
	if e := checkNames(name, out.Action, out.Target); e != nil {
		return out, e
	}
	if e := checkCapability(out.Action, out.Target); e != nil {
		return out, errTerms("%s: %s", name, e.Detail)
	}
	if h.LeaseSeconds != 0 && (h.LeaseSeconds < minLease.Seconds() || h.LeaseSeconds > maxLease.Seconds()) {
		return out, errTerms("%s: lease_seconds %g is not within %g to %g", name, h.LeaseSeconds, minLease.Seconds(), maxLease.Seconds())
	}
	return out, n.checkJSON(name+".input", h.Input)
}

// parseRollback reads when the compensation runs by itself: by default only if
// nothing else can tell.
func parseRollback(m *ledger.Terms, h api.Hook, spec *ledger.Spec) *api.Error {
	if m.Verify.Declared() && !m.Rollback.Declared() && (h.OnUnknown != nil || h.OnFailure != "") {
		return errTerms("on_unknown and on_failure need a rollback")
	}
	if !m.Rollback.Declared() {
		return nil
	}
	m.OnUnknown = !m.Verify.Declared()
	if h.OnUnknown != nil {
		m.OnUnknown = *h.OnUnknown
	}
	switch h.OnFailure {
	case "", "nothing":
	case "task":
		m.OnFailure = true
	case "session":
		if m.OnFailureAll = true; spec.Session == "" {
			return errTerms("rollback: on_failure session needs a session_id")
		}
	default:
		return errTerms("rollback: on_failure %q: want nothing, task or session", h.OnFailure)
	}
	return nil
}

func parseApproval(m *ledger.Terms, a api.Approval, given bool) *api.Error {
	if !given {
		return nil
	}
	m.Approvers, m.Allowed = uint32(max(a.Approvers, 0)), a.Allowed
	switch {
	case a.Approvers < 0 || a.Approvers > ledger.MaxApprovers:
		return errTerms("approval: approvers %d is not within 0 to %d", a.Approvers, ledger.MaxApprovers)
	case a.Approvers == 0:
		m.Approvers = 1
	}
	if len(a.Allowed) > ledger.MaxAllowed {
		return errTerms("approval: %d people may approve, at most %d", len(a.Allowed), ledger.MaxAllowed)
	}
	if len(a.Allowed) > 0 && int(m.Approvers) > len(a.Allowed) {
		return errTerms("approval: %d approvals are asked of %d people", m.Approvers, len(a.Allowed))
	}
	return nil
}

// parseAfter reads the tasks that another one waits for.
func (n *core) parseAfter(after []string) ([]ledger.TaskID, *api.Error) {
	if len(after) > ledger.MaxAfter {
		return nil, errInvalid(fmt.Sprintf("after names %d tasks, at most %d", len(after), ledger.MaxAfter))
	}
	var ids []ledger.TaskID
	for _, s := range after {
		id, err := n.taskID(s)
		if err != nil {
			e := asAPIError(err)
			e.Detail = "after: " + e.Detail
			return nil, e
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// dependable refuses what can't be waited for, by name. The shard of the
// dependent sees its own tasks only, so each is read where it lives.
func (n *core) dependable(ctx context.Context, after []ledger.TaskID) *api.Error {
	for _, id := range after {
		if _, err := n.readTask(ctx, id); err != nil {
			e := asAPIError(err)
			if e.Code == "task_not_found" {
				return txnError(ledger.Outcome{Code: ledger.DependencyMissing, Detail: "after: there is no task " + id.String()}, id)
			}
			return e
		}
	}
	return nil
}
