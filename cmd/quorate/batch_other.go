//go:build !linux

package main

// batchThreads is for kernels that have the policy.
func batchThreads() {}
