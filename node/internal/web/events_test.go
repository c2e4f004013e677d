package web

import (
	"strings"
	"testing"
)

func TestEvents(t *testing.T) {
	h := New(&fake{}, Config{})
	r := do(h, "GET", "/v1/events", "", "Last-Event-ID", "seven")
	if ct := r.Header().Get("Content-Type"); ct != "text/event-stream" {
		t.Error(ct)
	}
	for _, want := range []string{": events follow\n\n", "id: 1\nevent: submitted\ndata: {", `"task_id":"seven"`, "event: end\ndata: {", "reader_too_slow"} {
		if !strings.Contains(r.Body.String(), want) {
			t.Errorf("%q is missing in %s", want, r.Body)
		}
	}
	if r := do(h, "GET", "/v1/events", ""); !strings.Contains(r.Body.String(), ": events follow\nid: 0\n\n") {
		t.Errorf("it does not say where it begins: %s", r.Body)
	}
	if r := do(h, "GET", "/v1/events?from=yesterday", ""); r.Code != 400 {
		t.Errorf("%d %s", r.Code, r.Body)
	}
}
