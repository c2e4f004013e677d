// Package gossip knows which nodes are probably alive, where they are and what
// they tell about themselves (memberlist: SWIM with Lifeguard). Hints only:
// nothing correct depends on it, and it never changes who is a member.
//
// # Types
//
// [Gossip] is a running instance. [Member] is a node believed alive with its
// [Meta], at most 512 bytes on the wire. [Config] names the cluster (the label
// on every packet: nodes of another never mix), seeds and callbacks.
//
// # Life cycle
//
//	g, err := gossip.Open(cfg)   // bound; seeds are contacted in the background
//	g.Members()                  // any time; OnChange says when to look again
//	g.SetMeta(m)                 // spread in the background
//	g.Leave(timeout)             // optional: tell the others
//	g.Close()
//
// # Invariants
//
//   - memberlist calls back under its lock: the callbacks here copy what they
//     are given into an own table, and wake goroutines that call the user.
//   - Members reads that table only; memberlist's own node list is shared memory
//     that changes under its readers.
//   - A Meta that does not fit, or does not decode, is refused: the member that
//     sent it is left out and logged.
//   - Nodes of another cluster with the same name (another [Meta].ClusterID, both
//     known) are kept out, with what they say of others: an address that changed
//     hands, or a cluster restored beside the old one, must not join the two.
//   - Seeds and Known addresses that are not among the living are contacted again
//     and again, at most RejoinMax apart: memberlist by itself never heals a full
//     partition. Names are resolved anew each time.
//
// # What it does not do
//
// No user messages, no membership, no proof of who speaks (without a key anyone
// who can reach the port can take part).
//
// # Goroutines
//
//	memberlist's own  Open  Close (they end shortly after it returned)
//	notify            Open  Close: calls OnChange, OnConflict, OnForeign, OnRefused
//	spread            Open  Close: re-advertises after SetMeta
//	receive, accept   Open  Close: of sockets that were brought
//	rejoin            Open  Close: contacts seeds and known addresses
package gossip
