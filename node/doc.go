// Package node composes one Quorate peer: gossip finds the others, form makes
// one cluster of them, raftstore replicates the ledger, sched matches ready
// tasks to workers, and the operations on [Node] are what every face (HTTP,
// command line, Go) is rendered from.
//
// # The way of a task
//
// Submit checks a task, gives it an ID that names its shard, and hands it to
// do, the one door in. do takes it to the shard's leader, which proposes it;
// ledger.Apply decides on every replica. On the leader the desk hears of the
// ready task and pushes a handle to the scheduler, which gives it to the best
// ranked of the agents that wait at this node, or to a far better one that waits
// at another (idlers.go); if none does here, it is queued, and other nodes'
// agents fetch it as they come. The desk turns handles into leases with epochs,
// the agent's node reads the bodies from its own replica. Settle goes through do
// again: the desk admits what still holds its lease, the ledger decides, the
// answer goes out when the entry is durable on a quorum.
//
// # Who holds what
//
//	replicated (ledger)    tasks, keys, attempts, ended epochs, agents, nodes, audit
//	leader's memory (desk) open leases, their expiry, start and progress
//	node's memory          which tasks its agents hold (holds), who is connected
//	                       (sessions), what waits (depths) and idles at the
//	                       peers (lifelines.go, theft.go: work that is stolen)
//
// A desk dies with its leader. The next one first asks every reachable node what its
// agents hold; what nobody reports is given again, and the first epoch is refused.
//
// # Transactions
//
// The lease of an exactly_once task, and of an action that its agent declares
// for itself (actions.go), goes through the log before anybody hears of it
// (leaselog.go). Rules decide about intents when they are declared and again
// before the go (policy.go). Letters between shards are the relay's (relay.go).
// Records are hashed (trails.go) and archived (archive.go) behind the apply
// path, the ended evicted (retention.go).
//
// # Inside a program
//
// A program needs no connection to the node it embeds: Submit, Task and the
// others are the API, and Work performs tasks over a pipe by the stream's rules
// (embed.go). No global state, no signal handled, no process ended; several may
// be open in one. [Edge] is the preset for little memory.
//
// # Members
//
// The control shard holds who is a node and where each shard belongs; every
// node has a replica of it, three of them with a vote. The administrator
// (admin.go), on its leader, moves replicas there step by step, and each step
// may be done twice. A node without a replica of a shard forwards (route.go,
// bodies.go); whom to is told by notifyLeads (replicas.go). A node started
// with --join is a gateway until it is admitted (join.go), and a removed
// identity is refused at every handshake, for ever.
//
// # Invariants
//
//   - Nothing is acknowledged before its log entry is fsynced on a quorum,
//     except best_effort submissions, which say so.
//   - Epochs of a task increase strictly: term first, then the desk's counter.
//   - Gossip and peers' depths are hints: every decision is checked by the
//     desk or the ledger.
//   - An operation between nodes is idempotent, or undone (handback.go).
//
// # Goroutines
//
//	name        owner        ends
//	form        Node         cluster formed or joined, or Close
//	serve       Node         Close shuts the HTTP server down
//	…Loop       core.start   core.stop; their comments say what each does
//	joinLoop    Node         member, or Close; asks to be let in
//	of agents   Work        Work returns; Close waits for it, for 10 s
//	background  core         one job each, bounded by a timeout or core.stop
//
// The replicas' goroutines belong to raftstore, connections to peer, gossip's
// to gossip.
//
// Not here: the order of events is the log's; what a command does the
// ledger's; who gets a task sched's; TLS an APIListener's. See LATENCY.md.
package node
