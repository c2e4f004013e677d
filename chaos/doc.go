// Package chaos breaks real clusters and checks what is left of them.
//
// [Demo] gives a three-node cluster real work, the packages of the Go
// installation's standard library to vet and to format-check, kills the leader
// of a busy shard half-way and proves at the end that nothing was lost. [Run]
// is the same idea without the show: seeded SIGKILLs and restarts under
// concurrent submitters and workers, with a [History] of everything any client
// was told, and a checker that knows what must hold of it:
//
//   - a task whose submission was acknowledged exists, and ends;
//   - it ends in one terminal state, and every answer that named a terminal
//     state named that one;
//   - the epochs of its leases, in the order they were handed out, strictly
//     increase, and a stale one is refused;
//   - one idempotency key is one task;
//   - an exactly_once task is not run again without anybody's word that it had
//     not happened, and its effect, on a counter outside that honours no key,
//     is there once if it is completed, and never twice;
//   - the ledgers of all nodes verify and are prefixes of one another.
//
// Nodes are separate processes started and killed by package proc. The checker
// is tested by planted violations: a checker that finds nothing proves nothing
// until it is known to find something.
//
// What it does not do: simulate. Seeds decide who is killed when, not how the
// operating system schedules what follows, so a replay repeats the schedule of
// faults and not the interleaving.
//
// # Goroutines
//
//	name       owner    state                      stop
//	submitter  Run      its keys and the History   its count or the context
//	worker     Run      its agent ID, the History  the context, after the last task ended
//	actor      Run      one action and its lives   the action's end, or the context
//	hook       Run      verify and rollback tasks  the context, after the last task ended
//	nemesis    Run      the fault schedule         the context
//	watcher    Demo     counts per agent and node  the context, after the last task ended
package chaos
