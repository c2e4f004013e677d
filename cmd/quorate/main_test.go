package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"quorate": main})
}

// commands that the scripts have beside testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"exits":   exits,
	"cluster": startCluster,
	"field":   field,
}

func TestUsage(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/usage", Cmds: commands, RequireExplicitExec: true, Setup: clean})
}

func TestCluster(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/cluster", Cmds: commands, RequireExplicitExec: true, Setup: clean})
}

// clean keeps the scripts from a configuration of the machine's.
func clean(e *testscript.Env) error {
	var vars []string
	for _, v := range e.Vars {
		if !strings.HasPrefix(v, "QUORATE_") {
			vars = append(vars, v)
		}
	}
	e.Vars = vars
	return nil
}

// exits CODE COMMAND… runs a command that must end with the exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cluster [FLAG…] runs `quorate dev` until the script ends, with QUORATE_API
// leading to it, and checks that it ends well.
func startCluster(ts *testscript.TestScript, _ bool, args []string) {
	self, err := os.Executable()
	ts.Check(err)
	cmd := exec.Command(self, append([]string{"dev"}, args...)...)
	cmd.Args[0] = "quorate" // what testscript.Main goes by
	cmd.Dir = ts.Getenv("WORK")
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	ts.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if stuck.Stop(); err != nil {
			ts.Fatalf("the cluster ended with %v:\n%s", err, &log)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "QUORATE_API="); ok {
			url, _, _ := strings.Cut(rest, ";")
			ts.Setenv("QUORATE_API", url)
			return
		}
	}
	ts.Fatalf("the cluster did not get ready:\n%s", &log)
}

// field NAME VARIABLE sets a variable to the first value of a field of the JSON
// on standard output.
func field(ts *testscript.TestScript, _ bool, args []string) {
	_, rest, ok := strings.Cut(ts.ReadFile("stdout"), `"`+args[0]+`": `)
	if !ok {
		ts.Fatalf("no field %s", args[0])
	}
	value, _, _ := strings.Cut(rest, "\n")
	ts.Setenv(args[1], strings.Trim(value, `",`))
}
