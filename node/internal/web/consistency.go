package web

import (
	"net/http"

	"github.com/quorate/quorate/node/api"
)

// consistency is the parameter of reads that says how they may be answered.
const consistency = "consistency"

// consistent reads the parameter, and labels the answer.
func consistent(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	q := r.URL.Query()
	word := q.Get(consistency)
	switch {
	case !q.Has(consistency) || word == api.Linearizable && len(q[consistency]) == 1:
		word = api.Linearizable
	case word == api.Stale && len(q[consistency]) == 1:
		r = r.WithContext(api.WithStale(r.Context()))
	default:
		return r, errBad("bad_parameter", "%s=%s is not known", consistency, excerpt([]byte(word))).WithHint("%s or %s, once", api.Linearizable, api.Stale)
	}
	w.Header().Set(api.ConsistencyHeader, word)
	return r, nil
}

var consistencyWords = map[string]any{"type": "string", "enum": []string{api.Linearizable, api.Stale}, "default": api.Linearizable}

var consistencyParameter = map[string]any{"name": consistency, "in": "query", "schema": consistencyWords,
	"description": "linearizable: everything acknowledged before the request is in the answer. stale: what the answering node has applied, " +
		"at once and also without a quorum; it may be behind."}

var consistencyHeader = map[string]any{api.ConsistencyHeader: map[string]any{"schema": consistencyWords,
	"description": "How the request was answered."}}
