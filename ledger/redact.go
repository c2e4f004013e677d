package ledger

import (
	"regexp"
	"strings"
)

// Redacted stands in a record where a secret was.
const Redacted = "[redacted]"

// What looks like a secret in people's words. The first group is kept.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(?s)()-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*`),
	regexp.MustCompile(`(?i)([\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|authorization)["']?\s*[=:]\s*(?:bearer |basic )?)(?:"[^"]*"?|'[^']*'?|[^\s,;&"']+)`),
	regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[a-z0-9._~+/=-]{8,}`),
	regexp.MustCompile(`(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@`),
	regexp.MustCompile(`()\b(?:sk-|gh[opusr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|eyJ)[A-Za-z0-9._-]{12,}`),
}

// Redact takes out of a text what looks like a secret: private keys, values of
// names like password, token or api_key, credentials of a header or a URL, and
// keys by their well-known beginnings. It is for the two fields of a record
// that people write, Detail and Evidence; no field holds input, context,
// result or an agent's error, of which records have digests only. Names stand
// as they are: [SecretName] keeps secrets out of them. It can't know every
// secret: what is secret belongs into the input, not into a reason.
func Redact(s string) string {
	if len(s) < 8 { // too short for any of them
		return s
	}
	for _, x := range secrets {
		if x.MatchString(s) {
			s = x.ReplaceAllString(s, "${1}"+Redacted)
		}
	}
	return s
}

// What is certainly no name. Stricter than secrets, for a name is refused and
// not only shortened: "secret:db" and "sk-learn-pipeline" are names.
var secretNames = []*regexp.Regexp{
	secrets[0],
	regexp.MustCompile(`(?i)(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|authorization)["']?\s*=\s*["']?[^\s,;&"']{4,}`),
	secrets[2],
	secrets[3],
	regexp.MustCompile(`\b(?:sk-(?:[a-z0-9]+-){0,3}[A-Za-z0-9_]{24,}|gh[opusr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{12,}|A[KS]IA[A-Z0-9]{16}\b|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,})`),
}

// hints are in every text that secretNames match: looking for them takes a
// hundredth of the time.
var hints = []string{"=", "://", " ", "-----BEGIN", "sk-", "gh", "github_pat_", "glpat-", "xox", "AKIA", "ASIA", "AIza", "eyJ"}

// SecretName says that a name (of a target, a session, a person, …) holds what
// looks like a secret. Names are matched, listed, gossiped, and stand in
// records for ever, so whoever takes them in refuses such a one.
func SecretName(s string) bool {
	if len(s) < 8 {
		return false
	}
	for _, h := range hints {
		if strings.Contains(s, h) {
			for _, x := range secretNames {
				if x.MatchString(s) {
					return true
				}
			}
			return false
		}
	}
	return false
}

// words are what a person said, for the Detail of a record: cut last, for half
// a secret may look like none.
func (t *Tasks) words(s string) string { return t.journal.words(s) }

func (j *journal) words(s string) string {
	if j.format == recordVersion1 { // has no redaction
		return cut(s, maxDetailBytes)
	}
	return cut(Redact(s), maxDetailBytes)
}
