package ledger

import "crypto/sha256"

// RetryPolicy says how often and how soon a failed attempt is repeated.
type RetryPolicy struct {
	MaxRetries                         uint32 // attempts beyond the first
	Backoff                            Backoff
	InitialDelayMillis, MaxDelayMillis int64
}

// Spec is the immutable part of a task, as submitted. Byte fields are raw JSON
// that the ledger keeps and never reads.
type Spec struct {
	Fleet, Action, Target, Description     string
	Input, Context                         []byte
	Priority                               Priority
	Guarantee                              Guarantee
	Key                                    string // "": the task ID's text
	DeadlineMillis, NotBeforeMillis        int64  // 0: none
	After                                  []TaskID
	LeaseMillis                            int64
	Retry                                  RetryPolicy
	Reversible                             bool
	Rollback, Verify, Approval, Compliance []byte
	Session                                string
	Parent                                 TaskID
	SubmittedBy                            string
}

// Capability is "action:target".
func (s *Spec) Capability() string { return s.Action + ":" + s.Target }

// specVersion is the first byte of an encoded spec.
const specVersion = 1

func (s *Spec) append(b []byte) []byte {
	b = append(b, specVersion)
	b = putBytes(b, s.Key)
	b = putBytes(b, s.SubmittedBy)
	return s.appendRequest(b)
}

// appendRequest encodes what makes two submissions the same request: all but
// the key and who sent it.
func (s *Spec) appendRequest(b []byte) []byte {
	b = putBytes(b, s.Fleet)
	b = putBytes(b, s.Action)
	b = putBytes(b, s.Target)
	b = append(b, byte(s.Priority), byte(s.Guarantee))
	b = putInt(b, s.DeadlineMillis)
	b = putInt(b, s.NotBeforeMillis)
	b = putInt(b, s.LeaseMillis)
	b = putUint(b, uint64(s.Retry.MaxRetries))
	b = append(b, byte(s.Retry.Backoff))
	b = putInt(b, s.Retry.InitialDelayMillis)
	b = putInt(b, s.Retry.MaxDelayMillis)
	b = putBool(b, s.Reversible)
	b = append(b, s.Parent[:]...)
	b = putUint(b, uint64(len(s.After)))
	for _, id := range s.After {
		b = append(b, id[:]...)
	}
	b = putBytes(b, s.Session)
	b = putBytes(b, s.Description)
	for _, f := range [][]byte{s.Input, s.Context, s.Rollback, s.Verify, s.Approval, s.Compliance} {
		b = putBytes(b, f)
	}
	return b
}

// decode reads a spec; byte fields are views into the decoder's input.
func (s *Spec) decode(d *decoder) {
	if v := d.byte(); v != specVersion && d.err == nil {
		d.fail("spec version")
	}
	s.Key, s.SubmittedBy = d.string(), d.string()
	s.Fleet, s.Action, s.Target = d.string(), d.string(), d.string()
	s.Priority, s.Guarantee = Priority(d.byte()), Guarantee(d.byte())
	s.DeadlineMillis, s.NotBeforeMillis, s.LeaseMillis = d.int(), d.int(), d.int()
	s.Retry.MaxRetries, s.Retry.Backoff = d.uint32(), Backoff(d.byte())
	s.Retry.InitialDelayMillis, s.Retry.MaxDelayMillis = d.int(), d.int()
	s.Reversible = d.bool()
	s.Parent = d.id()
	if n := d.count(); n > 0 {
		s.After = make([]TaskID, 0, min(n, 64))
		for range n {
			s.After = append(s.After, d.id())
		}
	}
	s.Session, s.Description = d.string(), d.string()
	for _, f := range []*[]byte{&s.Input, &s.Context, &s.Rollback, &s.Verify, &s.Approval, &s.Compliance} {
		*f = d.bytes()
	}
	if s.Priority > PriorityCritical || s.Guarantee < BestEffort || s.Guarantee > ExactlyOnce || s.Retry.Backoff > BackoffFixed {
		d.fail("spec: word out of range")
	}
}

// RequestHash identifies a request: SHA-256 over the canonical encoding of all
// but the key and the submitter.
func RequestHash(s *Spec) [32]byte {
	return sha256.Sum256(s.appendRequest(make([]byte, 0, 256+len(s.Input)+len(s.Context))))
}
