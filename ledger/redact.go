package ledger

import "regexp"

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
// result or an agent's error, of which records have digests only. It can't
// know every secret: what is secret belongs into the input, not into a reason.
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
