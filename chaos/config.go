package chaos

import (
	"context"
	"errors"
	"io"
)

// DemoConfig says what [Demo] does. Zero fields take the default given.
type DemoConfig struct {
	// Binary is the quorate executable the nodes and agents run; default: this one.
	Binary string
	// Limit is how many packages are worked through; default 60, about a
	// minute on two cores.
	Limit int
	// Keep leaves the cluster and its agents running at the end.
	Keep bool
	// JSON prints the report as one JSON object and no progress.
	JSON bool
	// Out takes progress and report; default: nothing is printed.
	Out io.Writer
}

// DemoReport is what a demo found out.
type DemoReport struct {
	Submitted int `json:"submitted"`
}

// Demo runs the demonstration. An error means that something was lost, that
// the ledgers differ, or that the demonstration itself could not be carried out.
func Demo(ctx context.Context, cfg DemoConfig) (DemoReport, error) {
	return DemoReport{}, errors.New("chaos: not built yet")
}

// Work is the command of the demo's agents: it reads a task from in, runs
// `go vet` (kind "vet") or `gofmt -l` (kind "lint") on the package directory
// that the task's input names, and writes {"findings":n,…} to out. A finding is
// a result; an error means that the check could not be made. The command line
// offers it as the hidden `quorate chaos work KIND`.
func Work(ctx context.Context, kind string, in io.Reader, out io.Writer) error {
	return errors.New("chaos: not built yet")
}
