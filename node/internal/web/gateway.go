package web

import (
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/quorate/quorate/node/api"
)

// forward passes a request on to the first member that can be reached. A body
// that was begun can't be sent again, so only requests without one try the
// next member after a failure to connect.
func (s *server) forward(w http.ResponseWriter, r *http.Request, urls []string) {
	for i, u := range urls {
		target, err := url.Parse(u)
		if err != nil || target.Host == "" {
			continue
		}
		last := i == len(urls)-1 || r.ContentLength != 0
		failed := false
		p := &httputil.ReverseProxy{
			Rewrite:       func(pr *httputil.ProxyRequest) { pr.SetURL(target); pr.SetXForwarded() },
			FlushInterval: -1, // streams arrive line by line
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				if failed = true; last {
					s.fail(w, api.Errorf(502, 2, "member_unreachable", api.RetrySameKey, "member %s: %v", target.Host, err))
				}
			},
		}
		p.ServeHTTP(w, r)
		if !failed || last {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}
	s.fail(w, api.Errorf(503, 5, "no_member_reachable", api.RetryLater, "this gateway knows no reachable member of its cluster").
		WithHint("use a member's address, or wait"))
}
