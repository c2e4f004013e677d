package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/api"
)

// The act of the deploy: an effect outside the cluster, on a target that
// honours no key, whose agent is killed between effect and confirmation.
const (
	deployKey   = "release-42"
	deployLease = time.Second
	deployWait  = 30 * time.Second
)

// Deploy is what came of the act.
type Deploy struct {
	Deploys   int     `json:"deploys"`      // that the target saw
	InDoubt   float64 `json:"in_doubt_ms"`  // after the crash
	Settled   float64 `json:"settled_ms"`   // after the crash
	State     string  `json:"state"`        // of the action in the end
	SettledBy string  `json:"verify_task"`  // what settled it
	Again     string  `json:"second_asked"` // what a second deploy of the same release is told
}

// deploy plays the act, and fails unless the target saw one deploy and the
// ledger says that it is done.
func (d *demo) deploy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deployWait)
	defer cancel()
	target := filepath.Join(d.cluster.Dir(), "deploys.log")
	check := fmt.Sprintf(`if [ -s %q ]; then echo '{"happened":true,"result":"%s"}'; else echo '{"happened":false}'; fi`, target, deployKey)
	checker, err := d.cluster.Spawn("checker", "agent", "run", "--id", "checker", "--api", strings.Join(d.running(), ","), "--can", "check:prod", "--", "sh", "-c", check)
	if err != nil {
		return err
	}
	defer checker.Kill()
	args := []string{"action", "run", "--verb", "deploy:prod", "--key", deployKey, "--agent", "deployer", "--verify", "check", "--lease", deployLease.String(),
		"--api", strings.Join(d.running(), ","), "--", "sh", "-c"}
	// The script has its effect, and then kills the agent that would confirm it.
	first, err := d.cluster.Spawn("deployer", append(args, fmt.Sprintf(`echo "epoch $QUORATE_EPOCH" >> %q; kill -9 $PPID`, target))...)
	if err != nil {
		return err
	}
	select {
	case <-first.Done():
	case <-ctx.Done():
		return errors.New("chaos: the deployer was not killed")
	}
	crashed := time.Now()
	d.view.say("deploy of %s: the agent was killed after the effect, before it could confirm", deployKey)
	task, err := d.deployed(ctx, crashed)
	if err != nil {
		return err
	}
	d.rep.Deploy.State, d.rep.Deploy.SettledBy = task.State, task.VerifyTaskID
	d.view.say("deploy of %s: in doubt after %.0f ms, settled as %s by its verify task after %.0f ms", deployKey, d.rep.Deploy.InDoubt, task.State, d.rep.Deploy.Settled)
	again, err := d.cluster.Spawn("deployer-again", append(args, fmt.Sprintf(`echo "again" >> %q`, target))...)
	if err != nil {
		return err
	}
	select {
	case <-again.Done():
	case <-ctx.Done():
		return errors.New("chaos: the second deployer got no answer")
	}
	if d.rep.Deploy.Again = "done before"; again.ExitCode() != 0 {
		d.rep.Deploy.Again = fmt.Sprintf("exit %d", again.ExitCode())
	}
	b, err := os.ReadFile(target)
	if err != nil {
		return fmt.Errorf("chaos: the target: %w", err)
	}
	if d.rep.Deploy.Deploys = bytes.Count(b, []byte("\n")); d.rep.Deploy.Deploys != 1 || task.State != "completed" || again.ExitCode() != 0 {
		return fmt.Errorf("chaos: the target saw %d deploys, the action is %s, the second was told %s", d.rep.Deploy.Deploys, task.State, d.rep.Deploy.Again)
	}
	return nil
}

// running are the addresses of the nodes that run.
func (d *demo) running() (urls []string) {
	for _, n := range d.cluster.Nodes() {
		if n.Running() {
			urls = append(urls, n.URL())
		}
	}
	return urls
}

// deployed follows the action from the crash to its end.
func (d *demo) deployed(ctx context.Context, crashed time.Time) (task api.Task, err error) {
	since := func() float64 { return float64(time.Since(crashed).Milliseconds()) }
	for {
		err = d.ask(ctx, func(ctx context.Context, c wire.Client) error {
			tasks, err := c.Tasks(ctx)
			for _, t := range tasks {
				if t.IdempotencyKey == deployKey && t.Role == "" {
					task = t
				}
			}
			return err
		})
		if err == nil && task.VerifyTaskID != "" && d.rep.Deploy.InDoubt == 0 {
			d.rep.Deploy.InDoubt = since()
		}
		if err == nil && terminal(task.State) {
			d.rep.Deploy.Settled = since()
			return task, nil
		}
		if !pause(ctx, demoPoll/4) {
			err = errors.Join(err, ctx.Err())
			return task, fmt.Errorf("chaos: the deploy is still %q %v after the crash (last: %w)", task.State, deployWait, err)
		}
	}
}
