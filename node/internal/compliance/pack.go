package compliance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Limits of a pack.
const (
	MaxPackBytes   = 256 << 10
	MaxRules       = 256 // a pack
	MaxValidations = 32  // a rule
	MaxValues      = 256 // of in and not_in
	MaxApprovers   = 16  // a rule may ask for
	MaxTextBytes   = 2048
)

// Severity says how much a violation weighs. A critical one has an effect, a
// warning is recorded.
type Severity string

// The severities.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
)

// Effect is what a violated critical rule does to the intent.
type Effect string

// The effects, from mild to strict.
const (
	Warn            Effect = "warn"             // of warnings: recorded, nothing more
	RaiseLevel      Effect = "raise_level"      // the guarantee level becomes at least the rule's
	RequireApproval Effect = "require_approval" // at least the rule's number of approvers
	Refuse          Effect = "refuse"
)

// Pack is a parsed set of rules.
type Pack struct {
	ID         string `yaml:"pack" json:"pack"`
	Version    string `yaml:"version" json:"version"`
	Title      string `yaml:"title" json:"title,omitempty"`
	Regulation string `yaml:"regulation" json:"regulation,omitempty"`
	Rules      []Rule `yaml:"rules" json:"rules"`

	digest [32]byte
}

// Rule is one requirement.
type Rule struct {
	ID          string       `yaml:"id" json:"id"`
	Title       string       `yaml:"title" json:"title,omitempty"`
	Reference   string       `yaml:"regulation_ref" json:"regulation_ref,omitempty"`
	Severity    Severity     `yaml:"severity" json:"severity"` // default critical
	Trigger     Trigger      `yaml:"trigger" json:"trigger"`
	Validations []Validation `yaml:"validations" json:"validations"`
	Effect      Effect       `yaml:"on_violation" json:"on_violation"` // default refuse
	Approvers   int          `yaml:"approvers" json:"approvers,omitempty"`
	Level       string       `yaml:"level" json:"level,omitempty"`
	Message     string       `yaml:"message" json:"message"`
	Evidence    []string     `yaml:"evidence" json:"evidence,omitempty"` // fields kept with the decision, as digests
}

// Trigger says which intents a rule is about: all of its parts that are given
// must fit. An empty trigger is a mistake.
type Trigger struct {
	Verbs           []string `yaml:"verbs" json:"verbs,omitempty"` // action:target; * in either part
	Classifications []string `yaml:"data_classification" json:"data_classification,omitempty"`
}

// Validation is one condition: a field and exactly one operator, or an
// expression.
type Validation struct {
	Field       string   `yaml:"field" json:"field,omitempty"` // path, dot-separated: input.legal_basis
	Equals      any      `yaml:"equals" json:"equals,omitempty"`
	Exists      *bool    `yaml:"exists" json:"exists,omitempty"`
	In          []any    `yaml:"in" json:"in,omitempty"`
	NotIn       []any    `yaml:"not_in" json:"not_in,omitempty"`
	GreaterThan *float64 `yaml:"greater_than" json:"greater_than,omitempty"`
	LessThan    *float64 `yaml:"less_than" json:"less_than,omitempty"`
	Expression  string   `yaml:"cel" json:"cel,omitempty"`
	Message     string   `yaml:"message" json:"message,omitempty"` // in place of the rule's

	program *program
}

// Name is the pack's ID and version as records carry it.
func (p *Pack) Name() string { return p.ID + "@" + p.Version }

// Digest is SHA-256 over the pack's text.
func (p *Pack) Digest() [32]byte { return p.digest }

