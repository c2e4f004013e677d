package ledger

import "unicode/utf8"

// The JSON that the ledger itself reads and writes. It has its own reader and
// writer because a library's may change what it accepts, and a log must decide
// the same for ever.

// answer is what a verify task found out.
type answer uint8

const (
	answerCantTell answer = iota
	answerYes
	answerNo
	answerPartly
)

var answerNames = []string{"can't tell", "yes", "no", "partly"}

func (a answer) String() string { return word(answerNames, uint8(a)) }

// readAnswer reads a verify task's result: true, false, "yes", "no",
// "partial", or an object whose member "happened" is one of these, and whose
// member "result", if any, becomes the task's. Anything else can't tell.
func readAnswer(result []byte) (answer, []byte) {
	b := skipSpace(result)
	if len(b) == 0 || b[0] != '{' {
		return wordAnswer(b), nil
	}
	says, value := answerCantTell, []byte(nil)
	for b = skipSpace(b[1:]); len(b) > 0 && b[0] == '"'; {
		n := jsonLength(b)
		name := string(b[:n])
		if b = skipSpace(b[n:]); len(b) == 0 || b[0] != ':' {
			break
		}
		b = skipSpace(b[1:])
		n = jsonLength(b)
		if n == 0 {
			break
		}
		switch name {
		case `"happened"`:
			says = wordAnswer(b[:n])
		case `"result"`:
			value = b[:n]
		}
		if b = skipSpace(b[n:]); len(b) > 0 && b[0] == ',' {
			b = skipSpace(b[1:])
		}
	}
	return says, value
}

func wordAnswer(b []byte) answer {
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	switch string(b) {
	case `true`, `"yes"`:
		return answerYes
	case `false`, `"no"`:
		return answerNo
	case `"partial"`, `"partly"`:
		return answerPartly
	}
	return answerCantTell
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func skipSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

// jsonLength is how long the JSON value at the beginning of b is, 0 if it has
// no end. It trusts that the whole is JSON: only where it ends matters.
func jsonLength(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if i >= len(b) {
				return 0
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']', ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
			if c == '}' || c == ']' {
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	if depth > 0 {
		return 0
	}
	return len(b)
}

func appendJSON(dst []byte, a, b string) []byte { return append(append(dst, a...), b...) }

// appendQuoted writes s as a JSON string; bytes that are no text become
// U+FFFD.
func appendQuoted(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}
