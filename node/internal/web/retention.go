package web

import (
	"net/http"

	"github.com/quorate/quorate/node/api"
)

// retention is the part of the table about how long things are kept.
func (s *server) retention() []operation {
	return []operation{
		{"GET", "/v1/retention", "list_retentions", "List how long the fleets' ended tasks and keys live.", nil, api.RetentionPage{}, []string{consistency}, one, (*server).retentions},
		{"PUT", "/v1/fleets/{fleet}/retention", "set_retention", "Set how long a fleet's ended tasks and keys live; fleet * is for those without their own.",
			api.Retention{}, api.Retention{}, nil, one, (*server).setRetention},
		{"DELETE", "/v1/fleets/{fleet}/retention", "remove_retention", "Leave a fleet to the default.", nil, nil, nil, one, (*server).removeRetention},
	}
}

func (s *server) retentions(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Retentions(r.Context())
	return answer(s, w, v, err)
}

func (s *server) setRetention(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.Retention](r)
	if err != nil {
		return err
	}
	if err := ofFleet(r, &in.FleetID, &in.By); err != nil {
		return err
	}
	v, err := s.b.SetRetention(r.Context(), in)
	return answer(s, w, v, err)
}

func (s *server) removeRetention(w http.ResponseWriter, r *http.Request) error {
	if err := s.b.RemoveRetention(r.Context(), r.PathValue("fleet"), actor(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
