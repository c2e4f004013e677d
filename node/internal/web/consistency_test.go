package web

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

func TestConsistency(t *testing.T) {
	var stale bool
	f := &fake{task: func(ctx context.Context, _ string) (api.Task, error) {
		stale = api.IsStale(ctx)
		return api.Task{TaskID: "t1"}, nil
	}}
	h := New(f, Config{})
	for _, c := range []struct {
		query, label string
		status       int
		stale        bool
	}{
		{"", "linearizable", 200, false},
		{"?consistency=linearizable", "linearizable", 200, false},
		{"?consistency=stale", "stale", 200, true},
		{"?wait=0s&consistency=stale", "stale", 200, true},
		{"?consistency=", "", 400, false},
		{"?consistency=eventual", "", 400, false},
		{"?consistency=STALE", "", 400, false},
		{"?consistency=stale&consistency=linearizable", "", 400, false},
	} {
		stale = false
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/tasks/t1"+c.query, nil))
		if w.Code != c.status || w.Header().Get(api.ConsistencyHeader) != c.label || stale != c.stale {
			t.Errorf("%q: %d, labelled %q, stale %v: %s", c.query, w.Code, w.Header().Get(api.ConsistencyHeader), stale, w.Body)
		}
		if c.status == 400 && !strings.Contains(w.Body.String(), "linearizable or stale") {
			t.Errorf("%q: %s", c.query, w.Body)
		}
	}
	// What changes something has no such parameter.
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/v1/tasks?consistency=stale", strings.NewReader(`{"action":"a","target":"b"}`)))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "unknown_parameter") {
		t.Errorf("a stale write: %d %s", w.Code, w.Body)
	}
}

func TestConsistencyIsDescribed(t *testing.T) {
	w := httptest.NewRecorder()
	New(&fake{}, Config{}).ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Name   string
				Schema struct{ Enum []string }
			}
			Responses map[string]struct{ Headers map[string]any }
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/tasks", "/v1/tasks/{id}", "/v1/agents", "/v1/agents/{id}"} {
		get, found := doc.Paths[path]["get"], false
		for _, p := range get.Parameters {
			found = found || p.Name == "consistency" && strings.Join(p.Schema.Enum, " ") == "linearizable stale"
		}
		if !found || get.Responses["200"].Headers[api.ConsistencyHeader] == nil {
			t.Errorf("GET %s does not describe its consistency: %+v", path, get)
		}
	}
}
