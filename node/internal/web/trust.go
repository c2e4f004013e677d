package web

import (
	"net/http"

	"github.com/quorate/quorate/node/api"
)

func (s *server) trustOperations() []operation {
	return []operation{
		{"GET", "/v1/trust", "list_trust", "What was measured of agents since the control shard's leader started: the share of leases they ended themselves, and the tier that makes.", nil, api.TrustPage{},
			[]string{"tier", "limit", "cursor"}, one, (*server).trusts},
		{"GET", "/v1/trust/{id}", "trust", "The same of one agent.", nil, api.Trust{}, nil, one, (*server).trust},
	}
}

func (s *server) trust(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Trust(r.Context(), r.PathValue("id"))
	return answer(s, w, v, err)
}

func (s *server) trusts(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit, err := number("limit", q.Get("limit"))
	if err != nil {
		return err
	}
	p, err := s.b.Trusts(r.Context(), api.TrustFilter{Tier: q.Get("tier"), Limit: limit, Cursor: q.Get("cursor")})
	return answer(s, w, p, err)
}
