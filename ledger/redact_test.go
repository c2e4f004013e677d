package ledger

import (
	"strings"
	"testing"
)

// TestSecretNames: what is refused as a name, and what only looks a bit like it.
func TestSecretNames(t *testing.T) {
	long := strings.Repeat("aB3", 10)
	for _, s := range []string{"https://bob:hunter2@host/x", "db?password=hunter2", "token=sk-123456", "API_KEY='abcdef'", "Bearer abcdefgh12", "sk-" + long,
		"sk-ant-api03-" + long, "sk-proj-" + long, "ghp_" + long, "github_pat_" + long, "glpat-" + long, "xoxb-123456789012", "AKIAABCDEFGHIJKLMNOP",
		"AIza" + long, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx", "-----BEGIN RSA PRIVATE KEY-----x"} {
		if !SecretName(s) {
			t.Errorf("%q passes for a name", s)
		}
		if Redact(s) == s {
			t.Errorf("%q would stand in a text", s)
		}
	}
	for _, s := range []string{"", "default", "web", "secret:db", "token:refresh", "vault/secret/db", "https://host:8080/x", "https://bob@host/x", "postgres://host/db", "sk-learn-pipeline-training",
		"ASIA-northeast1-production", "tokens=5000", "password=", "a=b", "bearer token", "ghost-writer", "user@example.com", "eyJ-like", "AKIAABCDEFGHIJKLMNOPQRSTUV"} {
		if SecretName(s) {
			t.Errorf("%q is refused as a name", s)
		}
	}
}

// FuzzSecretName: the hints leave out nothing that an expression would find,
// and what is refused as a name would be taken out of a text too.
func FuzzSecretName(f *testing.F) {
	f.Add("https://bob:hunter2@host/x")
	f.Add("my token = abcdef")
	f.Add("sk-ant-api03-aB3aB3aB3aB3aB3aB3aB3aB3aB3")
	f.Fuzz(func(t *testing.T, s string) {
		found := false
		for _, x := range secretNames {
			found = found || len(s) >= 8 && x.MatchString(s)
		}
		if SecretName(s) != found {
			t.Errorf("%q: %v, an expression says %v", s, !found, found)
		}
		if found && !strings.Contains(Redact(s), Redacted) {
			t.Errorf("%q is no name, and would stand in a text", s)
		}
	})
}

func BenchmarkSecretName(b *testing.B) {
	for b.Loop() {
		SecretName("payments-eu")
	}
}
