package proc

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// binaryPackage is what Build builds.
const binaryPackage = "github.com/quorate/quorate/cmd/quorate"

// Build builds the quorate binary of this source tree into dir and returns its
// path: tests run what a user would run. It works within the module only.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "quorate")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, binaryPackage).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("proc: build: %w\n%s", err, out)
	}
	return path, nil
}
