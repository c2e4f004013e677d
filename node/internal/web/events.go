package web

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/quorate/quorate/node/api"
)

// events streams records as server-sent events. The event's name is the
// record's verb; its ID is where to go on.
func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	req := api.EventRequest{After: r.Header.Get("Last-Event-ID"), Filter: api.AuditFilter{AgentID: q.Get("agent_id"), Verb: q.Get("verb"),
		TaskID: q.Get("task_id"), FleetID: q.Get("fleet_id"), SessionID: q.Get("session_id"), Shard: -1}}
	if from := q.Get("from"); req.After == "" && from != "" {
		if from != "start" {
			return errBad("bad_parameter", "from=%s: want start", excerpt([]byte(from)))
		}
		req.After = from
	}
	leave, err := s.lasts(r)
	if err != nil {
		return err
	}
	defer leave()
	rc := http.NewResponseController(w)
	begun := false
	begin := func(id string) {
		begun = true
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
		_, _ = fmt.Fprint(w, ": events follow\n")
		if req.After == "" {
			_, _ = fmt.Fprintf(w, "id: %s\n", id) // where to go on, though nothing has happened yet
		}
		_, _ = fmt.Fprint(w, "\n")
		_ = rc.Flush()
	}
	err = s.b.Events(r.Context(), req, begin, func(ev api.Event) error {
		if ev.ID == "" {
			if _, err := fmt.Fprint(w, ": alive\n\n"); err != nil {
				return err
			}
			return rc.Flush()
		}
		b, err := json.Marshal(ev.Record)
		if err != nil {
			return err
		}
		if _, err = fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", ev.ID, ev.Record.Verb, b); err != nil {
			return err
		}
		return rc.Flush()
	})
	if err == nil || !begun {
		return err
	}
	b, _ := json.Marshal(asError(err)) // plain fields
	_, _ = fmt.Fprintf(w, "event: end\ndata: %s\n\n", b)
	_ = rc.Flush()
	return nil
}
