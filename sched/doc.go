// Package sched matches ready tasks to workers, and lets whoever is idle take
// the oldest work it is able to do.
//
// It knows handles, classes (interned capabilities), bands (priorities) and
// workers, and nothing of raft, agents or JSON. What a handle stands for, and
// whether it still stands for anything, is its owner's business: a cancelled
// task's handle is taken like any other and found stale.
//
// # Life of a handle
//
// Push gives it to the best-ranked worker that waits for its class, or queues
// it in the class's band. Take drains the queues of the worker's classes,
// highest band first and oldest first, or parks the worker. TakeFor does the
// same for another node. Every handle pushed is returned by exactly one of
// Take, TryTake and TakeFor, unless the scheduler is dropped.
//
// # Design
//
// One lock covers queues and waiters; critical sections are short and allocate
// nothing in steady state (queues are rings of 16 bytes a handle). Push never
// blocks on a worker, and a parked worker costs nothing. A lock-free lane for
// each worker was measured at 9 to 75 ns a hand-off against 49 to 99 for a ring
// under a lock; beside the 12 µs of a lifecycle neither shows, so this version
// takes the one whose wake-ups are easy to prove: a worker is registered as
// waiting under the lock under which it found every queue empty, so a push
// either comes before (and is found) or after (and finds the waiter).
//
// # Aging
//
// A waiting handle counts one band higher for each Config.AgingMillis, so low
// priority is late, never never.
//
// The package starts no goroutine.
package sched
