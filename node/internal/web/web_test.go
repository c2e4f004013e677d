package web

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

func TestBadInput(t *testing.T) {
	f := &fake{}
	h := New(f, Config{})
	task := `{"action":"vet","target":"go"`
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code, says               string // says: part of detail or hint
	}{
		{"empty", "POST", "/v1/tasks", "", 400, "malformed_json", "empty"},
		{"cut off", "POST", "/v1/tasks", task, 400, "malformed_json", "ends in the middle"},
		{"syntax", "POST", "/v1/tasks", `{"action":vet}`, 400, "malformed_json", "byte 11"},
		{"not JSON", "POST", "/v1/tasks", `<xml/>`, 400, "malformed_json", "byte 1"},
		{"trailing", "POST", "/v1/tasks", task + `}{"action":"a"}`, 400, "malformed_json", "follows"},
		{"trailing word", "POST", "/v1/tasks", task + `} x`, 400, "malformed_json", "follows"},
		{"unknown field", "POST", "/v1/tasks", task + `,"prioritty":"high"}`, 400, "unknown_field", "prioritty"},
		{"unknown field, hint", "POST", "/v1/tasks", task + `,"prioritty":"high"}`, 400, "unknown_field", "priority"},
		{"unknown inner field", "POST", "/v1/tasks", task + `,"retry_policy":{"max_retires":1}}`, 400, "unknown_field", "retry_policy.max_retires"},
		{"unknown field in array", "POST", "/v1/tasks", `[` + task + `},` + task + `,"x":1}]`, 400, "unknown_field", "[1].x"},
		{"string for number", "POST", "/v1/tasks", task + `,"lease_seconds":"60"}`, 400, "wrong_type", `field lease_seconds is "60", want a number`},
		{"number for string", "POST", "/v1/tasks", `{"action":7}`, 400, "wrong_type", "field action is 7, want a string"},
		{"object for array", "POST", "/v1/tasks", task + `,"after":{}}`, 400, "wrong_type", "field after is {}, want an array"},
		{"array for object", "POST", "/v1/tasks", task + `,"retry_policy":[]}`, 400, "wrong_type", "field retry_policy"},
		{"fraction for count", "POST", "/v1/tasks", task + `,"retry_policy":{"max_retries":1.5}}`, 400, "wrong_type", "retry_policy.max_retries is 1.5, want a whole number"},
		{"bad time", "POST", "/v1/tasks", task + `,"deadline":"tomorrow"}`, 400, "wrong_type", "field deadline"},
		{"word for truth", "POST", "/v1/tasks", task + `,"reversible":"yes"}`, 400, "wrong_type", "true or false"},
		{"number as body", "POST", "/v1/tasks", `7`, 400, "wrong_type", "the body is 7, want an object"},
		{"array of numbers", "POST", "/v1/tasks", `[7]`, 400, "wrong_type", "field [0] is 7, want an object"},
		{"negative epoch", "POST", "/v1/tasks/t1/renew", `{"agent_id":"a","epoch":-1}`, 400, "wrong_type", "epoch is -1, want a whole number, not negative"},
		{"huge epoch", "POST", "/v1/tasks/t1/renew", `{"agent_id":"a","epoch":99999999999999999999}`, 400, "wrong_type", "epoch"},
		{"epoch as string", "POST", "/v1/tasks/t1/renew", `{"agent_id":"a","epoch":"7"}`, 400, "wrong_type", "epoch"},
		{"stale epoch", "POST", "/v1/tasks/t1/renew", `{"agent_id":"a","epoch":3}`, 409, "stale_lease", ""},
		{"missing epoch", "POST", "/v1/tasks/t1/complete", `{"agent_id":"a"}`, 422, "epoch_missing", ""},
		{"key reused", "POST", "/v1/tasks", `{"action":"refused","target":"go"}`, 422, "key_reused", ""},
		{"capability without target", "POST", "/v1/agents/register", `{"agent_id":"a","capabilities":["vet"]}`, 400, "wrong_type", "capabilities[0]"},
		{"unknown field in capability", "POST", "/v1/agents/register", `{"agent_id":"a","capabilities":[{"action":"a","target":"b","speed":1}]}`, 400, "unknown_field", "capabilities[0].speed"},
		{"unknown field in settlement", "POST", "/v1/leases/settle", `{"outcomes":[{"task_id":"t","epoch":1,"verdict":"complete","score":1}]}`, 400, "unknown_field", "outcomes[0].score"},
		{"unknown parameter", "GET", "/v1/tasks?stat=ready", "", 400, "unknown_parameter", "state"},
		{"limit", "GET", "/v1/tasks?limit=ten", "", 400, "bad_parameter", "limit"},
		{"limit twice", "GET", "/v1/agents?limit=1&limit=2", "", 400, "bad_parameter", "limit is there 2 times"},
		{"limit twice beside states", "GET", "/v1/tasks?state=ready&state=failed&limit=1&limit=2", "", 400, "bad_parameter", "limit is there 2 times"},
		{"truth", "GET", "/v1/tasks?rollback_failed=maybe", "", 400, "bad_parameter", "neither true nor false"},
		{"wait", "GET", "/v1/tasks/t1?wait=soon", "", 400, "bad_parameter", "wait=30s"},
		{"negative wait", "GET", "/v1/tasks/t1?wait=-1s", "", 400, "bad_parameter", "negative"},
		{"negative bare wait", "GET", "/v1/tasks/t1?wait=-1e300", "", 400, "bad_parameter", "negative"},
		{"wait that is no number", "GET", "/v1/tasks/t1?wait=NaN", "", 400, "bad_parameter", "duration"},
		{"time", "GET", "/v1/audit?from=yesterday", "", 400, "bad_parameter", "RFC 3339"},
		{"shard", "GET", "/v1/audit?shard=-2", "", 400, "bad_parameter", "shard"},
		{"no route", "GET", "/v2/tasks", "", 404, "no_such_resource", "/v2/tasks"},
		{"trailing slash", "GET", "/v1/tasks/", "", 404, "no_such_resource", ""},
		{"method", "PUT", "/v1/tasks", "", 405, "method_not_allowed", "POST"},
		{"method of a plain path", "POST", "/healthz", "", 405, "method_not_allowed", "GET"},
		{"later slice", "POST", "/mcp", "{}", 501, "not_yet_supported", "mcp"},
		{"retry later", "DELETE", "/v1/agents/a", "", 503, "no_leader", ""},
		{"plain error", "GET", "/v1/agents", "", 500, "internal", "disk on fire"},
		{"panic", "GET", "/v1/doctor", "", 500, "internal", "its log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := do(h, c.method, c.path, c.body)
			e := problem(t, w)
			if w.Code != c.status || e.Code != c.code || !strings.Contains(e.Detail+"|"+e.Hint, c.says) {
				t.Errorf("got %d %s %q (%q), want %d %s with %q", w.Code, e.Code, e.Detail, e.Hint, c.status, c.code, c.says)
			}
			if c.status == 400 && c.method == "POST" && f.mu.calls > 0 {
				t.Errorf("a refused body reached the backend: %+v", f.mu.specs)
			}
			f.mu.calls = 0
		})
	}
}

