package bench

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/pkg/profile"
)

// StartProfile begins a CPU profile of this process, in a directory of its own below dir; stop ends it. Without a
// directory both do nothing.
func StartProfile(dir string) (stop func()) {
	if dir == "" {
		return func() {}
	}
	p := profile.Start(profile.CPUProfile, profile.NoShutdownHook, profile.Quiet,
		profile.ProfilePath(filepath.Join(dir, strconv.Itoa(os.Getpid()))))
	return p.Stop
}
