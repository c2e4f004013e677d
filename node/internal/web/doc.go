// Package web is the HTTP face of a node: it renders the operations of
// [Backend] as JSON over HTTP, described by an OpenAPI 3.1 document made from
// the same table.
//
// Bodies are strict: an unknown field, a wrong type or anything behind the
// value is refused with its name. Every error is RFC 9457 problem JSON with
// layer, code and retry. A web page of another origin may change nothing. A
// body that does not arrive and a client that takes no answer are given up; a
// long poll or a session ends with its client. A gateway (a process without
// replicas) passes every /v1 request on to a member, without TLS. A request with
// the header X-Quorate-Nodes is answered with one that lists the API addresses
// of the cluster's nodes (the node's handler around this one says them).
//
// The table is rendered by hand over net/http: a framework's validation would
// decode a batch of 256 tasks twice, and half of the routes take one object,
// an array or a stream.
package web
