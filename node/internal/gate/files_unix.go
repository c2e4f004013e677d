//go:build unix

package gate

import (
	"math"
	"syscall"
)

// maxFiles is how many files and connections this process may have open.
func maxFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil || l.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(l.Cur)
}
