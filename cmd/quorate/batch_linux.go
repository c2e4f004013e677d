package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// batchThreads asks the kernel not to interrupt whoever runs when one of this process's threads wakes up (SCHED_BATCH):
// on a machine with few processors a message then finds the ones behind it already there. Threads to come inherit it. A
// policy somebody chose stays, and where it can't be asked for nothing changes.
func batchThreads() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err != nil || attr.Policy != unix.SCHED_NORMAL {
			continue
		}
		attr.Policy = unix.SCHED_BATCH
		_ = unix.SchedSetAttr(id, attr, 0)
	}
}
