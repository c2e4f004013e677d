//go:build !race

// The race detector allocates, too.

package node

import (
	"runtime"
	"testing"
)

// What a lifecycle within the process may allocate, both ends together:
// measured 16 objects and 7 to 8 KB, and room for the shorter
// batches of a busy machine.
const (
	lifecycleObjects = 18
	lifecycleBytes   = 12_000
)

// A path that begins to allocate once more for each task fails here.
func TestLifecycleAllocations(t *testing.T) {
	n := benchNodes(t, 1)[0]
	lifecycles(t, n, 2000) // what is made once
	const count = 20_000
	var objects, bytes float64
	for range 3 { // a hiccup of the machine makes short batches
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		lifecycles(t, n, count)
		runtime.ReadMemStats(&after)
		objects, bytes = float64(after.Mallocs-before.Mallocs)/count, float64(after.TotalAlloc-before.TotalAlloc)/count
		t.Logf("%.1f objects, %.0f bytes a lifecycle", objects, bytes)
		if objects <= lifecycleObjects && bytes <= lifecycleBytes {
			return
		}
	}
	t.Errorf("a lifecycle allocates %.1f objects of %.0f bytes together, want at most %d and %d", objects, bytes, lifecycleObjects, lifecycleBytes)
}
