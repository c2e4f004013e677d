package web

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/gate"
)

// The bodies of all requests together are bounded, and counted until they are
// answered; beyond it a request is refused, to come again.
func TestArrivingBodies(t *testing.T) {
	b := gate.NewBytes(100_000)
	h := New(&fake{}, Config{MaxPayloadBytes: 1 << 20, Bytes: b})
	body := func(size int) string {
		const head, tail = `{"action":"a","target":"b","description":"`, `"}`
		return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	}
	for range 3 {
		if w := do(h, "POST", "/v1/tasks", body(100_000+gate.FreeArriving)); w.Code != 201 || b.Used() != 0 {
			t.Errorf("at the limit: status %d, %d bytes still counted: %.200s", w.Code, b.Used(), w.Body)
		}
	}
	w := do(h, "POST", "/v1/tasks", body(100_001+gate.FreeArriving))
	if w.Code != 503 || problem(t, w).Code != "too_many_bytes" || b.Used() != 0 {
		t.Errorf("one over: status %d, %d bytes still counted: %.200s", w.Code, b.Used(), w.Body)
	}
}

// A stream of lines counts what it has read of a chunk until that is answered,
// so that one of any length passes; a line that is too much ends it.
func TestArrivingLines(t *testing.T) {
	b := gate.NewBytes(2 * chunkBytes)
	most := int64(0)
	f := &fake{submit: func(specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
		most = max(most, b.Used())
		return make([]api.SubmitVerdict, len(specs)), nil
	}}
	h := New(f, Config{MaxPayloadBytes: 8 * chunkBytes, Bytes: b})
	send := func(body string) string {
		r := httptest.NewRequest("POST", "/v1/tasks", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-ndjson")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if b.Used() != 0 {
			t.Errorf("%d bytes still counted", b.Used())
		}
		return w.Body.String()
	}
	sized := func(n int) string {
		return `{"action":"a","target":"b","description":"` + strings.Repeat("x", n) + "\"}\n"
	}
	if got := send(strings.Repeat(sized(chunkBytes/8), 80)); strings.Count(got, "\n") != 80 || strings.Contains(got, "too_many_bytes") {
		t.Errorf("ten chunks: %.200s", got)
	}
	if most < chunkBytes/2 {
		t.Errorf("at most %d bytes were counted", most)
	}
	submitted := 0
	f.submit = func(specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
		submitted += len(specs)
		return make([]api.SubmitVerdict, len(specs)), nil
	}
	got := strings.Split(strings.TrimSpace(send(sized(10)+sized(5*chunkBytes)+sized(10))), "\n")
	if last := got[len(got)-1]; submitted != 1 || !strings.Contains(last, "too_many_bytes") {
		t.Errorf("a line over the bound: %d submitted, %.300s", submitted, last)
	}
}
