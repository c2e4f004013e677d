package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// Limits of a task's fields.
const (
	MaxNameBytes        = 256  // action, target, fleet, session
	MaxKeyBytes         = 512  // idempotency key
	MaxDescriptionBytes = 8192 // description
	maxRetries          = 1000
	minLease            = 100 * time.Millisecond
	maxLease            = 24 * time.Hour
	maxDelay            = 365 * 24 * time.Hour
)

// parseSpec checks a submitted task and makes it the ledger's.
func (n *core) parseSpec(s *api.TaskSpec, now int64) (*ledger.Spec, *api.Error) {
	spec := new(ledger.Spec)
	return spec, n.parseSpecInto(spec, s, now)
}

// parseSpecInto is parseSpec where the caller has room, in a command.
func (n *core) parseSpecInto(spec *ledger.Spec, s *api.TaskSpec, now int64) *api.Error {
	*spec = ledger.Spec{Fleet: s.FleetID, Action: s.Action, Target: s.Target, Description: s.Description,
		Input: s.Input, Context: s.Context, Key: s.IdempotencyKey, Reversible: s.Reversible, Rollback: s.Rollback,
		Verify: s.Verify, Approval: s.Approval, Compliance: s.Compliance, Session: s.SessionID}
	if spec.Fleet == "" {
		spec.Fleet = "default"
	}
	for _, f := range []struct {
		name, value string
		limit       int
		required    bool
	}{{"action", s.Action, MaxNameBytes, true}, {"target", s.Target, MaxNameBytes, true}, {"fleet_id", spec.Fleet, MaxNameBytes, true},
		{"session_id", s.SessionID, MaxNameBytes, false}, {"idempotency_key", s.IdempotencyKey, MaxKeyBytes, false},
		{"description", s.Description, MaxDescriptionBytes, false}} {
		if f.required && f.value == "" {
			return errInvalid(f.name + " is missing")
		}
		if len(f.value) > f.limit {
			return errInvalid(fmt.Sprintf("%s has %d bytes, at most %d", f.name, len(f.value), f.limit))
		}
	}
	if e := checkNames("fleet_id", spec.Fleet); e != nil {
		return e
	}
	if e := checkNames("session_id", s.SessionID); e != nil {
		return e
	}
	if e := checkCapability(s.Action, s.Target); e != nil {
		return e
	}
	var e *api.Error
	if spec.After, e = n.parseAfter(s.After); e != nil {
		return e
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{"input", s.Input}, {"context", s.Context}, {"rollback", s.Rollback}, {"verify", s.Verify}, {"approval", s.Approval}, {"compliance", s.Compliance}, {"snapshot", s.Snapshot}} {
		if err := n.checkJSON(f.name, f.b); err != nil {
			return err
		}
	}
	return parseRest(s, spec, now)
}

// checkCapability checks an action and its target.
func checkCapability(action, target string) *api.Error {
	switch {
	case action == "" || target == "":
		return errInvalid("action or target is missing")
	case max(len(action), len(target)) > MaxNameBytes:
		return errInvalid(fmt.Sprintf("action and target have at most %d bytes each", MaxNameBytes))
	case strings.ContainsAny(action, ":* \t\n"):
		return errInvalid(fmt.Sprintf("action %q: no colon, star or space", action))
	case strings.ContainsAny(target, "*\t\n"):
		return errInvalid(fmt.Sprintf("target %q: no star, tab or line break", target))
	}
	return checkNames("action or target", action, target)
}

// checkNames refuses names that hold a secret. They are matched, listed and
// gossiped, and stand in the audit log for ever, where nothing may be erased.
func checkNames(field string, names ...string) *api.Error {
	if !slices.ContainsFunc(names, ledger.SecretName) {
		return nil
	}
	return api.Errorf(422, 5, "secret_in_name", api.RetryNo, "%s looks like it holds a secret, and names stand in the audit log", field). // not shown again
																		WithHint("pass the secret in input, of which the audit log has a digest only, or let the agent hold it")
}

