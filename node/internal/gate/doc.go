// Package gate bounds what is held open at a node: connections, and requests
// that last (streams, sessions, long polls, followed events). Each is counted
// in all and by who holds it, so that neither many clients that do nothing nor
// one that wants everything keeps the next one out, and file descriptors are
// left for the disk.
//
// [Gate] counts requests, by the host and by the identity they come with;
// [Listen] counts connections, by host, before a byte of them is read. What is
// over a limit is told which, and that it may try later.
//
// # Goroutines
//
//	name     owner     state         stop
//	tell     Listener  one refused   its answer, 2 s, or Close
package gate
