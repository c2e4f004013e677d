// Package backup writes and reads the file that `quorate backup` makes.
//
// # The file
//
//	magic "QBKP", version u8 (1)
//	frame: JSON, what was asked of whom ([Header])
//	for every shard, 0 first: length u64, its CRC-32C u32, and one snapshot
//	stream of raftstore of that length
//	frame: JSON, what is in it ([Manifest])
//	and nothing behind it
//
// A frame is its length u32, the CRC-32C of its bytes u32, and its bytes;
// numbers are little-endian. A stream has a checksum a chunk and one over the
// whole; the manifest repeats each stream's SHA-256 with index, size and audit
// head. A file is written under a name of its own, fsynced and renamed.
//
// # What it promises
//
// Each shard is as of one index, at or above everything that had been
// acknowledged when its turn came; shards are not as of one moment, as no
// operation spans two. The audit chain of every shard is recomputed while it is
// written and again when it is read, in constant memory.
//
// # What it does not do
//
// It does not encrypt, and does not put anything into a cluster: node.Restore
// does.
package backup
