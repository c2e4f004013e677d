package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/quorate/quorate/node/api"
)

const typescriptWorker = `
import { Worker, PermanentError } from "./dist/worker.js";

const worker = new Worker({
  urls: process.argv.slice(1), agentId: "js-1", capabilities: ["double:number", "hold:on"], credit: 2, log: console.log,
  handler: async (task) => {
    if (task.action === "hold") {
      task.progress("holding");
      await new Promise((done) => setTimeout(done, 1500));
      if (task.signal.aborted) throw task.signal.reason;
      return "held";
    }
    if (task.input.n < 0) throw new PermanentError("negative");
    return { n: 2 * task.input.n };
  },
});
process.once("SIGTERM", () => worker.stop());
await worker.run();
console.log("done");
`

// typescriptCommand compiles the TypeScript worker; run is the command of one with the URLs.
func typescriptCommand(t *testing.T) (run func(urls ...string) *exec.Cmd) {
	dir := filepath.Join("client", "typescript")
	program, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "node_modules", ".bin", "tsc"))
	}
	if err != nil {
		// Node.js and what npm fetches are not Go's to bring.
		t.Skipf("the TypeScript worker was not run: %v; it needs node, and npm ci in node/%s", err, dir)
	}
	build := exec.CommandContext(t.Context(), filepath.Join("node_modules", ".bin", "tsc"))
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(urls ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--input-type=module", "-e", typescriptWorker}, urls...)...)
		cmd.Dir = dir
		return cmd
	}
}

// The TypeScript worker performs tasks, fails them, gives back what is recalled
// and not begun, goes on at another node when its own leaves, and drains.
func TestTypeScriptWorker(t *testing.T) {
	t.Parallel()
	run := typescriptCommand(t)
	t.Run("follows", func(t *testing.T) { followsNodes(t, func(url string) *exec.Cmd { return run(url) }) })
	c := startCluster(t, 3, nil)
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, "http://"+n.APIAddr())
	}
	cmd := run(urls...)
	startLogged(t, cmd)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	for _, i := range []int{1, 21, -1} {
		id := c.submit(c.nodes[0], api.TaskSpec{Action: "double", Target: "number", Input: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))})
		task, err := c.nodes[1].Task(t.Context(), id, 30*time.Second)
		want := fmt.Sprintf(`{"n":%d}`, 2*i)
		switch {
		case err != nil:
			t.Fatal(err)
		case i < 0 && (task.State != "failed" || task.LastError != "Error: negative" || task.Attempts != 1):
			t.Errorf("%s after %d attempts: %s", task.State, task.Attempts, task.LastError)
		case i > 0 && (task.State != "completed" || string(task.Result) != want):
			t.Errorf("%s: %s, want %s", task.State, task.Result, want)
		}
	}
	at := c.connectedAt("js-1")
	long := c.submit(at, api.TaskSpec{Action: "hold", Target: "on", IdempotencyKey: "long"})
	c.inState(long, "running")
	c.recallUnstarted(at, long)
	for i, n := range c.nodes {
		if n == at {
			c.nodes = append(c.nodes[:i:i], c.nodes[i+1:]...)
		}
	}
	if err := at.Close(); err != nil {
		t.Error(err)
	}
	if task, err := c.nodes[0].Task(t.Context(), long, 30*time.Second); err != nil || task.State != "completed" || task.Attempts != 1 || string(task.Result) != `"held"` {
		t.Errorf("%s after %d attempts, %s: %v", task.State, task.Attempts, task.LastError, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the worker ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the worker does not end")
	}
}

// connectedAt is the node an agent has its session at.
func (c *testCluster) connectedAt(agent string) (at *Node) {
	c.t.Helper()
	c.eventually(agent+" connected", func() error {
		for _, n := range c.nodes {
			if n.core.Load().sessions.connected(agent) {
				at = n
				return nil
			}
		}
		return errors.New("nowhere")
	})
	return at
}

// recallUnstarted has js-1, busy with one task, pushed a second and asked for
// both: another agent gets the second, the first stays.
func (c *testCluster) recallUnstarted(at *Node, begun string) {
	c.t.Helper()
	second := c.submit(at, api.TaskSpec{Action: "double", Target: "number", IdempotencyKey: "second", Input: []byte(`{"n":4}`)})
	c.eventually("pushed", func() error {
		if x := c.task(at, second); x.AgentID != "js-1" {
			return errors.New(x.State)
		}
		return nil
	})
	other := c.openWork(at, "other", "", "double:number")
	if !at.core.Load().sessions.recall("js-1", []api.Held{{TaskID: begun, Epoch: c.task(at, begun).Epoch}, {TaskID: second, Epoch: c.task(at, second).Epoch}}) {
		c.t.Fatal("not connected")
	}
	h := c.taken(other)
	if h.TaskID != second {
		c.t.Errorf("got %s, want %s", h.TaskID, second)
	}
	if vs, err := other.Settle(c.t.Context(), []api.Settlement{{TaskID: h.TaskID, Epoch: h.Epoch, Verdict: "complete"}}); err != nil || vs[0].Error != nil {
		c.t.Errorf("%+v, %v", vs, err)
	}
}
