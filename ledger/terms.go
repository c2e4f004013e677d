package ledger

import (
	"encoding/binary"
	"fmt"
)

// Field is a field of records that they are looked up by. Numbers are part of
// the index files' format.
type Field uint8

// The fields.
const (
	FieldVerb Field = iota + 1
	FieldFleet
	FieldCapability
	FieldAgent
	FieldSession
	FieldRegulation
	FieldGuarantee // the value is its number, one byte
	FieldTask      // the value is its ID, 16 bytes
	FieldAction    // of the capability
)

// EachTerm calls fn with what a record, given by its canonical bytes, is
// looked up by, and returns its time. Values point into body and are valid
// during the call. It costs a fifth of decoding the record.
func EachTerm(body []byte, fn func(f Field, value []byte)) (millis int64, err error) {
	if len(body) < recordFixedSize || body[0] != recordVersion1 && body[0] != recordVersion2 {
		return 0, fmt.Errorf("ledger: record of %d bytes: %w", len(body), ErrMalformed)
	}
	millis = int64(binary.BigEndian.Uint64(body[21:]))
	if TaskID(body[29:45]) != (TaskID{}) {
		fn(FieldTask, body[29:45])
		fn(FieldGuarantee, body[45:46])
	}
	r := newReader(body)
	r.b = body[recordFixedSize:]
	text := func(f Field) {
		v := r.view()
		if len(v) == 0 {
			return
		}
		if fn(f, v); f != FieldCapability {
			return
		}
		for i, c := range v {
			if c == ':' {
				fn(FieldAction, v[:i])
				return
			}
		}
	}
	if body[0] == recordVersion1 {
		for range 4 {
			r.uint()
		}
		for _, f := range []Field{FieldVerb, FieldFleet, FieldCapability, FieldAgent} {
			text(f)
		}
		return millis, r.err
	}
	text(FieldVerb)
	m := r.uint()
	for bit := uint64(maskEpoch); bit <= maskStarted; bit <<= 1 {
		if m&bit != 0 {
			r.uint()
		}
	}
	for bit := uint64(maskFleet); bit <= maskStolenFrom; bit <<= 1 {
		switch {
		case m&bit == 0:
		case bit == maskFleet:
			text(FieldFleet)
		case bit == maskCapability:
			text(FieldCapability)
		case bit == maskAgent:
			text(FieldAgent)
		case bit == maskSession:
			text(FieldSession)
		default:
			r.view()
		}
	}
	if m&maskRegulations != 0 {
		skipToRegulations(&r, m)
		for range r.count(1) {
			text(FieldRegulation)
		}
	}
	return millis, r.err
}

// skipToRegulations skips what stands between names and regulations.
func skipToRegulations(r *reader, m uint64) {
	if m&maskLoads != 0 {
		r.uint()
		r.uint()
	}
	var skip [32]byte
	for bit := uint64(maskRequest); bit <= maskRollback; bit <<= 1 {
		if m&bit != 0 {
			n := 32
			if bit >= maskParent {
				n = 16
			}
			r.fixed(skip[:n])
		}
	}
	if m&maskClassification != 0 {
		r.view()
	}
}
