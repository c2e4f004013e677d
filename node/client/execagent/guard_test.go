package execagent

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quorate/quorate/node/api"
)

// wrapperScript, in the environment, makes this program one that runs a command
// for a task, as an agent does, and that the test kills.
const wrapperScript = "EXECAGENT_TEST_SCRIPT"

func TestMain(m *testing.M) {
	if script := os.Getenv(wrapperScript); script != "" {
		a := &Agent{cfg: Config{Command: []string{"sh", "-c", script}, Grace: time.Minute, Logger: slog.Default()}}
		a.command(context.Background(), api.Lease{TaskID: "t", Epoch: 1})
		return
	}
	goleak.VerifyTestMain(m)
}

// What a command has started ends with an agent that is killed, and with the
// command: whoever holds the task then is not to meet it.
func TestWrapperKilled(t *testing.T) {
	script, up, gone := family(t, "wait")
	wrapper := exec.Command(os.Args[0])
	wrapper.Env = append(os.Environ(), wrapperScript+"="+script)
	if err := wrapper.Start(); err != nil {
		t.Fatal(err)
	}
	next(t, up, "command")
	if err := wrapper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = wrapper.Wait() // killed
	next(t, gone, "end of what the command started")
}
