package compliance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func example(t testing.TB) *Pack {
	t.Helper()
	p, err := Parse(Example)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func personal(action, input string) Intent {
	return Intent{Fleet: "f", Action: action, Target: "crm", Guarantee: "at_least_once", Classification: "personal", Input: json.RawMessage(input)}
}

// TestExample walks the shipped pack: which intents it lets through, and what
// it asks of the others.
func TestExample(t *testing.T) {
	p := example(t)
	with := func(in Intent, change func(*Intent)) Intent { change(&in); return in }
	for _, c := range []struct {
		name string
		in   Intent
		want string
	}{
		{"not about personal data", with(personal("erase", `{}`), func(in *Intent) { in.Classification = "public" }), "allowed"},
		{"another verb", personal("read", `{}`), "allowed"},
		{"erasure without a request", personal("erase", `{}`), "refused erasure-needs-request level exactly_once"},
		{"erasure under legal hold", personal("erase", `{"subject_ref":"s","request_id":"r","legal_hold":true}`), "refused erasure-needs-request level exactly_once"},
		{"erasure once only", personal("erase", `{"subject_ref":"s","request_id":"r"}`), "level exactly_once"},
		{"erasure as it should be", with(personal("erase", `{"subject_ref":"s","request_id":"r","legal_hold":false}`), func(in *Intent) { in.Guarantee = "exactly_once" }), "allowed"},
		{"export inside the EEA", personal("export", `{"legal_basis":"consent","destination_region":"EEA","record_count":10}`), "allowed"},
		{"export without a basis", personal("export", `{"destination_region":"EU","record_count":10}`), "refused export-lawful-basis"},
		{"export abroad", personal("export", `{"legal_basis":"contract","destination_region":"US","record_count":10}`), "approvers 1"},
		{"export abroad, approval asked for", with(personal("export", `{"legal_basis":"contract","destination_region":"US","record_count":10}`), func(in *Intent) { in.Approvers = 1 }), "allowed"},
		{"special category", with(personal("export", `{"legal_basis":"consent","destination_region":"EU","record_count":10}`), func(in *Intent) { in.Classification = "special_category" }), "approvers 2"},
		{"large export", personal("export", `{"legal_basis":"consent","destination_region":"EU","record_count":200000}`), "allowed warned export-volume"},
		{"region of another type", personal("export", `{"legal_basis":"consent","destination_region":7,"record_count":10}`), "approvers 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Evaluate([]*Pack{p}, &c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := outline(d); got != c.want {
				t.Errorf("got %q, want %q; violations %+v", got, c.want, d.Violations)
			}
		})
	}
}

func outline(d Decision) string {
	var out []string
	if d.Refused {
		out = append(out, "refused "+d.Decisive().Rule)
	}
	if d.Approvers > 0 {
		out = append(out, fmt.Sprintf("approvers %d", d.Approvers))
	}
	if d.Level != "" {
		out = append(out, "level "+d.Level)
	}
	if len(out) == 0 {
		out = append(out, "allowed")
	}
	for _, v := range d.Violations {
		if v.Effect == Warn {
			out = append(out, "warned "+v.Rule)
		}
	}
	return strings.Join(out, " ")
}

const oneRule = `
pack: p
version: 1
rules:
  - id: r
    trigger: {verbs: ["do:*"]}
    validations: [%s]
    message: m
`

