package ledger

import (
	"crypto/sha256"
	"encoding/hex"
)

// Canonical bytes of a record, version 2 (numbers and text as described in
// wire.go). The first 49 bytes are those of version 1 with a 2 in front; then
//
//	verb  text, never empty in a record that a shard wrote
//	mask  number: which of the fields below follow, bit by bit from the lowest
//	 0 epoch, 1 attempt        numbers          12 request, 13 result, 14 params digest   32 bytes each
//	 2 assigned, 3 started     signed numbers   15 parent, 16 verify, 17 rollback task    16 bytes each
//	 4 fleet, 5 capability     text             18 classification                         text
//	 6 agent, 7 actor          text             19 regulations    a count, and as many texts
//	 8 approver, 9 session     text             20 pack, 21 evidence, 22 detail           text
//	10 stolen from             text
//	11 loads                   two numbers: thousandths of stolen from's and of agent's
//
// A field that is zero or empty is left out, so a record has one encoding. In
// the journal the bytes stand alone: the shard's Merkle tree proves them.
const (
	maskEpoch = 1 << iota
	maskAttempt
	maskAssigned
	maskStarted
	maskFleet
	maskCapability
	maskAgent
	maskActor
	maskApprover
	maskSession
	maskStolenFrom
	maskLoads
	maskRequest
	maskResult
	maskParams
	maskParent
	maskVerify
	maskRollback
	maskClassification
	maskRegulations
	maskPack
	maskEvidence
	maskDetail
	maskEnd
)

// Bounds of a record's text. What is longer is cut when a record is written,
// and refused when one is read.
const (
	maxCapabilityBytes     = 2*maxNameBytes + 1 // action:target
	maxClassificationBytes = 128
	maxRegulations         = 16
	maxRegulationBytes     = 128
	maxPackBytes           = 256
	maxEvidenceBytes       = 2 << 10
	// MaxRecordBytes bounds the canonical bytes of a record of version 2: head
	// 49, verb and 6 names of 1 KiB, capability, 2 loads, mask and 4 numbers,
	// 3 digests, 3 tasks, classification, 16 regulations, pack, evidence,
	// detail, and a length of at most 3 bytes with each text.
	MaxRecordBytes = 49 + 7*maxNameBytes + maxCapabilityBytes + 7*10 + 3*32 + 3*16 + maxClassificationBytes +
		maxRegulations*(maxRegulationBytes+3) + maxPackBytes + maxEvidenceBytes + 2*maxDetailBytes + 13*3 + 1
)

func (r *Record) mask() (m uint64) {
	set := func(bit uint64, on bool) {
		if on {
			m |= bit
		}
	}
	set(maskEpoch, r.Epoch != 0)
	set(maskAttempt, r.Attempt != 0)
	set(maskAssigned, r.AssignedMillis != 0)
	set(maskStarted, r.StartedMillis != 0)
	set(maskFleet, r.Fleet != "")
	set(maskCapability, r.Capability != "")
	set(maskAgent, r.Agent != "")
	set(maskActor, r.Actor != "")
	set(maskApprover, r.Approver != "")
	set(maskSession, r.Session != "")
	set(maskStolenFrom, r.StolenFrom != "")
	set(maskLoads, r.FromLoad|r.ToLoad != 0)
	set(maskRequest, r.RequestDigest != [32]byte{})
	set(maskResult, r.ResultDigest != [32]byte{})
	set(maskParams, r.ParamsDigest != [32]byte{})
	set(maskParent, !r.Parent.IsZero())
	set(maskVerify, !r.VerifyTask.IsZero())
	set(maskRollback, !r.RollbackTask.IsZero())
	set(maskClassification, r.Classification != "")
	set(maskRegulations, len(r.Regulations) > 0)
	set(maskPack, r.Pack != "")
	set(maskEvidence, r.Evidence != "")
	set(maskDetail, r.Detail != "")
	return m
}

