package proof

import (
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/quorate/quorate/ledger"
)

// AppendLine writes a record's line of an export, line feed included: what it
// proves (canonical bytes and leaf hash) first, then the same in words. The
// words follow from the bytes, so a line has one form.
func AppendLine(dst, body []byte, r *ledger.Record) []byte {
	l := line{append(dst, `{"bytes":"`...)}
	l.b = base64.StdEncoding.AppendEncode(l.b, body)
	l.b = append(l.b, `","hash":"`...)
	h := Leaf(body)
	l.b = append(hex.AppendEncode(l.b, h[:]), '"')
	l.uint("shard", uint64(r.Shard), true)
	l.uint("seq", r.Seq, true)
	l.uint("log_index", r.Index, true)
	l.time("time", r.TimeMillis, true)
	l.text("verb", r.Verb, true)
	if !r.Task.IsZero() {
		l.text("task_id", r.Task.String(), true)
	}
	l.text("fleet_id", r.Fleet, false)
	action, target, _ := strings.Cut(r.Capability, ":")
	l.text("action", action, false)
	l.text("target", target, false)
	l.text("guarantee_level", r.Guarantee.String(), false)
	l.text("state_before", r.From.String(), false)
	l.text("state_after", r.To.String(), false)
	l.text("agent_id", r.Agent, false)
	l.text("actor", r.Actor, false)
	l.uint("epoch", r.Epoch, false)
	l.uint("attempt", uint64(r.Attempt), false)
	if r.Code != ledger.OK {
		l.text("code", r.Code.String(), true)
	}
	l.text("detail", r.Detail, false)
	l.time("assigned_at", r.AssignedMillis, false)
	l.time("started_at", r.StartedMillis, false)
	l.text("stolen_from", r.StolenFrom, false)
	l.digest("request_digest", &r.RequestDigest)
	l.digest("result_digest", &r.ResultDigest)
	l.digest("params_digest", &r.ParamsDigest)
	l.text("approver", r.Approver, false)
	l.text("session_id", r.Session, false)
	l.task("parent_task_id", r.Parent)
	l.task("verify_task_id", r.VerifyTask)
	l.task("rollback_task_id", r.RollbackTask)
	l.text("data_classification", r.Classification, false)
	if len(r.Regulations) > 0 {
		l.b = append(l.b, `,"regulation_refs":[`...)
		for i, s := range r.Regulations {
			if i > 0 {
				l.b = append(l.b, ',')
			}
			l.b = appendQuoted(l.b, s)
		}
		l.b = append(l.b, ']')
	}
	l.text("rule_pack", r.Pack, false)
	l.text("evidence", r.Evidence, false)
	l.uint("stolen_from_load_thousandths", uint64(r.FromLoad), false)
	l.uint("stolen_to_load_thousandths", uint64(r.ToLoad), false)
	return append(l.b, '}', '\n')
}

// line appends members of a JSON object; what is zero is left out unless it
// always stands there.
type line struct{ b []byte }

func (l *line) name(n string) {
	l.b = append(append(append(l.b, ',', '"'), n...), '"', ':')
}

func (l *line) uint(name string, v uint64, always bool) {
	if v != 0 || always {
		l.name(name)
		l.b = strconv.AppendUint(l.b, v, 10)
	}
}

func (l *line) text(name, v string, always bool) {
	if v != "" || always {
		l.name(name)
		l.b = appendQuoted(l.b, v)
	}
}

func (l *line) digest(name string, h *[32]byte) {
	if *h != ([32]byte{}) {
		l.name(name)
		l.b = append(hex.AppendEncode(append(l.b, '"'), h[:]), '"')
	}
}

func (l *line) task(name string, id ledger.TaskID) {
	if !id.IsZero() {
		l.text(name, id.String(), true)
	}
}

func (l *line) time(name string, millis int64, always bool) {
	if millis != 0 || always {
		l.name(name)
		l.b = append(appendTime(append(l.b, '"'), millis), '"')
	}
}

// appendQuoted writes a JSON string: quote, backslash and what is below a
// space escaped (as \", \\ and \u00xx), each byte that is not UTF-8 as \ufffd,
// all else as it is.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= utf8.RuneSelf:
			dst = append(dst, `\ufffd`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
		}
		i += size
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

const hexDigits = "0123456789abcdef"

// appendTime writes milliseconds since the Unix epoch as RFC 3339 in UTC with
// three decimals. The date is Howard Hinnant's days_from_civil turned round
// (chrono-Compatible Low-Level Date Algorithms).
func appendTime(dst []byte, millis int64) []byte {
	days, rest := millis/86_400_000, millis%86_400_000
	if rest < 0 {
		days, rest = days-1, rest+86_400_000
	}
	z := days + 719_468
	era := z / 146_097
	if z < 0 {
		era = (z - 146_096) / 146_097
	}
	doe := z - era*146_097
	yoe := (doe - doe/1460 + doe/36_524 - doe/146_096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day, month, year := doy-(153*mp+2)/5+1, mp+3, yoe+era*400
	if month > 12 {
		month, year = month-12, year+1
	}
	pad := func(v int64, width int) {
		for n := int64(10); width > 1; width-- {
			if v < n {
				dst = append(dst, "000"[:width-1]...)
				break
			}
			n *= 10
		}
		dst = strconv.AppendInt(dst, v, 10)
	}
	pad(max(year, 0), 4)
	dst = append(dst, '-')
	pad(month, 2)
	dst = append(dst, '-')
	pad(day, 2)
	dst = append(dst, 'T')
	pad(rest/3_600_000, 2)
	dst = append(dst, ':')
	pad(rest/60_000%60, 2)
	dst = append(dst, ':')
	pad(rest/1000%60, 2)
	dst = append(dst, '.')
	pad(rest%1000, 3)
	return append(dst, 'Z')
}
