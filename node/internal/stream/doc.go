// Package stream is the streaming face of a node: the service quorate.v1.Work
// for Connect, gRPC and gRPC-Web, rendered from the same operations as HTTP.
//
// # A session
//
// The handler's goroutine reads messages; a second one takes tasks from
// [Worker] as long as the agent's credit lasts and sends them; each batch of
// settlements is answered by a goroutine of its own, at most maxSettling of
// them. Sends take turns. Nothing queues for an agent that does not read: the
// taker waits in its send, the reader stops when maxSettling answers wait, and
// after sendTimeout the session is cut.
//
// # Limits
//
//	message                      MaxMessageBytes, or Config.MaxMessageBytes
//	bytes on their way, in all   gate.MaxArriving, or Config.Bytes: too_many_bytes
//	rest of a large message      wholeWithin: message_timeout
//	tasks in one message         maxPushBytes, but one task always
//	credit                       api.MaxCredit
//	settlements, claims, tasks   api.MaxBatch a message
//	streams in all, of a host,   package gate
//	  of an identity
//	revocations to be read       api.MaxCredit: slow_reader ends the session
//	silence before hello         helloTimeout
//
// What breaks a rule ends its own stream with a problem that names layer, code
// and what to do; other streams do not notice.
//
// # Goroutines
//
//	taker     session   the handler ends
//	settling  session   the answer is sent; at most maxSettling
//	submitting submit   likewise, at most maxSubmitting
//
// The handler waits for all of them.
package stream
