package web

import (
	"strings"
	"testing"

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
