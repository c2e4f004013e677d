package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// bodyGrow is how much of an announced length is believed before it has
// arrived.
const bodyGrow = 1 << 20

// body reads a whole body.
func body(r *http.Request) ([]byte, error) {
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, bodyGrow)) + bytes.MinRead) // so that the end is found without growing
	}
	_, err := buf.ReadFrom(r.Body)
	return buf.Bytes(), bodyError(err)
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e): // too much is on its way already
		return e
	case errors.As(err, &tooLarge):
		return errTooLarge("the body", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return api.Errorf(408, 2, "body_timeout", api.RetryLater, "the body did not arrive in time")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errBad("malformed_json", "the body ends in the middle")
	}
	return errBad("unreadable_body", "%v", err)
}

func errTooLarge(what string, limit int64) *api.Error {
	return api.Errorf(413, 2, "payload_too_large", api.RetryNo, "%s is over %d bytes", what, limit).
		WithHint("store large inputs elsewhere and submit a reference")
}

func errBad(code, format string, args ...any) *api.Error {
	return api.Errorf(400, 2, code, api.RetryNo, format, args...)
}

// strict reads a body of one object; an empty body is the zero value.
func strict[T any](r *http.Request) (v T, err error) {
	b, err := body(r)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return v, err
	}
	return v, decode(b, &v)
}

// decode reads strict JSON: one value, known fields, right types. The text is
// gone through once; only a refusal goes back to find the field to name.
func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return jsonError(err, b, reflect.TypeOf(v))
	}
	if rest := bytes.TrimSpace(b[d.InputOffset():]); len(rest) > 0 {
		return errBad("malformed_json", "something follows the JSON value: %s", excerpt(rest))
	}
	return nil
}

func jsonError(err error, b []byte, t reflect.Type) error {
	var syn *json.SyntaxError
	switch {
	case errors.As(err, &syn):
		return errBad("malformed_json", "at byte %d: %v", syn.Offset, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errBad("malformed_json", "the body is empty or ends in the middle")
	}
	if e := blame(b, t, ""); e != nil {
		return e
	}
	return errBad("malformed_json", "%v", err)
}

// blame finds the first part of b, which is well-formed, that t does not take,
// and names it by its path; nil when there is none. It also looks inside types
// that decode themselves.
func blame(b []byte, t reflect.Type, path string) *api.Error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	b = bytes.TrimSpace(b)
	if t == reflect.TypeFor[json.RawMessage]() || string(b) == "null" {
		return nil
	}
	self := reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	switch {
	case self && !(t.Kind() == reflect.Struct && len(b) > 0 && b[0] == '{'), t.Kind() != reflect.Struct && t.Kind() != reflect.Slice:
		if err := json.Unmarshal(b, reflect.New(t).Interface()); err != nil {
			return errType(path, t, b, err)
		}
		return nil
	case t.Kind() == reflect.Slice:
		var items []json.RawMessage
		if json.Unmarshal(b, &items) != nil {
			return errType(path, t, b, nil)
		}
		for i, item := range items {
			if e := blame(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); e != nil {
				return e
			}
		}
		return nil
	}
	return blameFields(b, t, path)
}

// blameFields is blame of an object, in the order it was written.
func blameFields(b []byte, t reflect.Type, path string) *api.Error {
	d := json.NewDecoder(bytes.NewReader(b))
	if tok, err := d.Token(); err != nil || tok != json.Delim('{') {
		return errType(path, t, b, nil)
	}
	known := fieldsOf(t)
	for d.More() {
		key, err := d.Token()
		name, ok := key.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			return nil // not well-formed after all
		}
		at := name
		if path != "" {
			at = path + "." + name
		}
		i := indexFold(known, name)
		if i < 0 {
			return errBad("unknown_field", "there is no field %s", excerpt([]byte(at))).WithHint("it has: %s", names(known))
		}
		if e := blame(value, known[i].typ, at); e != nil {
			return e
		}
	}
	return nil
}

// field is one field of a JSON object.
type field struct {
	name string
	typ  reflect.Type
	reflect.StructField
	optional bool
}

// fieldsOf lists the JSON fields of a struct, embedded ones in place.
func fieldsOf(t reflect.Type) (out []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			out = append(out, fieldsOf(f.Type)...)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out = append(out, field{name, f.Type, f, strings.Contains(opts, "omit")})
		}
	}
	return out
}

// indexFold finds a name as encoding/json does.
func indexFold(fields []field, name string) int {
	for i, f := range fields {
		if strings.EqualFold(f.name, name) {
			return i
		}
	}
	return -1
}

func names(fields []field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.name)
	}
	return strings.Join(out, ", ")
}

// errType says what is wanted in JSON's words, not Go's.
func errType(path string, t reflect.Type, got []byte, err error) *api.Error {
	where, want := "field "+path, ""
	if path == "" {
		where = "the body"
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		want = "a time like 2026-01-31T12:00:00Z"
	case t == reflect.TypeFor[api.Capability]():
		want = `"action:target" or an object`
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Map:
		want = "an object"
	case t.Kind() == reflect.Slice:
		want = "an array"
	case t.Kind() == reflect.String:
		want = "a string"
	case t.Kind() == reflect.Bool:
		want = "true or false"
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uintptr:
		want = "a whole number, not negative"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		want = "a whole number"
	case t.Kind() == reflect.Float64:
		want = "a number"
	default:
		want = fmt.Sprint(err)
	}
	return errBad("wrong_type", "%s is %s, want %s", where, excerpt(got), want).WithHint("GET /openapi.json has the types")
}

// excerptBytes bounds what an error quotes of a body.
const excerptBytes = 60

// excerpt is the beginning of b, fit to be shown.
func excerpt(b []byte) string {
	s := string(b)
	if len(s) > excerptBytes {
		s = s[:excerptBytes] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
