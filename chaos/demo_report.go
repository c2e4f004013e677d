package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// settle counts what became of the submitted tasks, and the longest gap
// between two completions around the kill.
func (d *demo) settle(tasks []api.Task) {
	byID := map[string]api.Task{}
	for _, t := range tasks {
		byID[t.TaskID] = t
	}
	var ends []time.Time
	for _, id := range d.ids {
		t, ok := byID[id]
		switch {
		case !ok:
			d.rep.Missing++
			continue
		case t.State != "completed":
			d.rep.Failed++
		default:
			d.rep.Completed++
			var res workResult
			if json.Unmarshal(t.Result, &res) == nil {
				d.rep.Findings += res.Findings
			}
		}
		d.rep.Extra += max(t.Attempts-1, 0)
		if t.CompletedAt != nil {
			ends = append(ends, *t.CompletedAt)
		}
	}
	if !d.kill.at.IsZero() {
		d.rep.GapSeconds = gapAround(ends, d.kill.at).Seconds()
	}
}

// gapWindow is how far from the kill a gap still counts as around it.
const gapWindow = 10 * time.Second

// gapAround is the longest time without an end that overlaps the window
// around the kill.
func gapAround(ends []time.Time, kill time.Time) (longest time.Duration) {
	slices.SortFunc(ends, time.Time.Compare)
	for i := 1; i < len(ends); i++ {
		if ends[i].Before(kill) || ends[i-1].After(kill.Add(gapWindow)) {
			continue
		}
		longest = max(longest, ends[i].Sub(ends[i-1]))
	}
	return longest
}

// verify has every node re-read its ledger, and decides whether all is well.
func (d *demo) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoVerify)
	defer cancel()
	found, err := awaitEqualHeads(ctx, d.nodes)
	if err != nil {
		return err
	}
	d.rep.Verified, d.rep.EqualHeads = true, equalHeads(found)
	for _, v := range found {
		d.rep.Verified = d.rep.Verified && v.OK
	}
	for _, h := range found[0].Heads {
		d.rep.Records += h.Size
	}
	var errs []error
	if d.rep.Missing+d.rep.Failed > 0 {
		errs = append(errs, fmt.Errorf("chaos: %d tasks are missing and %d failed", d.rep.Missing, d.rep.Failed))
	}
	if !d.rep.Verified {
		errs = append(errs, errors.New("chaos: a ledger does not verify"))
	}
	if !d.rep.EqualHeads {
		errs = append(errs, errors.New("chaos: the ledgers differ"))
	}
	return errors.Join(errs...)
}

// leave ends the cluster, or says how to talk to it.
func (d *demo) leave(ctx context.Context) {
	if !d.cfg.Keep || ctx.Err() != nil || !d.counted {
		d.cluster.Close()
		return
	}
	for _, p := range d.cluster.Processes() {
		d.rep.PIDs = append(d.rep.PIDs, p.PID())
	}
	d.rep.APIs, d.rep.Dir = d.cluster.URLs(), d.cluster.Dir()
	d.cluster.Release()
}

// printDemo prints the report.
func printDemo(out io.Writer, r DemoReport, well bool) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %-34s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(out, "\n%d packages, %.1f s\n", r.Packages, r.Seconds)
	line("submitted", "%d", r.Submitted)
	line("completed", "%d", r.Completed)
	if r.Failed+r.Missing > 0 {
		line("LOST", "%d failed, %d missing", r.Failed, r.Missing)
	}
	line("findings of go vet and gofmt", "%d", r.Findings)
	line("attempts beyond the first", "%d", r.Extra)
	line("completed by agent", "%s", counts(r.ByAgent))
	line("completed through node", "%s", counts(r.ByNode))
	if r.Killed != "" {
		line("killed and restarted", "%s, leader of shards %v", r.Killed, r.KilledShards)
		line("its shards were led again after", "%.2f s", r.LedAgain)
		line("longest gap around the kill", "%.2f s without a completion", r.GapSeconds)
	}
	line("deploy, its agent killed", "%d on the target; in doubt after %.0f ms, settled as %s after %.0f ms", r.Deploy.Deploys, r.Deploy.InDoubt, r.Deploy.State, r.Deploy.Settled)
	line("the same deploy, asked again", "%s", r.Deploy.Again)
	line("ledger", "%d records, verified on all nodes: %s, heads equal: %s", r.Records, yes(r.Verified), yes(r.EqualHeads))
	if well {
		fmt.Fprintln(out, "nothing was lost")
	}
	if len(r.PIDs) == 0 {
		return
	}
	fmt.Fprintf(out, "\nThe cluster goes on. Talk to it:\n  export QUORATE_API=%s\n", strings.Join(r.APIs, ","))
	fmt.Fprint(out, "  bin/quorate status\n  bin/quorate task list --limit 5\n  bin/quorate ledger verify\n")
	pids := strings.Trim(fmt.Sprint(r.PIDs), "[]")
	fmt.Fprintf(out, "End it:\n  kill %s\n  rm -rf %s\n", pids, r.Dir)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

// counts renders a map of counts in key order.
func counts(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}
