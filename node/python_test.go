package node

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

const pythonWorker = `
import sys
sys.path.insert(0, "client/python")
from quorate_worker import Worker

def double(task):
    if task["input"]["n"] < 0:
        raise ValueError("negative")
    return {"n": 2 * task["input"]["n"]}

Worker(sys.argv[1], "py-1", ["double:number"], double).run()
`

// The Python worker performs tasks, and its exceptions fail them.
func TestPythonWorker(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the Python worker was not run") // no part of Go
	}
	c := startCluster(t, 1, func(cfg *Config) { cfg.BootstrapExpect = 1 })
	n := c.nodes[0]
	cmd := exec.CommandContext(t.Context(), python, "-B", "-c", pythonWorker, "http://"+n.APIAddr())
	out := &logged{t: t}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	none := 0
	for _, i := range []int{1, 21, -1} {
		id := c.submit(n, api.TaskSpec{Action: "double", Target: "number", Input: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)), RetryPolicy: &api.RetryPolicy{MaxRetries: &none}})
		task, err := n.Task(t.Context(), id, 30*time.Second)
		want := fmt.Sprintf(`{"n": %d}`, 2*i)
		switch {
		case err != nil:
			t.Fatal(err)
		case i < 0 && (task.State != "failed" || task.LastError != "ValueError('negative')"):
			t.Errorf("%s: %s", task.State, task.LastError)
		case i > 0 && (task.State != "completed" || string(task.Result) != want):
			t.Errorf("%s: %s, want %s", task.State, task.Result, want)
		}
	}
}

// logged shows a process's output with the test's.
type logged struct{ t *testing.T }

func (l *logged) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}
