// Package wire speaks a node's HTTP API as plainly as can be: one call is one
// request to one node, with no retry and no other node tried behind the back.
//
// Clients meant for use smooth faults over; a checker and a benchmark must see
// them. A call's error says, through [Certain], which of the three outcomes it
// stands for: refused (certainly not done) or unknown; no error is done.
//
// What it does not do: retry, keep state, stream sessions. It starts no
// goroutine.
package wire