// A number with a byte too many is refused, the largest allowed is not.
func TestLimits(t *testing.T) {
	f := &fake{}
	h := New(f, Config{MaxPayloadBytes: 1000, MaxBatchBytes: 200_000})
	oneMax := 2*1000 + bodySlack
	pad := func(prefix, suffix string, size int) string {
		return prefix + strings.Repeat("x", size-len(prefix)-len(suffix)) + suffix
	}
	single := func(size int) string { return pad(`{"action":"a","target":"b","description":"`, `"}`, size) }
	array := func(n int) string {
		return "[" + strings.Repeat(`{"action":"a","target":"b"},`, n-1) + `{"action":"a","target":"b"}]`
	}
	settle := func(n int) string {
		return `{"outcomes":[` + strings.Repeat(`{"task_id":"t","epoch":1,"verdict":"complete"},`, n-1) + `{"task_id":"t","epoch":1,"verdict":"complete"}]}`
	}
	for _, c := range []struct {
		name, path, body string
		status           int
		code             string
	}{
		{"one task", "/v1/tasks", single(oneMax), 201, ""},
		{"one task", "/v1/tasks", single(oneMax + 1), 413, "payload_too_large"},
		{"complete", "/v1/tasks/t/complete", pad(`{"agent_id":"a","epoch":1,"result":"`, `"}`, oneMax), 200, ""},
		{"complete", "/v1/tasks/t/complete", pad(`{"agent_id":"a","epoch":1,"result":"`, `"}`, oneMax+1), 413, "payload_too_large"},
		{"batch bytes", "/v1/tasks", "[" + single(100_000) + "," + single(200_000-100_000-3) + "]", 200, ""},
		{"batch bytes", "/v1/tasks", "[" + single(100_000) + "," + single(200_000-100_000-2) + "]", 413, "payload_too_large"},
		{"batch", "/v1/tasks", array(api.MaxBatch), 200, ""},
		{"batch", "/v1/tasks", array(api.MaxBatch + 1), 413, "batch_too_large"},
		{"settle", "/v1/leases/settle", settle(api.MaxBatch), 200, ""},
		{"settle", "/v1/leases/settle", settle(api.MaxBatch + 1), 413, "batch_too_large"},
		{"settle is no stream", "/v1/leases/settle", pad(`{"agent_id":"`, `"}`, 200_001), 413, "payload_too_large"},
	} {
		w := do(h, "POST", c.path, c.body, "Content-Type", map[bool]string{true: "application/x-ndjson", false: "application/json"}[c.name == "settle is no stream"])
		if w.Code != c.status {
			t.Errorf("%s of %d bytes: status %d, want %d: %.200s", c.name, len(c.body), w.Code, c.status, w.Body)
		} else if c.code != "" {
			if e := problem(t, w); e.Code != c.code {
				t.Errorf("%s: code %s, want %s", c.name, e.Code, c.code)
			}
		}
	}
	for wait, want := range map[string]time.Duration{"60s": time.Minute, "61s": time.Minute, "1e9": time.Minute, "30": 30 * time.Second, "0.5": 500 * time.Millisecond} {
		if do(h, "GET", "/v1/tasks/t?wait="+wait, ""); f.mu.wait != want {
			t.Errorf("wait=%s became %v, want %v", wait, f.mu.wait, want)
		}
	}
	if do(h, "POST", "/v1/leases", `{"agent_id":"a","wait_seconds":61}`); f.mu.wait != time.Minute {
		t.Errorf("wait_seconds 61 became %v", f.mu.wait)
	}
	if w := do(h, "POST", "/v1/tasks", `{"action":"a","target":"b"}`, "X-Quorate-Actor", strings.Repeat("a", maxActorBytes+1)); w.Code != 201 || len(f.mu.by[len(f.mu.by)-1]) != maxActorBytes {
		t.Errorf("actor of %d bytes kept", len(f.mu.by[len(f.mu.by)-1]))
	}
}

