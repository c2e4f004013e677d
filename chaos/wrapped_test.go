package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Of the actions under the wrapper that scripts use, `quorate action run`.
const (
	wrappedTrials = 5
	wrappedKills  = 2                      // lives of each that are ended
	killWithin    = 250 * time.Millisecond // of its start: before, in and after the command
)

// wrapped kills the wrapper of a command that has an effect, at random or, in
// every fifth trial, while the command is under way for longer than its lease:
// nobody would stop that one then but the wrapper's death.
func (o *once) wrapped(ctx context.Context, n int) {
	key := fmt.Sprintf("verify/action-run/%d", n)
	if n%wrappedTrials == 0 && runtime.GOOS == "linux" { // elsewhere it outlives the wrapper
		o.wrap(ctx, key, 1.5*crashLease, func() {
			for counted(o.t, o.counter, key+" begun") == 0 && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond) // another process writes it
			}
		})
	} else {
		for range wrappedKills {
			after := rand.N(killWithin)
			o.wrap(ctx, key, rand.Float64()*killWithin.Seconds(), func() { time.Sleep(after) }) // somewhere on its way: nothing tells where
		}
	}
	o.end(ctx, "action-run", key, func() { o.wrap(ctx, key, 0, nil) })
}

// wrap runs the wrapper; when kill returns it is killed, and it alone.
func (o *once) wrap(ctx context.Context, key string, nap float64, kill func()) {
	script := fmt.Sprintf("echo '%s begun' >> '%s'; sleep %.3f; echo '%[1]s' >> '%[2]s'", key, o.counter, nap)
	cmd := exec.CommandContext(ctx, binary(o.t), "action", "run", "--api", strings.Join(o.cluster.URLs(), ","), "--agent", "agent-"+key, "--session", key,
		"--key", key, "--verb", "count:counter", "--verify", "check:counter", "--lease", fmt.Sprintf("%gs", crashLease), "--", "sh", "-c", script)
	if err := cmd.Start(); err != nil {
		o.t.Error(err)
		return
	}
	if kill != nil {
		kill()
		_ = cmd.Process.Kill() // it may be through
	}
	_ = cmd.Wait() // in doubt, done or killed: the task tells
}
