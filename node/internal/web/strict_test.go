package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// FuzzDecode: what is taken is well-formed, known and stays the same when
// written and read again; what is refused is a 400 that names a code.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"action":"vet","target":"go"}`, `[{"action":"a","target":"b","retry_policy":{"max_retries":2}}]`, `{"ACTION":"a"}`,
		`{"deadline":"2026-01-02T03:04:05Z","after":["x"]}`, `{"input":{"a":[1,2,{"b":null}]}}`, `{"action":1}`, `null`, `[null]`, `{} x`, `{"x":1}`,
		"", "\x00", `"`, `{"capabilities":["a:b",{"action":"c","target":"d"},7]}`, `{"lease_seconds":1e400}`, strings.Repeat("[", 20_000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(api.TaskSpec), new([]api.TaskSpec), new(api.Manifest), new(settleBody), new(api.Claim)} {
			err := decode(b, v)
			if err != nil {
				var e *api.Error
				if !errors.As(err, &e) || e.Status != 400 || e.Detail == "" {
					t.Fatalf("%T from %q: %v", v, b, err)
				}
				continue
			}
			if !json.Valid(b) {
				t.Fatalf("%T was read from %q, which is no JSON", v, b)
			}
			if e := blame(b, reflect.TypeOf(v), ""); e != nil && reflect.TypeOf(v) != reflect.TypeFor[*api.Manifest]() {
				t.Fatalf("%T from %q was taken, and blamed: %v", v, b, e)
			}
			first, err := json.Marshal(v)
			if err != nil {
				t.Fatalf("%T from %q does not encode: %v", v, b, err)
			}
			again := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := decode(first, again); err != nil {
				t.Fatalf("%s, written by %T, is refused: %v", first, v, err)
			}
			if second, _ := json.Marshal(again); !bytes.Equal(first, second) {
				t.Fatalf("%T from %q: %s, then %s", v, b, first, second)
			}
		}
	})
}

var openAPIFile = flag.String("openapi", "", "write the OpenAPI document to this file, for a linter")

// Every operation is in the document, with an answer that is no error, and every reference in it leads
// somewhere.
func TestOpenAPI(t *testing.T) {
	s := &server{b: &fake{}, cfg: Config{MaxPayloadBytes: 1000, MaxBatchBytes: 1000}}
	ops := s.operations()
	var doc struct {
		OpenAPI    string                                `json:"openapi"`
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	b := openAPI(ops)
	if err := json.Unmarshal(b, &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("version %q, %v", doc.OpenAPI, err)
	}
	names := map[string]bool{}
	for _, o := range ops {
		var described struct {
			Responses map[string]json.RawMessage `json:"responses"`
		}
		row := doc.Paths[o.path][strings.ToLower(o.method)]
		_ = json.Unmarshal(row, &described)
		switch supported := !strings.HasPrefix(o.doc, notSupported); {
		case supported != (row != nil):
			t.Errorf("%s %s: described is %v", o.method, o.path, row != nil)
		case supported && described.Responses["200"] == nil && described.Responses["201"] == nil && described.Responses["204"] == nil:
			t.Errorf("%s %s has no 2xx answer", o.method, o.path)
		}
		if o.doc == "" || names[o.name] {
			t.Errorf("operation %q has no description, or is named twice", o.name)
		}
		names[o.name] = true
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				if name := strings.TrimPrefix(ref, "#/components/schemas/"); doc.Components.Schemas[name] == nil || string(doc.Components.Schemas[name]) == "null" {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	if *openAPIFile != "" {
		if err := os.WriteFile(*openAPIFile, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var all any
	_ = json.Unmarshal(b, &all)
	walk(all)
	if bytes.Contains(b, []byte(`"$schema"`)) {
		t.Error("a $schema link")
	}
}

// BenchmarkSubmit256 is the path of bulk work: an array in, verdicts out.
func BenchmarkSubmit256(b *testing.B) {
	one := `{"action":"bench","target":"go","idempotency_key":"0123456789abcdef","input":{"pad":"` + strings.Repeat("x", 100) + `"}}`
	body := "[" + strings.Repeat(one+",", 255) + one + "]"
	f := &fake{submit: func(specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
		out := make([]api.SubmitVerdict, len(specs))
		for i := range out {
			out[i] = api.SubmitVerdict{TaskID: "t0001abcdefghijklmnopqrstuv", State: "ready"}
		}
		return out, nil
	}}
	h := New(f, Config{})
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if w := do(h, http.MethodPost, "/v1/tasks", body); w.Code != 200 {
			b.Fatal(w.Code)
		}
		f.mu.specs = f.mu.specs[:0]
	}
}
