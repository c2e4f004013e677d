// Package compliance is regulation as code: rule packs in YAML, checked against
// the intent of a task before it is declared.
//
// A [Pack] has an ID, a version and rules. A rule's trigger says which intents
// it is about, by verb (action:target, * for anything) and by classification of
// the data touched. Its validations say what must hold of the intent; each is
// one field with one operator, or an expression in the Common Expression
// Language (CEL, cel.dev) with a bounded cost. A rule that is violated refuses
// the intent, asks for approvals, raises the guarantee level, or warns.
//
// [Evaluate] is a pure function of packs and intent: no clock, no network, no
// state. Which packs bind a fleet is replicated by the control shard; this
// package knows nothing of it. Packs and operators follow the Compliance as
// Code draft of Works With Agents (CC BY 4.0), with stricter parsing: unknown
// fields and operators are mistakes, and every mistake is reported at once.
//
// Expressions see one variable, task: a map with action, target, verb,
// fleet_id, agent_id, session_id, guarantee, reversible, approvers,
// data_classification, regulation_refs, description, input and context. A
// field that is absent is not there: has(task.input.x) asks.
//
// What a rule can't decide (an expression that fails or runs over its cost on
// this input) counts as violated: silence must not let an intent through.
//
//	pack.go      the format, parsing        check.go   the operators    packs/  an example
//	evaluate.go  intent in, decision out    expr.go    CEL, with its limits
package compliance
