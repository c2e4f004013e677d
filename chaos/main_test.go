package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/chaos/proc"
)

// Length and schedule of the end-to-end test; a failure prints both.
var (
	seedFlag     = flag.Uint64("seed", 0, "seed of the faults of the end-to-end test; 0 draws one")
	durationFlag = flag.Duration("duration", 15*time.Second, "how long the end-to-end test injects faults")
)

// built is the directory of the binary that all tests share.
var built struct {
	sync.Once
	dir, path string
	err       error
}

// binary builds quorate, once.
func binary(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "quorate-bin-"); built.err == nil {
			built.path, built.err = proc.Build(context.Background(), built.dir)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func TestMain(m *testing.M) {
	if point := os.Getenv("CRASH_POINT"); point != "" { // a child of TestEffectsHappenOnce
		os.Exit(crashAgent(point, os.Getenv("CRASH_KEY")))
	}
	flag.Parse()
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}
