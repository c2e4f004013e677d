package ledger

import "crypto/sha256"

// Encoding of a Spec, version 1 of every command and row that contains one:
//
//	priority u8, guarantee u8, backoff u8, flags u8 (1 reversible, 2 has a parent)
//	max_retries, initial_delay_ms, max_delay_ms, deadline_ms, not_before_ms, lease_ms  (numbers; all but the first signed)
//	parent 16 bytes, if flagged; count of after, and 16 bytes each
//	fleet, action, target, key, submitted_by, session, description  (text)
//	input, context, rollback, verify, approval, compliance  (byte strings)
const (
	specReversible = 1 << iota
	specHasParent
	specFlagsEnd
)

// Append writes the canonical encoding of the spec.
func (s *Spec) Append(dst []byte) []byte { return s.append(dst, s.Key, s.SubmittedBy) }

func (s *Spec) append(dst []byte, key, by string) []byte {
	var flags uint8
	if s.Reversible {
		flags |= specReversible
	}
	if !s.Parent.IsZero() {
		flags |= specHasParent
	}
	dst = append(dst, uint8(s.Priority), uint8(s.Guarantee), uint8(s.Retry.Backoff), flags)
	dst = appendUint(dst, uint64(s.Retry.MaxRetries))
	dst = appendInt(dst, s.Retry.InitialDelayMillis)
	dst = appendInt(dst, s.Retry.MaxDelayMillis)
	dst = appendInt(dst, s.DeadlineMillis)
	dst = appendInt(dst, s.NotBeforeMillis)
	dst = appendInt(dst, s.LeaseMillis)
	if !s.Parent.IsZero() {
		dst = append(dst, s.Parent[:]...)
	}
	dst = appendUint(dst, uint64(len(s.After)))
	for i := range s.After {
		dst = append(dst, s.After[i][:]...)
	}
	dst = appendString(dst, s.Fleet)
	dst = appendString(dst, s.Action)
	dst = appendString(dst, s.Target)
	dst = appendString(dst, key)
	dst = appendString(dst, by)
	dst = appendString(dst, s.Session)
	dst = appendString(dst, s.Description)
	dst = appendBytes(dst, s.Input)
	dst = appendBytes(dst, s.Context)
	dst = appendBytes(dst, s.Rollback)
	dst = appendBytes(dst, s.Verify)
	dst = appendBytes(dst, s.Approval)
	return appendBytes(dst, s.Compliance)
}

// RequestHash says whether two submissions ask for the same: SHA-256 over the
// canonical encoding without the key and the submitter.
func RequestHash(s *Spec) [32]byte {
	var buf [512]byte
	return sha256.Sum256(s.append(buf[:0], "", ""))
}

// specView is a decoded spec whose fields still point into the encoding.
type specView struct {
	priority                         Priority
	guarantee                        Guarantee
	flags                            uint8
	retry                            RetryPolicy
	deadline, notBefore, lease       int64
	parent                           TaskID
	after                            []byte // 16 bytes each
	fleet, action, target            []byte
	key, by, session, description    []byte
	input, context, rollback, verify []byte
	approval, compliance             []byte
}

func (v *specView) read(r *reader) {
	v.priority, v.guarantee, v.retry.Backoff, v.flags = Priority(r.u8()), Guarantee(r.u8()), Backoff(r.u8()), r.u8()
	if v.flags >= specFlagsEnd {
		r.fail("unknown flags in a spec")
	}
	v.retry.MaxRetries = r.uint32()
	v.retry.InitialDelayMillis, v.retry.MaxDelayMillis = r.int(), r.int()
	v.deadline, v.notBefore, v.lease = r.int(), r.int(), r.int()
	if v.parent = (TaskID{}); v.flags&specHasParent != 0 {
		if r.fixed(v.parent[:]); v.parent.IsZero() {
			r.fail("empty parent")
		}
	}
	n := r.count(len(TaskID{})) * len(TaskID{})
	v.after = r.b[:n:n]
	r.b = r.b[n:]
	v.fleet, v.action, v.target = r.view(), r.view(), r.view()
	v.key, v.by, v.session, v.description = r.view(), r.view(), r.view(), r.view()
	v.input, v.context, v.rollback, v.verify = r.view(), r.view(), r.view(), r.view()
	v.approval, v.compliance = r.view(), r.view()
}

// spec copies the text out; byte strings are copied unless alias.
func (v *specView) spec(alias bool) Spec {
	raw := func(b []byte) []byte {
		switch {
		case len(b) == 0:
			return nil
		case alias:
			return b
		}
		return append([]byte(nil), b...)
	}
	s := Spec{Fleet: string(v.fleet), Action: string(v.action), Target: string(v.target), Description: string(v.description),
		Input: raw(v.input), Context: raw(v.context), Priority: v.priority, Guarantee: v.guarantee, Key: string(v.key),
		DeadlineMillis: v.deadline, NotBeforeMillis: v.notBefore, LeaseMillis: v.lease, Retry: v.retry,
		Reversible: v.flags&specReversible != 0, Rollback: raw(v.rollback), Verify: raw(v.verify), Approval: raw(v.approval),
		Compliance: raw(v.compliance), Session: string(v.session), Parent: v.parent, SubmittedBy: string(v.by)}
	if len(v.after) > 0 {
		s.After = make([]TaskID, len(v.after)/len(TaskID{}))
		for i := range s.After {
			copy(s.After[i][:], v.after[i*len(TaskID{}):])
		}
	}
	return s
}

// decodeSpec reads the encoding of a spec that fills b; byte strings point
// into b.
func decodeSpec(b []byte) (Spec, error) {
	var v specView
	r := newReader(b)
	v.read(&r)
	if err := r.end(); err != nil {
		return Spec{}, err
	}
	return v.spec(true), nil
}
