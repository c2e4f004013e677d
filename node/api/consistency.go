package api

import "context"

// How a read may be answered. Linearizable is the default: the answer has
// everything that was acknowledged anywhere before the question. Stale: what
// the asked node's own replica has applied, at once and also without a quorum;
// it may be behind, by milliseconds or for as long as the node is cut off.
const (
	Linearizable = "linearizable"
	Stale        = "stale"
)

// ConsistencyHeader labels the answer to a read with one of them.
const ConsistencyHeader = "Quorate-Consistency"

type staleKey struct{}

// WithStale lets reads under ctx be answered stale, also through the client.
func WithStale(ctx context.Context) context.Context { return context.WithValue(ctx, staleKey{}, true) }

// IsStale says whether reads under ctx may be answered stale.
func IsStale(ctx context.Context) bool { return ctx.Value(staleKey{}) != nil }
