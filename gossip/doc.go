// Package gossip knows which nodes are probably alive and how to reach them.
package gossip
