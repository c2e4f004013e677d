package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

// TestTLSFlags: with --tls-ca, --tls-cert and --tls-key commands speak to a
// proxy that wants a certificate; what is wrong with the files is said.
func TestTLSFlags(t *testing.T) {
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, own, own, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"cluster":"seen"}`)) }))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	defer s.Close()
	good := apiFlags{API: []string{s.URL}, Patience: 5 * time.Second, TLSCA: file("ca.pem", "CERTIFICATE", s.Certificate().Raw),
		TLSCert: file("cert.pem", "CERTIFICATE", der), TLSKey: file("key.pem", "EC PRIVATE KEY", private)}
	for name, c := range map[string]struct {
		change func(*apiFlags)
		says   string
	}{
		"all":            {func(*apiFlags) {}, ""},
		"no certificate": {func(f *apiFlags) { f.TLSCert, f.TLSKey = "", "" }, "certificate"},
		"another CA":     {func(f *apiFlags) { f.TLSCA = f.TLSCert }, "certificate"},
		"no key":         {func(f *apiFlags) { f.TLSKey = "" }, "--tls-cert and --tls-key go together"},
		"no such file":   {func(f *apiFlags) { f.TLSCA = filepath.Join(dir, "absent") }, "--tls-ca: open"},
		"a key for a CA": {func(f *apiFlags) { f.TLSCA = f.TLSKey }, "has no certificate in PEM"},
		"cert for a key": {func(f *apiFlags) { f.TLSKey = f.TLSCert }, "--tls-cert, --tls-key"},
	} {
		f := good
		c.change(&f)
		cl, err := f.client()
		var v api.Cluster
		if err == nil {
			v, err = cl.Cluster(t.Context())
			cl.Close()
		}
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) || err == nil && v.Cluster != "seen" {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}
