package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/client"
)

// authority is a CA that a test makes.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	c := a.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// issue signs a certificate; the first is the authority's own.
func (a *authority) issue(x *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	x.SerialNumber, x.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "test"}
	x.NotBefore, x.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = x, key
	}
	der, err := x509.CreateCertificate(rand.Reader, x, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Nodes whose API listeners are TLS's, and want to know the client: it calls,
// streams and follows with Config.TLS, by https to nodes it was told of too.
func TestClientTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serves := &tls.Config{NextProtos: []string{"h2", "http/1.1"}, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{
		ca.issue(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})}}
	c := startCluster(t, 3, func(cfg *Config) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.APIListener = tls.NewListener(l, serves)
	})
	c.allKnown()
	lost := c.nodes[0]
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	dial := func(url string, with *tls.Config) *client.Client {
		cl, err := client.New(client.Config{URLs: []string{url}, TLS: with})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	mine := ca.issue(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	knows := &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{mine}}
	cl := dial(lost.APIAddr(), knows) // no scheme: https
	s := dial("https://"+lost.APIAddr(), knows).Submitter()
	defer s.Close()
	stop := working(t, dial("https://"+lost.APIAddr(), knows), client.WorkConfig{Manifest: manifest("w", 4, "do:it"),
		Handler: func(context.Context, *client.Task) (any, error) { return "done", nil }})
	await := submits(ctx, t, dial("https://"+lost.APIAddr(), knows))
	round := func() {
		t.Helper()
		v, err := cl.Submit(ctx, api.TaskSpec{Action: "do", Target: "it"})
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.Submit(ctx, []api.TaskSpec{{Action: "do", Target: "it"}})
		if err != nil || list[0].Error != nil {
			t.Fatal(list, err)
		}
		for _, id := range []string{v.TaskID, list[0].TaskID} {
			if task, err := cl.Wait(ctx, id); err != nil || task.State != "completed" {
				t.Fatalf("%s %s: %v", id, task.State, err)
			}
		}
		await(list[0].TaskID)
	}
	round()
	for what, with := range map[string]*tls.Config{"an unknown CA": {Certificates: knows.Certificates}, "no client's certificate": {RootCAs: ca.pool},
		"another name": {RootCAs: ca.pool, Certificates: knows.Certificates, ServerName: "elsewhere"}} {
		untrusted(ctx, t, what, dial(lost.APIAddr(), with))
	}
	c.nodes = c.nodes[1:]
	if err := lost.Close(); err != nil {
		t.Error(err)
	}
	round()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// untrusted says that everything a client does ends, and why.
func untrusted(ctx context.Context, t *testing.T, what string, c *client.Client) {
	t.Helper()
	check := func(how string, err error) {
		t.Helper()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != "untrusted_node" || e.Layer != 2 || e.Hint == "" {
			t.Errorf("%s: %s: %v", what, how, err)
		}
	}
	_, err := c.Cluster(ctx)
	check("a call", err)
	check("events", c.Events(ctx, "", func(api.Event) error { return nil }))
	check("work", c.Work(ctx, manifest("x", 1, "do:it"), func(context.Context, *client.Task) (any, error) { return nil, nil }))
	s := c.Submitter()
	defer s.Close()
	_, err = s.Submit(ctx, []api.TaskSpec{{Action: "do", Target: "it"}})
	check("submits", err)
}
