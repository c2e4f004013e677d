package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

const pythonWorker = `
import sys
sys.path.insert(0, "client/python")
from quorate_worker import Worker

def double(task):
    if task["action"] == "hold":
        return sys.stdin.readline().strip()
    if task["input"]["n"] < 0:
        raise ValueError("negative")
    return {"n": 2 * task["input"]["n"]}

Worker(sys.argv[1], "py-1", ["double:number", "hold:on"], double).run()
`

// The Python worker performs tasks, and its exceptions fail them; when its node
// goes, which led the task's shard, it goes on at another with what it holds.
func TestPythonWorker(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the Python worker was not run") // no part of Go
	}
	worker := func(url string) *exec.Cmd {
		return exec.CommandContext(t.Context(), python, "-B", "-c", pythonWorker, url)
	}
	t.Run("follows", func(t *testing.T) { followsNodes(t, worker) })
	c := startCluster(t, 3, func(cfg *Config) { cfg.Shards = 1 })
	lead, _, _ := c.roles(1)
	n := c.nodes[lead]
	cmd := worker("http://" + n.APIAddr())
	answers, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	startLogged(t, cmd)
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
	id := c.submit(n, api.TaskSpec{Action: "hold", Target: "on"})
	c.nodes = slices.DeleteFunc(c.nodes, func(x *Node) bool { return x == n })
	c.eventually("held at another node, too", func() error {
		for _, x := range c.nodes {
			if len(x.core.Load().holds.told(1, 0, 0)) > 0 {
				return nil
			}
		}
		return errors.New("not yet")
	})
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := fmt.Fprintln(answers, "held"); err != nil {
		t.Fatal(err)
	}
	if task, err := c.nodes[0].Task(t.Context(), id, 30*time.Second); err != nil || task.State != "completed" || task.Attempts != 1 || string(task.Result) != `"held"` {
		t.Errorf("%s after %d attempts, %s: %v", task.State, task.Attempts, task.LastError, err)
	}
}

// startLogged starts a process whose output is shown with the test's.
func startLogged(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out := &logged{t: t}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// logged shows a process's output with the test's.
type logged struct{ t *testing.T }

func (l *logged) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}
