package ledger

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func fullRecord() *Record {
	return &Record{Shard: 3, Seq: 1 << 40, Index: 1<<40 + 1, TimeMillis: 1_790_000_000_000, Task: NewTaskID(3, 1_790_000_000_000, 5), Guarantee: AtLeastOnce,
		From: StateReady, To: StateFailed, Code: StaleLease, Epoch: 1 << 53, Attempt: 4, AssignedMillis: 1_790_000_000_001, StartedMillis: 1_790_000_000_002,
		Verb: VerbFail, Fleet: "fleet", Capability: "vet:go", Agent: "w1", Actor: "n1", StolenFrom: "n2", RequestDigest: [32]byte{1}, ResultDigest: [32]byte{31: 2}, Detail: "exit status 1"}
}

// fullRecord2 has every field of version 2 set.
func fullRecord2() *Record {
	r := fullRecord()
	r.Approver, r.Session, r.FromLoad, r.ToLoad, r.ParamsDigest = "carol", "s1", 900, 100, [32]byte{7}
	r.Parent, r.VerifyTask, r.RollbackTask = NewTaskID(3, 1, 1), NewTaskID(3, 1, 2), NewTaskID(3, 1, 3)
	r.Classification, r.Regulations, r.Pack, r.Evidence = "personal", []string{"GDPR-17", "GDPR-20"}, "gdpr@3", "ticket 12"
	return r
}

// TestRecordsV1 holds that records of version 1 decode for ever: their bytes
// are documented to the byte.
func TestRecordsV1(t *testing.T) {
	now := map[string][]byte{"full": fullRecord().appendV1(nil), "empty": (&Record{}).appendV1(nil)}
	testRecords(t, "testdata/records_v1.txt", now, fullRecord())
}

// TestRecordsV2 likewise.
func TestRecordsV2(t *testing.T) {
	now := map[string][]byte{"full": fullRecord2().Append(nil), "empty": (&Record{}).Append(nil)}
	testRecords(t, "testdata/records_v2.txt", now, fullRecord2())
}