// DigestHex is Digest in hexadecimal.
func (p *Pack) DigestHex() string { return hex.EncodeToString(p.digest[:]) }

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	versionForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+){0,2}$`)
)

// Parse reads a pack. The error joins every mistake found, each with the rule
// it is in.
func Parse(text []byte) (*Pack, error) {
	if len(text) > MaxPackBytes {
		return nil, fmt.Errorf("pack of %d bytes, at most %d", len(text), MaxPackBytes)
	}
	p := &Pack{}
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(p); err != nil {
		return nil, fmt.Errorf("pack does not parse: %s", firstLines(yaml.FormatError(err, false, true), 6))
	}
	p.digest = sha256.Sum256(text)
	var errs []error
	if !nameForm.MatchString(p.ID) {
		errs = append(errs, fmt.Errorf("pack %q: want a name of lower-case letters, digits, dots and dashes, at most 64", p.ID))
	}
	if !versionForm.MatchString(p.Version) {
		errs = append(errs, fmt.Errorf("version %q: want numbers and dots, such as 1.2.0", p.Version))
	}
	if n := len(p.Rules); n == 0 || n > MaxRules {
		errs = append(errs, fmt.Errorf("%d rules: want 1 to %d", n, MaxRules))
	}
	seen := map[string]bool{}
	for i := range p.Rules {
		r := &p.Rules[i]
		for _, err := range r.prepare() {
			errs = append(errs, fmt.Errorf("rule %d (%s): %w", i+1, r.ID, err))
		}
		if seen[r.ID] {
			errs = append(errs, fmt.Errorf("rule %d (%s): the ID is used twice", i+1, r.ID))
		}
		seen[r.ID] = true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// prepare fills in defaults, compiles expressions and returns the mistakes.
func (r *Rule) prepare() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !nameForm.MatchString(r.ID) {
		bad("id %q: want a name of lower-case letters, digits, dots and dashes, at most 64", r.ID)
	}
	if r.Severity == "" {
		r.Severity = Critical
	}
	switch {
	case r.Severity != Critical && r.Severity != Warning:
		bad("severity %q: want critical or warning", r.Severity)
	case r.Severity == Warning && r.Effect != "" && r.Effect != Warn:
		bad("a warning has no effect: on_violation %q wants severity critical", r.Effect)
	case r.Severity == Warning:
		r.Effect = Warn
	case r.Effect == "":
		r.Effect = Refuse
	}
	switch r.Effect {
	case RequireApproval:
		if r.Approvers == 0 {
			r.Approvers = 1
		}
		if r.Approvers < 1 || r.Approvers > MaxApprovers {
			bad("approvers %d: want 1 to %d", r.Approvers, MaxApprovers)
		}
	case RaiseLevel:
		if levelRank(r.Level) == 0 {
			bad("level %q: want at_least_once or exactly_once", r.Level)
		}
	case Refuse:
	case Warn:
		if r.Severity == Critical {
			bad("on_violation warn wants severity warning")
		}
	default:
		bad("on_violation %q: want refuse, require_approval or raise_level", r.Effect)
	}
	if r.Message == "" || len(r.Message) > MaxTextBytes {
		bad("message: want 1 to %d bytes that tell the agent what is missing", MaxTextBytes)
	}
	errs = append(errs, r.Trigger.check()...)
	if n := len(r.Validations); n == 0 || n > MaxValidations {
		bad("%d validations: want 1 to %d", n, MaxValidations)
	}
	for i := range r.Validations {
		if err := r.Validations[i].prepare(); err != nil {
			bad("validation %d: %w", i+1, err)
		}
	}
	for _, f := range r.Evidence {
		if !knownField(f) {
			bad("evidence %q: fields begin with %s", f, strings.Join(roots, ", "))
		}
	}
	return errs
}

func (t *Trigger) check() (errs []error) {
	if len(t.Verbs) == 0 && len(t.Classifications) == 0 {
		errs = append(errs, errors.New("trigger: name verbs, data_classification or both"))
	}
	for _, v := range t.Verbs {
		action, target, ok := strings.Cut(v, ":")
		if !ok || action == "" || target == "" || strings.Contains(strings.TrimSuffix(action, "*")+strings.TrimSuffix(target, "*"), "*") {
			errs = append(errs, fmt.Errorf("trigger: verb %q: want action:target, each may end in *", v))
		}
	}
	for _, c := range t.Classifications {
		if c == "" {
			errs = append(errs, errors.New("trigger: an empty data_classification"))
		}
	}
	return errs
}

// fits says whether an intent pulls the trigger.
func (t *Trigger) fits(action, target, classification string) bool {
	if len(t.Verbs) > 0 && !slices.ContainsFunc(t.Verbs, func(v string) bool {
		a, g, _ := strings.Cut(v, ":")
		return glob(a, action) && glob(g, target)
	}) {
		return false
	}
	return len(t.Classifications) == 0 || slices.Contains(t.Classifications, classification)
}

func glob(pattern, s string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, head)
	}
	return pattern == s
}

func firstLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
