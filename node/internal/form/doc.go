// Package form makes one cluster out of nodes that have never met, and keeps
// who a node is.
//
// # Types
//
// [Identity] is a node's name, raft ID and cluster, in identity.json: written
// aside, fsynced, renamed, checksummed; a damaged file is refused, never taken
// for an absent one. [Open] loads or creates it. A [Former] runs the protocol:
// [Former.Run] asks, [Former.Answer] answers, both drive a core that is pure
// and that the simulation drives as well.
//
// # Protocol
//
// A node with raft ID k that sees Expect candidates, itself the smallest,
// coordinates a bootstrap: it draws a cluster ID, names the Expect smallest as
// founders and asks each for a promise (prepare). With all promises it commits,
// by writing the cluster into its own identity, and tells the founders. Without
// them it gives up after a while, and waits a random time.
//
// # Why two clusters cannot come to be
//
//   - A node is, durably, one of: free, promised to one bootstrap, part of one
//     cluster. A promise is on the disk before it is given; being part is for ever.
//   - A bootstrap commits only when every founder has promised it (the coordinator
//     by having it in flight; it drops it before it promises another).
//   - A promise ends in two ways only. By commit: the node is part of that cluster.
//     Or because it is certain that the bootstrap never commits: its coordinator
//     says so, which has forgotten it or given it up and never draws its ID again;
//     or another of its founders is part of another cluster, and that one was
//     released before, or never promised and never will.
//
// So if two bootstraps committed, a founder common to both would have promised
// the second while bound by the first, or after it became part of it: neither
// happens. Two committed clusters have disjoint founders; with fewer than twice
// Expect nodes there is none beside the first. Nothing here depends on time,
// on order or number of messages, or on gossip.
//
// A node that learns of a cluster that exists, and is bound by nothing, becomes
// a gateway to it (Joined) and never bootstraps.
//
// # What it does not do
//
//   - With 2·Expect nodes or more that do not hear of each other, each half can
//     found a cluster: they never exchange a message. Expect has to be more than
//     half of what is started at once.
//   - A founder whose coordinator vanished for ever between promise and decision
//     waits for it for ever (two-phase commit blocks), and says so in Waiting. No
//     such cluster has ever answered anybody: remove the founders' data directories.
//   - A data directory put back from an older copy forgets a promise. It is
//     noticed, and refused, when the founder meets the cluster it belongs to.
//
// # Goroutines
//
//	exchange  Run  one per request of a round; its context, at most 2 s
package form