func testRecords(t *testing.T, path string, now map[string][]byte, full *Record) {
	checkGolden(t, path, now, []string{"full", "empty"}, func(_ string, b []byte) ([]byte, error) {
		r, err := DecodeRecord(b)
		if err != nil {
			return nil, err
		}
		return appendAs(b[0], r), nil
	})
	r, err := DecodeRecord(now["full"])
	if err != nil || !reflect.DeepEqual(r, full) {
		t.Errorf("%+v, %v", r, err)
	}
	for i := range now["full"] {
		if _, err := DecodeRecord(now["full"][:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	for at, word := range map[int]byte{0: 3, 45: 4, 46: byte(stateEnd), 47: byte(stateEnd), 48: byte(codeEnd)} {
		b := bytes.Clone(now["full"])
		b[at] = word
		if _, err := DecodeRecord(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d = %d: %v", at, word, err)
		}
	}
}

// TestRecordBounds: what is too long is cut when written, refused when read;
// the largest record is as large as the constant says.
func TestRecordBounds(t *testing.T) {
	long := strings.Repeat("ä", 1<<14)
	r := fullRecord2()
	text := []*string{&r.Verb, &r.Fleet, &r.Capability, &r.Agent, &r.Actor, &r.Approver, &r.Session, &r.StolenFrom, &r.Classification, &r.Pack, &r.Evidence, &r.Detail}
	limits := []int{maxNameBytes, maxNameBytes, maxCapabilityBytes, maxNameBytes, maxNameBytes, maxNameBytes, maxNameBytes, maxNameBytes,
		maxClassificationBytes, maxPackBytes, maxEvidenceBytes, 2 * maxDetailBytes}
	for _, s := range text {
		*s = long
	}
	r.Epoch, r.Attempt, r.AssignedMillis, r.StartedMillis, r.FromLoad, r.ToLoad = 1<<64-1, 1<<32-1, -1<<63, -1<<63, 1<<32-1, 1<<32-1
	r.Regulations = make([]string, maxRegulations+1)
	for i := range r.Regulations {
		r.Regulations[i] = long
	}
	regulations := r.Regulations
	r.bound()
	if regulations[0] != long {
		t.Error("the caller's list was changed")
	}
	b := r.Append(nil)
	if got, err := DecodeRecord(b); err != nil || !reflect.DeepEqual(got, r) {
		t.Fatalf("bounded: %v", err)
	}
	if len(b) > MaxRecordBytes || len(b) < MaxRecordBytes-64 {
		t.Errorf("the largest record has %d bytes, said to be at most %d", len(b), MaxRecordBytes)
	}
	refused := func(what string, fits bool) {
		t.Helper()
		if _, err := DecodeRecord(r.Append(nil)); (err == nil) != fits {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i, s := range text {
		*s = strings.Repeat("x", limits[i])
		refused("at the limit", true)
		*s += "x"
		refused("one over", false)
		*s = ""
	}
	r.Regulations = []string{strings.Repeat("x", maxRegulationBytes)}
	refused("regulation at the limit", true)
	r.Regulations[0] += "x"
	refused("regulation one over", false)
	r.Regulations = make([]string, maxRegulations)
	refused("regulations at the limit", true)
	r.Regulations = make([]string, maxRegulations+1)
	refused("regulations one over", false)
}

// TestRecordOneEncoding: a field that is there and empty, and a mask bit that
// nobody knows, are refused.
func TestRecordOneEncoding(t *testing.T) {
	head := (&Record{}).Append(nil)[:recordFixedSize]
	with := func(b ...byte) []byte { return append(append(bytes.Clone(head), 0), b...) }
	for name, b := range map[string][]byte{
		"empty epoch": with(1, 0), "empty fleet": with(1<<4, 0), "unknown bit": with(0x80, 0x80, 0x80, 0x04),
		"empty loads": with(0x80, 0x10, 0, 0), "empty digest": append(with(0x80, 0x20), make([]byte, 32)...),
	} {
		if r, err := DecodeRecord(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"approved by the owner":                            "approved by the owner",
		"lease_expired":                                    "lease_expired",
		"password=hunter2 was wrong":                       "password=[redacted] was wrong",
		`{"api_key": "abc def", "n": 1}`:                   `{"api_key": [redacted], "n": 1}`,
		"AWS_SECRET_ACCESS_KEY: abc/def+g":                 "AWS_SECRET_ACCESS_KEY: [redacted]",
		"Authorization: Bearer abcdefgh.ijkl":              "Authorization: Bearer [redacted]",
		"sent bearer abcdefghijkl to it":                   "sent bearer [redacted] to it",
		"https://bob:hunter2@example.org/x":                "https://bob:[redacted]example.org/x",
		"key ghp_0123456789abcdefghij leaked":              "key [redacted] leaked",
		"x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END": "x [redacted]",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
	var j memJournal
	s := NewTasks(1, newMemCold(), j.append)
	apply := func(c Command) { s.Apply(At{Index: 1, TimeMillis: 1}, c.Append(nil), nil) }
	apply(&AuditFormat{Version: AuditFormatNow})
	id := NewTaskID(1, 1, 1)
	sp := testSpec()
	sp.Input, sp.Context, sp.Retry.MaxRetries = []byte(`"INPUT"`), []byte(`"CONTEXT"`), 0
	apply(submitOf(id, sp))
	apply(&Fail{ID: id, Agent: "w1", Epoch: 1, Error: "ERROR", Result: []byte(`"RESULT"`)})
	apply(&Retry{ID: id})
	apply(&Cancel{ID: id, Reason: "token=HUNTER2"})
	all := bytes.Join(j.records, nil)
	for _, secret := range []string{"INPUT", "CONTEXT", "ERROR", "RESULT", "HUNTER2"} {
		if bytes.Contains(all, []byte(secret)) {
			t.Errorf("%s stands in a record", secret)
		}
	}
	if len(j.records) != 5 {
		t.Errorf("%d records", len(j.records))
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(fullRecord().appendV1(nil))
	f.Add((&Record{}).appendV1(nil))
	f.Add(fullRecord2().Append(nil))
	f.Add((&Record{}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			return
		}
		if again := appendAs(b[0], r); !bytes.Equal(again, b) {
			t.Fatalf("two encodings\n%x\n%x", b, again)
		}
	})
}

// TestEachTerm: a record is looked up by what decoding it shows.
func TestEachTerm(t *testing.T) {
	for _, body := range [][]byte{fullRecord().appendV1(nil), fullRecord2().Append(nil), (&Record{Verb: VerbNodeUp}).Append(nil)} {
		r, err := DecodeRecord(body)
		if err != nil {
			t.Fatal(err)
		}
		got := map[Field][]string{}
		millis, err := EachTerm(body, func(f Field, v []byte) { got[f] = append(got[f], string(v)) })
		if err != nil || millis != r.TimeMillis {
			t.Fatal(millis, err)
		}
		want := map[Field][]string{FieldVerb: {r.Verb}}
		if r.Fleet != "" {
			want[FieldFleet], want[FieldCapability], want[FieldAction], want[FieldAgent] = []string{r.Fleet}, []string{r.Capability}, []string{"vet"}, []string{r.Agent}
			want[FieldTask], want[FieldGuarantee] = []string{string(r.Task[:])}, []string{string([]byte{byte(r.Guarantee)})}
		}
		if r.Session != "" {
			want[FieldSession], want[FieldRegulation] = []string{r.Session}, r.Regulations
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}
