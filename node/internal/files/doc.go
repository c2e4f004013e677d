// Package files has a node's own small files (identity, lock, hashes and index
// of audit records) on the disk, or on the file system that a host program
// brings ([FS]); what the replicas keep is package raftstore's.
//
// On the disk files are for their owner alone (0600); a file system that was
// brought decides for itself. A replaced file is whole and durable, or the one
// before. No goroutines.
package files
