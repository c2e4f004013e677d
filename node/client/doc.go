// Package client speaks a Quorate node's HTTP interface from Go.
//
// A [Client] is given one or more nodes and uses any that answers. There are
// three outcomes: done, refused, and unknown (the connection broke half-way).
// Every operation here may be repeated after an unknown: reads, and changes
// that carry a key or an epoch, so a submit without an idempotency key gets
// one. So the client repeats, at the next node, until it has an answer, its
// patience is over or the context ends. Verdicts of a batch are repeated one by
// one in the same way.
//
// An error that a node answered is an *api.Error. The methods are those of an
// embedded node, so that code can be written against either.
//
// The package starts no goroutine beyond those of net/http's transport, which
// end with their idle connections or with Close.
package client
