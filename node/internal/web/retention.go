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
		{"PUT", "/v1/fleets/{fleet}/record-retention", "set_record_retention", "Set how long a fleet's audit records stay in the journals; fleet * is for those without their own, and for records of no fleet.",
			api.RecordRetention{}, api.RecordRetention{}, nil, one, (*server).setRecordRetention},
		{"DELETE", "/v1/fleets/{fleet}/record-retention", "remove_record_retention", "Leave a fleet's audit records to the retention of *.", nil, nil, nil, one, (*server).removeRecordRetention},
		{"POST", "/v1/audit/archive", "archive_records", "Have the answering node archive the audit records whose time is over, and let go of them.", nil, api.ArchivePage{}, nil, one, (*server).archive},
		{"GET", "/v1/audit/archive", "archived_records", "Which audit records the journals do not have any more, and where they are.", nil, api.ArchivePage{}, nil, one, (*server).archived},
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

func (s *server) setRecordRetention(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.RecordRetention](r)
	if err != nil {
		return err
	}
	if err := ofFleet(r, &in.FleetID, &in.By); err != nil {
		return err
	}
	v, err := s.b.SetRecordRetention(r.Context(), in)
	return answer(s, w, v, err)
}

func (s *server) removeRecordRetention(w http.ResponseWriter, r *http.Request) error {
	if err := s.b.RemoveRecordRetention(r.Context(), r.PathValue("fleet"), actor(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) archive(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Archive(r.Context())
	return answer(s, w, v, err)
}

func (s *server) archived(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Archived(r.Context())
	return answer(s, w, v, err)
}
