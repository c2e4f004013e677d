// Command quorate is the node and everything to use it with: one static
// binary. It holds flags, signals, exit codes and output; the work is done in
// node, node/client, bench and chaos.
//
// Exit codes: 0 done, 1 refused or failed, 2 usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/quorate/quorate/node/api"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// Exit codes.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

// console is where a command reads and writes.
type console struct {
	in       io.Reader
	out, err io.Writer
}

// run is main without the process: testable.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("quorate"), kong.Description("Coordination for fleets of AI agents."),
		kong.Writers(out, errw), kong.Exit(func(code int) { exited = code }), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.DefaultEnvars("QUORATE"),
		kong.Configuration(yamlConfig))
	if err != nil {
		fmt.Fprintln(errw, "quorate:", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if file := os.Getenv("QUORATE_CONFIG"); file != "" { // kong reads the file only when it sees the flag
		args = append([]string{"--config", file}, args...) // one given behind it wins
	}
	k, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(errw, "quorate: %v\n  run `quorate --help` for usage\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends a process that does not end
	k.BindTo(ctx, (*context.Context)(nil))
	return report(errw, k.Run(console{in, out, errw}))
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

// report prints an error with its layer and hint, and gives the exit code.
func report(w io.Writer, err error) int {
	var e *api.Error
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(w, "quorate: %v\n", err)
		return exitUsage
	case errors.As(err, &e):
		fmt.Fprintf(w, "quorate: L%d %s: %s: %s\n", e.Layer, api.LayerName(e.Layer), e.Code, e.Detail)
		if e.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", e.Hint)
		}
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(w, "quorate: interrupted")
	default:
		fmt.Fprintf(w, "quorate: %v\n", err)
	}
	return exitRefused
}
