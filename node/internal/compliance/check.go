package compliance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// roots are the first parts of field paths.
var roots = []string{"action", "agent_id", "approvers", "context", "data_classification", "description", "fleet_id",
	"guarantee", "input", "regulation_refs", "reversible", "session_id", "target", "verb"}

func knownField(path string) bool {
	root, rest, nested := strings.Cut(path, ".")
	if !slices.Contains(roots, root) || len(path) > 256 {
		return false
	}
	return !nested || (root == "input" || root == "context") && !slices.Contains(strings.Split(rest, "."), "")
}

// prepare checks a validation and compiles its expression.
func (v *Validation) prepare() error {
	operators := 0
	for _, given := range []bool{v.Equals != nil, v.Exists != nil, v.In != nil, v.NotIn != nil, v.GreaterThan != nil, v.LessThan != nil} {
		if given {
			operators++
		}
	}
	if v.Expression != "" {
		if v.Field != "" || operators > 0 {
			return errors.New("cel stands alone: no field and no other operator beside it")
		}
		var err error
		v.program, err = compile(v.Expression)
		return err
	}
	switch {
	case operators != 1:
		return fmt.Errorf("field %q has %d operators: want exactly one of equals, exists, in, not_in, greater_than, less_than, or cel", v.Field, operators)
	case !knownField(v.Field):
		return fmt.Errorf("field %q: fields begin with %s", v.Field, strings.Join(roots, ", "))
	case len(v.In) > MaxValues || len(v.NotIn) > MaxValues:
		return fmt.Errorf("field %q lists more than %d values", v.Field, MaxValues)
	}
	for _, list := range [][]any{{v.Equals}, v.In, v.NotIn} {
		for _, x := range list {
			switch x.(type) {
			case nil, string, bool, int, int64, uint64, float64:
			default:
				return fmt.Errorf("field %q is compared with %T: want text, a number or a truth value", v.Field, x)
			}
		}
	}
	return nil
}

// holds says whether the intent fulfils the validation. why is for people.
func (v *Validation) holds(task map[string]any) (ok bool, why string) {
	if v.program != nil {
		return v.program.holds(task)
	}
	value, found := lookup(task, v.Field)
	show := func() string {
		if !found {
			return "is missing"
		}
		return fmt.Sprintf("is %s", brief(value))
	}
	switch {
	case v.Exists != nil:
		return found == *v.Exists, v.Field + " " + show()
	case v.NotIn != nil:
		// What is missing is in no list; exists asks for its presence.
		return !contains(v.NotIn, value, found), v.Field + " " + show()
	case v.In != nil:
		return contains(v.In, value, found), v.Field + " " + show()
	case v.Equals != nil:
		return found && equal(v.Equals, value), v.Field + " " + show()
	}
	n, isNumber := number(value)
	if v.GreaterThan != nil {
		return found && isNumber && n > *v.GreaterThan, v.Field + " " + show()
	}
	return found && isNumber && n < *v.LessThan, v.Field + " " + show()
}

// lookup follows a path of names; JSON null counts as missing.
func lookup(task map[string]any, path string) (any, bool) {
	var at any = task
	for name := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = m[name]; !ok {
			return nil, false
		}
	}
	return at, at != nil
}

func contains(list []any, value any, found bool) bool {
	return found && slices.ContainsFunc(list, func(x any) bool { return equal(x, value) })
}

func equal(a, b any) bool {
	x, xok := number(a)
	y, yok := number(b)
	if xok || yok {
		return xok && yok && x == y
	}
	switch a.(type) {
	case string, bool:
		return a == b
	}
	return false
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	}
	return 0, false
}

// brief shows a value without spreading what may be personal: text by its
// length, only numbers and truth values as they are.
func brief(v any) string {
	switch x := v.(type) {
	case string:
		return fmt.Sprintf("a text of %d bytes that does not fit", len(x))
	case map[string]any:
		return "an object"
	case []any:
		return fmt.Sprintf("a list of %d", len(x))
	}
	return fmt.Sprint(v)
}
