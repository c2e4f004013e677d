package compliance

import (
	"errors"
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
)

// Limits of an expression. A unit of cost is about one simple operation. An
// expression whose cost may exceed the limit even on the smallest inputs is
// refused with its pack; an evaluation that does is ended there.
const (
	MaxExpressionBytes = 4096
	MaxExpressionCost  = 10_000
)

// environment is made once: it takes milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(cel.Variable("task", cel.MapType(cel.StringType, cel.DynType)), cel.ParserExpressionSizeLimit(MaxExpressionBytes))
})

// program is a compiled expression.
type program struct {
	text string
	run  cel.Program
}

func compile(text string) (*program, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("cel: %w", err)
	}
	if len(text) > MaxExpressionBytes {
		return nil, fmt.Errorf("cel: expression of %d bytes, at most %d", len(text), MaxExpressionBytes)
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("cel: %s", firstLines(issues.Err().Error(), 4))
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("cel: the expression gives %s, want bool", t)
	}
	expected, err := env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, fmt.Errorf("cel: cost: %w", err)
	}
	if expected.Max > MaxExpressionCost {
		return nil, fmt.Errorf("cel: the expression may cost %d on the smallest inputs, the limit is %d: make it simpler or split it", expected.Max, MaxExpressionCost)
	}
	run, err := env.Program(ast, cel.CostLimit(MaxExpressionCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("cel: %w", err)
	}
	return &program{text, run}, nil
}

// sizes estimates with one element or byte for whatever is read of the task: it
// differs with each one, and the limit at run time is what protects.
type sizes struct{}

func (sizes) EstimateSize(cost.AstNode) *cost.SizeEstimate {
	return &cost.SizeEstimate{Min: 0, Max: 1}
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

var errNotBool = errors.New("it does not give a truth value")

// holds evaluates; an expression that fails does not hold.
func (p *program) holds(task map[string]any) (bool, string) {
	out, _, err := p.run.Eval(map[string]any{"task": task})
	if err != nil {
		return false, fmt.Sprintf("%s: %s", p.text, firstLines(err.Error(), 1))
	}
	ok, isBool := out.Value().(bool)
	if !isBool {
		return false, fmt.Sprintf("%s: %v", p.text, errNotBool)
	}
	return ok, p.text + " is false"
}