// parseRest is the second half of parseSpec: words, times and references.
func parseRest(s *api.TaskSpec, spec *ledger.Spec, now int64) *api.Error {
	var err error
	spec.Priority, spec.Guarantee = ledger.PriorityNormal, ledger.AtLeastOnce
	if s.Priority != "" {
		if spec.Priority, err = ledger.ParsePriority(s.Priority); err != nil {
			return errInvalid(fmt.Sprintf("priority %q: want low, normal, high or critical", s.Priority))
		}
	}
	if s.Guarantee != "" {
		if spec.Guarantee, err = ledger.ParseGuarantee(s.Guarantee); err != nil {
			return errInvalid(fmt.Sprintf("guarantee %q: want best_effort, at_least_once or exactly_once", s.Guarantee))
		}
	}
	if s.ParentTaskID != "" {
		if spec.Parent, err = ledger.ParseTaskID(s.ParentTaskID); err != nil {
			return errInvalid(fmt.Sprintf("parent_task_id %q is not a task ID", s.ParentTaskID))
		}
	}
	spec.LeaseMillis = 60_000
	if s.LeaseSeconds != 0 {
		if s.LeaseSeconds < minLease.Seconds() || s.LeaseSeconds > maxLease.Seconds() {
			return errInvalid(fmt.Sprintf("lease_seconds %g is not within %g to %g", s.LeaseSeconds, minLease.Seconds(), maxLease.Seconds()))
		}
		spec.LeaseMillis = int64(s.LeaseSeconds * 1000)
	}
	if s.Deadline != nil {
		if spec.DeadlineMillis = s.Deadline.UnixMilli(); spec.DeadlineMillis <= now {
			return errInvalid(fmt.Sprintf("deadline %s has passed", s.Deadline.Format(time.RFC3339)))
		}
	}
	if s.NotBefore != nil {
		spec.NotBeforeMillis = max(s.NotBefore.UnixMilli(), 0)
		if spec.NotBeforeMillis > now+maxDelay.Milliseconds() {
			return errInvalid("not_before is more than a year ahead")
		}
		if spec.DeadlineMillis != 0 && spec.NotBeforeMillis >= spec.DeadlineMillis {
			return errInvalid("not_before is not before the deadline")
		}
	}
	return parseRetry(s.RetryPolicy, spec)
}

func parseRetry(p *api.RetryPolicy, spec *ledger.Spec) *api.Error {
	spec.Retry = ledger.RetryPolicy{MaxRetries: 3, Backoff: ledger.BackoffExponential, InitialDelayMillis: 1000, MaxDelayMillis: 60_000}
	if p == nil {
		return nil
	}
	if p.MaxRetries != nil {
		if *p.MaxRetries < 0 || *p.MaxRetries > maxRetries {
			return errInvalid(fmt.Sprintf("max_retries %d is not within 0 to %d", *p.MaxRetries, maxRetries))
		}
		spec.Retry.MaxRetries = uint32(*p.MaxRetries)
	}
	if p.Backoff != "" {
		var err error
		if spec.Retry.Backoff, err = ledger.ParseBackoff(p.Backoff); err != nil {
			return errInvalid(fmt.Sprintf("backoff %q: want exponential, linear or fixed", p.Backoff))
		}
	}
	for _, d := range []struct {
		name string
		in   float64
		out  *int64
	}{{"initial_delay_seconds", p.InitialDelaySeconds, &spec.Retry.InitialDelayMillis}, {"max_delay_seconds", p.MaxDelaySeconds, &spec.Retry.MaxDelayMillis}} {
		if d.in < 0 || d.in > maxDelay.Seconds() {
			return errInvalid(fmt.Sprintf("%s %g is not within 0 and a year", d.name, d.in))
		}
		if d.in > 0 {
			*d.out = int64(d.in * 1000)
		}
	}
	spec.Retry.MaxDelayMillis = max(spec.Retry.MaxDelayMillis, spec.Retry.InitialDelayMillis)
	return nil
}
