// Package proc runs a Quorate cluster as real processes: the binary a user
// runs, on free loopback ports, each node with its own data directory and log
// file under one directory.
//
// [Start] brings a [Cluster] up and returns when it is formed: every node is
// ready, all name the same cluster, and every shard has a leader. Each [Node]
// can then be killed (SIGKILL), stopped (SIGTERM), started again. Other
// programs, such as agents, run beside it as a [Process] from
// [Cluster.Spawn]. Close ends everything that still runs.
//
// Invariants: only processes started here are ever signalled, by their process
// handle; waiting is always for an event (an answer, an exit) with a deadline,
// and a process that ends while it is waited for is reported with the tail of
// its log. On Linux the kernel kills every process when this one dies, however
// it dies, unless Config.Detach asks otherwise.
//
// What it does not do: talk to a node about tasks, or decide whom to kill.
//
// # Goroutines
//
//	name     owner    state                         stop
//	spawner  Cluster  the OS thread children hang on Close
//	waiter   Process  the exit status               the process ends
package proc