// TestOperators: each operator on values of each kind, and on none.
func TestOperators(t *testing.T) {
	for _, c := range []struct {
		validation, input string
		holds             bool
	}{
		{`{field: input.a, equals: x}`, `{"a":"x"}`, true},
		{`{field: input.a, equals: x}`, `{"a":"y"}`, false},
		{`{field: input.a, equals: x}`, `{}`, false},
		{`{field: input.a, equals: 1}`, `{"a":1.0}`, true},
		{`{field: input.a, equals: 1}`, `{"a":"1"}`, false},
		{`{field: input.a, equals: true}`, `{"a":true}`, true},
		{`{field: input.a, equals: false}`, `{"a":0}`, false},
		{`{field: input.a.b, exists: true}`, `{"a":{"b":0}}`, true},
		{`{field: input.a.b, exists: true}`, `{"a":{"b":null}}`, false},
		{`{field: input.a.b, exists: true}`, `{"a":[1]}`, false},
		{`{field: input.a.b, exists: false}`, `{"a":7}`, true},
		{`{field: input.a, in: [x, 2]}`, `{"a":2}`, true},
		{`{field: input.a, in: [x, 2]}`, `{"a":"2"}`, false},
		{`{field: input.a, in: []}`, `{"a":"2"}`, false},
		{`{field: input.a, not_in: [x]}`, `{"a":"y"}`, true},
		{`{field: input.a, not_in: [x]}`, `{"a":"x"}`, false},
		{`{field: input.a, not_in: [x]}`, `{}`, true},
		{`{field: input.a, greater_than: 3}`, `{"a":3.5}`, true},
		{`{field: input.a, greater_than: 3}`, `{"a":3}`, false},
		{`{field: input.a, greater_than: 3}`, `{"a":"4"}`, false},
		{`{field: input.a, less_than: 0}`, `{"a":-1}`, true},
		{`{field: input.a, less_than: 0}`, `{}`, false},
		{`{cel: 'task.input.a == "x" && task.verb == "do:it"'}`, `{"a":"x"}`, true},
		{`{cel: 'task.input.a == "x"'}`, `{}`, false},                        // no such key
		{`{cel: 'task.input.list.all(i, i < 5.0)'}`, `{"list":[1,2]}`, true}, // JSON numbers are doubles
	} {
		p, err := Parse(fmt.Appendf(nil, oneRule, c.validation))
		if err != nil {
			t.Errorf("%s: %v", c.validation, err)
			continue
		}
		d, err := Evaluate([]*Pack{p}, &Intent{Action: "do", Target: "it", Input: json.RawMessage(c.input)})
		if err != nil || d.Refused == c.holds {
			t.Errorf("%s on %s: refused %v, err %v; %+v", c.validation, c.input, d.Refused, err, d.Violations)
		}
	}
}

// TestMistakes: a pack with a mistake is refused, and all mistakes are named.
func TestMistakes(t *testing.T) {
	rule := func(fields string) string {
		return "pack: p\nversion: 1\nrules:\n  - " + strings.ReplaceAll(fields, "\n", "\n    ")
	}
	ok := "id: r\ntrigger: {verbs: [\"a:b\"]}\nmessage: m\n"
	for _, c := range []struct{ text, want string }{
		{"pack: [", "does not parse"},
		{"pack: p\nversion: 1\nrulez: []", "rulez"},
		{"pack: P\nversion: x\nrules: []", "want a name of lower-case"},
		{"pack: p\nversion: x\nrules: []", "want numbers and dots"},
		{"pack: p\nversion: 1\nrules: []", "0 rules"},
		{rule(ok), "0 validations"},
		{rule(ok + "validations: [{field: input.a, matches: x}]"), "matches"},
		{rule(ok + "validations: [{field: input.a}]"), "0 operators"},
		{rule(ok + "validations: [{field: input.a, exists: true, equals: 1}]"), "2 operators"},
		{rule(ok + "validations: [{field: inptu.a, exists: true}]"), "fields begin with"},
		{rule(ok + "validations: [{field: verb.a, exists: true}]"), "fields begin with"},
		{rule(ok + "validations: [{field: input.a, equals: [1]}]"), "compared with"},
		{rule(ok + "validations: [{cel: 'task.verb =='}]"), "cel"},
		{rule(ok + "validations: [{cel: '1 + 1'}]"), "want bool"},
		{rule(ok + "validations: [{cel: 'nothing.verb == 1'}]"), "undeclared reference"},
		{rule(ok + "validations: [{cel: 'true', field: verb}]"), "stands alone"},
		{rule(ok + "validations: [{cel: '" + strings.Repeat("x", MaxExpressionBytes+1) + "'}]"), "expression of"},
		{rule(ok + "validations: [{cel: '" + costly(4) + "'}]"), "on the smallest inputs"},
		{rule(ok + "validations: [{field: verb, exists: true}]\non_violation: explode"), "on_violation"},
		{rule(ok + "validations: [{field: verb, exists: true}]\nseverity: fatal"), "severity"},
		{rule(ok + "validations: [{field: verb, exists: true}]\nseverity: warning\non_violation: refuse"), "a warning has no effect"},
		{rule(ok + "validations: [{field: verb, exists: true}]\non_violation: raise_level\nlevel: best_effort"), "level"},
		{rule(ok + "validations: [{field: verb, exists: true}]\non_violation: require_approval\napprovers: 17"), "approvers 17"},
		{rule("id: r\ntrigger: {}\nmessage: m\nvalidations: [{field: verb, exists: true}]"), "name verbs"},
		{rule("id: r\ntrigger: {verbs: [ab]}\nmessage: m\nvalidations: [{field: verb, exists: true}]"), "action:target"},
		{rule("id: r\ntrigger: {verbs: [\"a*b:c\"]}\nmessage: m\nvalidations: [{field: verb, exists: true}]"), "action:target"},
		{rule("id: r\ntrigger: {verbs: [\"a:b\"]}\nvalidations: [{field: verb, exists: true}]"), "message"},
		{rule(ok+"validations: [{field: verb, exists: true}]") + "\n  - " + strings.ReplaceAll(ok+"validations: [{field: verb, exists: true}]", "\n", "\n    "), "used twice"},
		{strings.Repeat("#", MaxPackBytes+1), "at most"},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.120q: %v, want a mistake that says %q", c.text, err, c.want)
		}
	}
	_, err := Parse([]byte("pack: P\nversion: x\nrules:\n  - id: R\n    severity: fatal\n"))
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n < 6 {
		t.Errorf("%d mistakes named, want all: %v", n, err)
	}
}

