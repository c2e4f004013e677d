package wire

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/quorate/quorate/node/api"
)

// serve answers every request the same way.
func serve(t *testing.T, status int, body string) Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return Client{Base: s.URL, HTTP: s.Client()}
}

func problem(e *api.Error) string {
	b, _ := json.Marshal(e)
	return string(b)
}

// TestThreeOutcomes: an error is certain only when the node said so, or was
// never reached.
func TestThreeOutcomes(t *testing.T) {
	down := httptest.NewServer(nil)
	down.Close()
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer cut.Close()
	for _, tc := range []struct {
		name    string
		c       Client
		certain bool
		code    string
	}{
		{"refused", serve(t, 409, problem(api.Errorf(409, 5, "stale_lease", api.RetryNo, "x"))), true, "stale_lease"},
		{"later", serve(t, 503, problem(api.Errorf(503, 5, "overloaded", api.RetryLater, "x"))), true, "overloaded"},
		{"unknown", serve(t, 504, problem(api.Errorf(504, 5, "outcome_unknown", api.RetrySameKey, "x"))), false, "outcome_unknown"},
		{"gateway", serve(t, 502, problem(api.Errorf(502, 2, "no_member", api.RetryLater, "x"))), false, "no_member"},
		{"no problem", serve(t, 500, "oops"), false, ""},
		{"nobody listens", Client{down.URL, Pool(1)}, true, ""},
		{"cut off", Client{cut.URL, Pool(1)}, false, ""},
		{"not JSON", serve(t, 200, "oops"), false, ""},
		{"too few verdicts", serve(t, 200, `{"tasks":[]}`), false, ""},
	} {
		_, err := tc.c.Submit(t.Context(), []api.TaskSpec{{Action: "a", Target: "b"}})
		if err == nil {
			t.Errorf("%s: no error", tc.name)
			continue
		}
		if Certain(err) != tc.certain {
			t.Errorf("%s: certain %v, want %v: %v", tc.name, !tc.certain, tc.certain, err)
		}
		if p := Problem(err); tc.code != "" && (p == nil || p.Code != tc.code) {
			t.Errorf("%s: problem %v, want %s", tc.name, p, tc.code)
		}
	}
}

func TestPagesAreFollowed(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cursor := r.URL.Query().Get("cursor")
		asked = append(asked, cursor)
		page := api.TaskPage{Tasks: []api.Task{{TaskID: "t" + cursor}}}
		if cursor == "" {
			page.NextCursor = "2"
		}
		_ = json.NewEncoder(w).Encode(page)
	}))
	defer s.Close()
	tasks, err := Client{s.URL, s.Client()}.Tasks(t.Context())
	if err != nil || len(tasks) != 2 || tasks[1].TaskID != "t2" || strings.Join(asked, ",") != ",2" {
		t.Errorf("tasks %v, cursors %v, error %v", tasks, asked, err)
	}
}

func TestExportReadsLines(t *testing.T) {
	c := serve(t, 200, "{\"seq\":1}\n{\"seq\":2}\n")
	records, err := c.Export(t.Context())
	if err != nil || len(records) != 2 || records[1].Seq != 2 {
		t.Errorf("records %v, error %v", records, err)
	}
	if _, err := serve(t, 200, "{\"seq\":1}\n{\"se").Export(t.Context()); err == nil {
		t.Error("a cut export was accepted")
	}
}
