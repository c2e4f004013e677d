package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/quorate/quorate/node/api"
)

// errNoMember says that a request went nowhere.
var errNoMember = errors.New("no member can be reached")

// newGateway passes requests on to members; answers arrive line by line.
func newGateway(b Backend, s *server) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetXForwarded()
			if p.Out.Header.Get("X-Quorate-Actor") == "" {
				p.Out.Header.Set("X-Quorate-Actor", actor(p.In)) // not the gateway's own address
			}
		},
		ModifyResponse: func(r *http.Response) error { r.Header.Del("X-Request-Id"); return nil }, // ours is set already
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		Transport: &members{list: b.Gateway, next: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute, DisableCompression: true,
		}, streams: streamTransport()},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var tooLarge *http.MaxBytesError
			switch {
			case r.Context().Err() != nil:
				return // nobody is listening any more
			case errors.As(err, &tooLarge):
				s.fail(w, bodyError(err))
			case errors.Is(err, errNoMember):
				s.fail(w, api.Errorf(503, 5, "no_member_reachable", api.RetryLater, "this gateway reaches no member of its cluster: %v", err).
					WithHint("use a member's address, or wait"))
			default:
				s.fail(w, api.Errorf(502, 2, "member_lost", api.RetrySameKey, "the member did not answer to the end: %v", err))
			}
		},
	}
}

// members sends a request to the first member that takes the connection. A
// request that was begun is never sent twice: its outcome is unknown.
type members struct {
	list    func() []string // base URLs, best first
	next    http.RoundTripper
	streams http.RoundTripper // HTTP/2
}

// streamTransport speaks HTTP/2 without TLS, which is how streams travel. A
// member whose listener was given TLS is not reached: members tell no scheme.
func streamTransport() *http.Transport {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, Protocols: p, DisableCompression: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}}
}

// RoundTrip implements http.RoundTripper.
func (m *members) RoundTrip(r *http.Request) (*http.Response, error) {
	body := r.Body // the proxy closes it
	var last error
	for _, base := range m.list() {
		u, err := url.Parse(base)
		if err != nil || u.Host == "" {
			continue
		}
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.Host = u.Scheme, u.Host, u.Host
		if body != nil {
			out.Body = io.NopCloser(body) // a failed dial must not close it
		}
		next := m.next
		if r.ProtoMajor == 2 {
			next = m.streams
		}
		resp, err := next.RoundTrip(out)
		if err == nil || !undelivered(err) {
			return resp, err
		}
		last = err
	}
	return nil, errors.Join(errNoMember, last)
}

// undelivered says that no connection came about.
func undelivered(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !errors.Is(err, context.Canceled)
}