func TestSubmitForms(t *testing.T) {
	f := &fake{}
	h := New(f, Config{})
	w := do(h, "POST", "/v1/tasks", `{"action":"vet","target":"go","idempotency_key":"k"}`)
	if w.Code != 201 || w.Header().Get("Location") != "/v1/tasks/t-k" || w.Header().Get("Idempotent-Replayed") != "" {
		t.Errorf("first submit: %d %v", w.Code, w.Header())
	}
	w = do(h, "POST", "/v1/tasks", `{"action":"known","target":"go","idempotency_key":"k"}`)
	if w.Code != 200 || w.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("repeated submit: %d %v", w.Code, w.Header())
	}
	w = do(h, "POST", "/v1/tasks", ` [{"action":"vet","target":"go","idempotency_key":"1"},{"action":"refused","target":"go"}] `)
	var many submitAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &many); err != nil || w.Code != 200 || len(many.Tasks) != 2 {
		t.Fatalf("array: %d %s", w.Code, w.Body)
	}
	if many.Tasks[0].TaskID != "t-1" || many.Tasks[1].Error == nil || many.Tasks[1].Error.Code != "key_reused" {
		t.Errorf("array's verdicts: %+v", many.Tasks)
	}
	if w = do(h, "POST", "/v1/tasks", `[]`); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"tasks":[]}` {
		t.Errorf("empty array: %d %s", w.Code, w.Body)
	}
	if by := f.mu.by[0]; by != "192.0.2.1" {
		t.Errorf("actor %q, want the remote address", by)
	}
}

func TestRequestID(t *testing.T) {
	var log bytes.Buffer
	h := New(&fake{}, Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if id := do(h, "GET", "/healthz", "").Header().Get("X-Request-Id"); len(id) < 16 {
		t.Errorf("made-up request ID %q", id)
	}
	if id := do(h, "GET", "/healthz", "", "X-Request-Id", "mine-1").Header().Get("X-Request-Id"); id != "mine-1" {
		t.Errorf("given request ID became %q", id)
	}
	for _, bad := range []string{strings.Repeat("x", maxRequestIDBytes+1), "two words", "täuschend"} {
		if id := do(h, "GET", "/healthz", "", "X-Request-Id", bad).Header().Get("X-Request-Id"); id == bad {
			t.Errorf("request ID %q was taken", bad)
		}
	}
	if !strings.Contains(log.String(), "request_id=mine-1") || !strings.Contains(log.String(), "status=200") {
		t.Errorf("access log: %s", log.String())
	}
}

func TestPlainPages(t *testing.T) {
	f := &fake{}
	h := New(f, Config{})
	for path, want := range map[string]string{"/healthz": "alive", "/readyz": "ready", "/metrics": "quorate_up 1", "/llms.txt": "/v1/leases", "/openapi.json": `"openapi"`} {
		if w := do(h, "GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %.80s", path, w.Code, w.Body)
		}
	}
	f.ready = api.Errorf(503, 5, "not_formed", api.RetryLater, "waiting for 2 more nodes")
	if e := problem(t, do(h, "GET", "/readyz", "")); e.Code != "not_formed" {
		t.Errorf("not ready: %+v", e)
	}
}

func TestForeignPage(t *testing.T) {
	f := &fake{}
	h := New(f, Config{})
	w := do(h, "POST", "/v1/tasks", `{"action":"a","target":"b"}`, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
	if e := problem(t, w); w.Code != http.StatusForbidden || e.Code != "cross_origin" || f.mu.calls != 0 {
		t.Errorf("a foreign page's submit: %d %+v, %d calls", w.Code, e, f.mu.calls)
	}
}

func TestSmallOperations(t *testing.T) {
	h := New(&fake{}, Config{})
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/v1/tasks?state=ready,failed&state=completed", "", `"task_id":"ready+failed+completed"`},
		{"POST", "/v1/tasks/t1/cancel", "", `"agent_id":"192.0.2.1"`},
		{"POST", "/v1/tasks/t1/cancel", `{"by":"me","reason":"enough"}`, `"error":"enough"`},
		{"POST", "/v1/tasks/t1/renew", `{"agent_id":"a","epoch":7}`, `"epoch":7`},
		{"POST", "/v1/agents/register", `{"agent_id":"a","capabilities":["vet:go",{"action":"lint","target":"*"}]}`, `"target":"*"`},
		{"POST", "/v1/agents/a/heartbeat", `{"state":"draining"}`, `"state":"draining"`},
		{"GET", "/v1/audit?task_id=t1&from=2026-01-02T03:04:05Z&shard=1", "", `"time":"2026-01-02T03:04:05Z"`},
	} {
		if w := do(h, c.method, c.path, c.body); w.Code != 200 || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s, want %s", c.method, c.path, w.Code, w.Body, c.want)
		}
	}
}