// costly nests loops over a literal list of ten: 10^depth steps at least.
func costly(depth int) string {
	list := "[1,2,3,4,5,6,7,8,9,10]"
	expr := "true"
	for i := range depth {
		expr = fmt.Sprintf("%s.all(v%d, %s)", list, i, expr)
	}
	return expr
}

// TestCostAtRunTime: what the estimate can't know is stopped, and counts as
// violated.
func TestCostAtRunTime(t *testing.T) {
	p, err := Parse(fmt.Appendf(nil, oneRule, `{cel: 'task.input.l.all(a, task.input.l.all(b, a + b >= 0.0))'}`))
	if err != nil {
		t.Fatal(err)
	}
	list := func(n int) json.RawMessage {
		return json.RawMessage(`{"l":[` + strings.TrimSuffix(strings.Repeat("1,", n), ",") + `]}`)
	}
	for n, refused := range map[int]bool{10: false, 2000: true} {
		d, err := Evaluate([]*Pack{p}, &Intent{Action: "do", Target: "it", Input: list(n)})
		if err != nil || d.Refused != refused {
			t.Errorf("a list of %d: refused %v, err %v", n, d.Refused, err)
		}
		if refused && !strings.Contains(d.Violations[0].Why, "cost limit") {
			t.Errorf("why: %s", d.Violations[0].Why)
		}
	}
}

// TestNothingPersonalIsShown: why a rule is violated goes into records.
func TestNothingPersonalIsShown(t *testing.T) {
	p, err := Parse(fmt.Appendf(nil, oneRule, `{field: input.name, in: [x]}`))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Evaluate([]*Pack{p}, &Intent{Action: "do", Target: "it", Input: json.RawMessage(`{"name":"Erika Mustermann"}`)})
	if err != nil || !d.Refused {
		t.Fatal(d, err)
	}
	if b, _ := json.Marshal(d); strings.Contains(string(b), "Erika") {
		t.Errorf("%s", b)
	}
}

func TestBadIntent(t *testing.T) {
	if _, err := Evaluate([]*Pack{example(t)}, &Intent{Action: "erase", Target: "x", Classification: "personal", Input: json.RawMessage(`{`)}); err == nil {
		t.Error("an input that is no JSON was evaluated")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Example)
	f.Add(fmt.Appendf(nil, oneRule, `{cel: 'true'}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		if _, err := Evaluate([]*Pack{p}, &Intent{Action: "do", Target: "it", Classification: "personal", Input: json.RawMessage(`{"a":[1,{"b":"c"}]}`)}); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	packs := []*Pack{example(b)}
	in := personal("export", `{"legal_basis":"consent","destination_region":"EEA","record_count":10}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Evaluate(packs, &in); err != nil {
			b.Fatal(err)
		}
	}
}
