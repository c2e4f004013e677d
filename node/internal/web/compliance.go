package web

import (
	"net/http"

	"github.com/quorate/quorate/node/api"
)

// rules is the part of the table that is about compliance.
func (s *server) rules() []operation {
	return []operation{
		{"POST", "/v1/compliance/validate", "validate_intent", "Say what the rules would make of an intent; nothing is declared or recorded.",
			api.ComplianceRequest{}, api.ComplianceDecision{}, nil, one, (*server).validate},
		{"GET", "/v1/compliance/packs", "list_packs", "List rule packs and the fleets they bind.", nil, api.PackPage{}, []string{consistency}, one, (*server).packs},
		{"POST", "/v1/compliance/packs", "put_pack", "Enter a rule pack. A version never changes.", api.PackText{}, api.RulePack{}, nil, one, (*server).putPack},
		{"GET", "/v1/compliance/packs/{name}", "get_pack", "Read a rule pack, ID@version.", nil, api.RulePack{}, []string{consistency}, one, (*server).pack},
		{"DELETE", "/v1/compliance/packs/{name}", "remove_pack", "Remove a rule pack that binds no fleet.", nil, nil, nil, one, (*server).removePack},
		{"POST", "/v1/compliance/fleets/{fleet}", "bind_fleet", "Replace the packs a fleet's intents are checked against.", api.FleetPacks{}, api.FleetPacks{}, nil, one, (*server).bindFleet},
	}
}

func (s *server) validate(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.ComplianceRequest](r)
	if err != nil {
		return err
	}
	v, err := s.b.ValidateCompliance(r.Context(), in)
	return answer(s, w, v, err)
}

func (s *server) packs(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Packs(r.Context())
	return answer(s, w, v, err)
}

func (s *server) pack(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Pack(r.Context(), r.PathValue("name"))
	return answer(s, w, v, err)
}

func (s *server) putPack(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.PackText](r)
	if err != nil {
		return err
	}
	if in.By == "" {
		in.By = actor(r)
	}
	v, err := s.b.PutPack(r.Context(), in)
	return answer(s, w, v, err)
}

func (s *server) removePack(w http.ResponseWriter, r *http.Request) error {
	if err := s.b.RemovePack(r.Context(), r.PathValue("name"), actor(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) bindFleet(w http.ResponseWriter, r *http.Request) error {
	in, err := strict[api.FleetPacks](r)
	if err != nil {
		return err
	}
	if err := ofFleet(r, &in.FleetID, &in.By); err != nil {
		return err
	}
	v, err := s.b.BindFleet(r.Context(), in)
	return answer(s, w, v, err)
}

// ofFleet fills in what a request about a fleet says by its path and caller.
func ofFleet(r *http.Request, fleet, by *string) error {
	path := r.PathValue("fleet")
	if *fleet != "" && *fleet != path {
		return errBad("bad_parameter", "fleet_id %q is not the path's %q", *fleet, path)
	}
	if *fleet = path; *by == "" {
		*by = actor(r)
	}
	return nil
}
