package client

import (
	"crypto/x509"
	"net/http/httptest"
	"strings"
	"testing"

	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// fakesCertificate is what fake nodes with TLS serve, and its own authority.
func fakesCertificate() *x509.Certificate {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.Certificate()
}

// A node that was told of by TLS is gone to by TLS.
func TestPerformersFollowByTLS(t *testing.T) {
	for _, p := range performers {
		t.Run(p.name, func(t *testing.T) {
			first, second := newFake(t, (*httptest.Server).StartTLS), newFake(t, (*httptest.Server).StartTLS)
			first.nodes = []string{strings.TrimPrefix(second.url, "https://")}
			stop := p.start(t, first.url, 1, 1)
			s := first.session()
			s.tell(&pb.SessionResponse{Drain: true})
			s = second.session()
			s.push(told("a", 1, "do", 0))
			if x := s.settled(1)[0]; x.Failed || x.TaskId != "a" {
				t.Errorf("%v", x)
			}
			stop()
		})
	}
}