// Append writes the record's canonical bytes, version 2.
func (r *Record) Append(dst []byte) []byte {
	m := r.mask()
	dst = appendUint(appendString(r.appendFixed(dst, recordVersion2), r.Verb), m)
	for _, f := range [...]struct {
		bit uint64
		v   uint64
	}{{maskEpoch, r.Epoch}, {maskAttempt, uint64(r.Attempt)}, {maskAssigned, zigzag(r.AssignedMillis)}, {maskStarted, zigzag(r.StartedMillis)}} {
		if m&f.bit != 0 {
			dst = appendUint(dst, f.v)
		}
	}
	for i, s := range [...]string{r.Fleet, r.Capability, r.Agent, r.Actor, r.Approver, r.Session, r.StolenFrom} {
		if m&(maskFleet<<i) != 0 {
			dst = appendString(dst, s)
		}
	}
	if m&maskLoads != 0 {
		dst = appendUint(appendUint(dst, uint64(r.FromLoad)), uint64(r.ToLoad))
	}
	for i, h := range [...]*[32]byte{&r.RequestDigest, &r.ResultDigest, &r.ParamsDigest} {
		if m&(maskRequest<<i) != 0 {
			dst = append(dst, h[:]...)
		}
	}
	for i, id := range [...]*TaskID{&r.Parent, &r.VerifyTask, &r.RollbackTask} {
		if m&(maskParent<<i) != 0 {
			dst = append(dst, id[:]...)
		}
	}
	if m&maskClassification != 0 {
		dst = appendString(dst, r.Classification)
	}
	if m&maskRegulations != 0 {
		dst = appendUint(dst, uint64(len(r.Regulations)))
		for _, s := range r.Regulations {
			dst = appendString(dst, s)
		}
	}
	for i, s := range [...]string{r.Pack, r.Evidence, r.Detail} {
		if m&(maskPack<<i) != 0 {
			dst = appendString(dst, s)
		}
	}
	return dst
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func (r *Record) readV2(in *reader) {
	r.Verb = in.bounded(maxNameBytes)
	m := in.uint()
	if m >= maskEnd {
		in.fail("the mask has fields that are not known")
		return
	}
	if m&maskEpoch != 0 {
		r.Epoch = in.uint()
	}
	if m&maskAttempt != 0 {
		r.Attempt = in.uint32()
	}
	if m&maskAssigned != 0 {
		r.AssignedMillis = in.int()
	}
	if m&maskStarted != 0 {
		r.StartedMillis = in.int()
	}
	for i, s := range [...]*string{&r.Fleet, &r.Capability, &r.Agent, &r.Actor, &r.Approver, &r.Session, &r.StolenFrom} {
		if m&(maskFleet<<i) != 0 {
			limit := maxNameBytes
			if s == &r.Capability {
				limit = maxCapabilityBytes
			}
			*s = in.bounded(limit)
		}
	}
	if m&maskLoads != 0 {
		r.FromLoad, r.ToLoad = in.uint32(), in.uint32()
	}
	for i, h := range [...]*[32]byte{&r.RequestDigest, &r.ResultDigest, &r.ParamsDigest} {
		if m&(maskRequest<<i) != 0 {
			in.fixed(h[:])
		}
	}
	for i, id := range [...]*TaskID{&r.Parent, &r.VerifyTask, &r.RollbackTask} {
		if m&(maskParent<<i) != 0 {
			in.fixed(id[:])
		}
	}
	if m&maskClassification != 0 {
		r.Classification = in.bounded(maxClassificationBytes)
	}
	if m&maskRegulations != 0 {
		r.Regulations = in.regulations()
	}
	for i, s := range [...]*string{&r.Pack, &r.Evidence, &r.Detail} {
		if m&(maskPack<<i) != 0 {
			*s = in.bounded([...]int{maxPackBytes, maxEvidenceBytes, 2 * maxDetailBytes}[i])
		}
	}
	if in.err == nil && r.mask() != m {
		in.fail("a field is there and empty")
	}
}

// bounded is text of at most limit bytes.
func (r *reader) bounded(limit int) string {
	v := r.view()
	if len(v) > limit {
		r.fail("text too long")
		return ""
	}
	if r.names != nil {
		return r.names.intern(v)
	}
	return string(v)
}

func (r *reader) regulations() []string {
	n := r.count(1)
	if n > maxRegulations {
		r.fail("too many regulations")
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.bounded(maxRegulationBytes)
	}
	return list
}

// bound makes a record fit its bounds before it is written, and takes out of
// people's words what looks like a secret.
func (r *Record) bound() {
	for _, s := range [...]*string{&r.Verb, &r.Fleet, &r.Agent, &r.Actor, &r.Approver, &r.Session, &r.StolenFrom} {
		if len(*s) > maxNameBytes {
			*s = cut(*s, maxNameBytes)
		}
	}
	r.Capability = cut(r.Capability, maxCapabilityBytes)
	r.Classification = cut(r.Classification, maxClassificationBytes)
	r.Pack = cut(r.Pack, maxPackBytes)
	if r.Evidence != "" {
		r.Evidence = cut(Redact(r.Evidence), maxEvidenceBytes)
	}
	if r.Detail != "" {
		r.Detail = cut(Redact(r.Detail), 2*maxDetailBytes)
	}
	if len(r.Regulations) > maxRegulations {
		r.Regulations = r.Regulations[:maxRegulations]
	}
	for i, s := range r.Regulations {
		if len(s) > maxRegulationBytes {
			r.Regulations = append([]string(nil), r.Regulations...) // the caller's stays as it is
			r.Regulations[i] = cut(s, maxRegulationBytes)
		}
	}
}

// relate adds the task's session and parent, which stand in its spec, and what
// a transaction has. Tasks that have none of it, most of them, are not decoded
// for it.
func (t *Tasks) relate(e *entry, r *Record) {
	if x := e.x; x != nil {
		r.VerifyTask, r.RollbackTask = x.Verify, x.Rollback
		r.Classification, r.Regulations, r.Pack = x.Terms.Classification, x.Terms.Regulations, x.Terms.Pack
	}
	if e.flags&flagRelated == 0 {
		return
	}
	var v specView
	in := newReader(e.spec)
	v.read(&in)
	r.Session, r.Parent = t.names.intern(v.session), v.parent
}

// related says that a spec has what relate looks for.
func (v *specView) related() entryFlags {
	if len(v.session) > 0 || !v.parent.IsZero() {
		return flagRelated
	}
	return 0
}

// errorDetail is what a record says of a failed attempt's error. The text is
// the agent's and may hold anything, so a record of version 2 has its digest
// only; the text stays with the task, where it can be erased.
func (t *Tasks) errorDetail(text string) string {
	switch {
	case t.journal.format == recordVersion1:
		return cut(text, maxDetailBytes)
	case text == "":
		return ""
	}
	h := sha256.Sum256([]byte(text))
	return "error sha256:" + hex.EncodeToString(h[:])
}
