// Package bench measures Quorate the way a user meets it: node processes, a
// generator and workers speaking the network API in batches, every figure with
// the CPU it cost.
//
// [Lifecycle] counts whole lifecycles: a task submitted (durable on a quorum),
// leased by a worker, completed (durable on a quorum). At a rate it is an open
// loop: latency counts from the moment a task should have been submitted,
// whether or not the generator was held up, so that a stall is charged to every
// task it delayed (coordinated omission). With a kill it measures how long the
// shards led by a SIGKILLed node go without a completion.
//
// What it does not do: compare with other systems, or run on more hosts than one.
//
// # Goroutines
//
//	name       owner      state                     stop
//	submitter  Lifecycle  its share of the schedule the schedule's end or the context
//	worker     Lifecycle  its agent ID, a histogram the context, after the drain
package bench
