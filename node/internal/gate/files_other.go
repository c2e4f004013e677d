//go:build !unix

package gate

import "math"

// maxFiles is how many files and connections this process may have open.
func maxFiles() int { return math.MaxInt32 }
