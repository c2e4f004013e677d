// Package raftstore replicates commands and applies them durably, shard by shard.
package raftstore
