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
// [Raftstore] counts proposals through replication alone: a [Group] of three
// processes, the generator in those that lead. A process of a group obeys
// orders on its standard input ([ServeProposer]); whatever replicates commands
// can be a [Proposer], which is how module bench/peers sets others beside it.
//
// [Embedded] counts lifecycles without a client: the load is in the process of
// the node that leads, as in a program that embeds one.
//
// [Skew] sets loads that come in at one node beside a balanced one, in turn on
// one cluster.
//
// [Submits] counts what callers that wait for their answers get acknowledged,
// over HTTP or streams; [Idle] what nodes, and agents with nothing to do, cost.
//
// [Curve] repeats lifecycles at several rates; both draw SVG or PNG, by hand
// (plot).
//
// What it does not do: run on more hosts than one. Comparing with other systems
// is the matter of bench/peers (make bench-peers).
//
// # Goroutines
//
//	name       owner      state                     stop
//	submitter  Lifecycle  its share of the schedule the schedule's end or the context
//	worker     Lifecycle  its agent ID, a histogram the context, after the drain
//	submitter  Embedded   its share of the window   the context, after its answer
//	caller     Submits    its connection            the context, after its answer
//	agent      Idle       its connection            the context
//	client     generate   its tokens, a histogram   the end of the load, after the last answer
package bench
