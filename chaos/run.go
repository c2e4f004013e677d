package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/node/api"
)

// RunConfig says what [Run] does. Zero fields take the default given.
type RunConfig struct {
	// Binary is the quorate executable the nodes run; default: this one.
	Binary string
	// Seed decides the schedule of faults; 0 picks one.
	Seed uint64
	// Duration is how long faults are injected; default 30 s, at most a day.
	// The run ends when every task has ended, or fails.
	Duration time.Duration
	// Drain is how long tasks may take to end after the last fault; default 60 s.
	Drain time.Duration
	// Keep leaves the data directories, the logs and the history for inspection.
	Keep bool
	// JSON prints the report as one JSON object and no progress.
	JSON bool
	// Out takes progress and report; default: nothing is printed.
	Out io.Writer

	lie bool // tests: see load
}

// MaxRunDuration bounds a run: its whole history is held in memory.
const MaxRunDuration = 24 * time.Hour

const (
	defaultRunDuration = 30 * time.Second
	defaultDrain       = 60 * time.Second
	restPoll           = 250 * time.Millisecond
	maxReportedFaults  = 20 // violations printed; the report has all
)

// RunReport is what a run did and found.
type RunReport struct {
	Seed       uint64         `json:"seed"`
	Seconds    float64        `json:"duration_seconds"`
	Faults     map[string]int `json:"faults"`
	Submitted  int            `json:"submissions_acknowledged"`
	Unknown    int            `json:"submissions_unknown"`
	Tasks      int            `json:"tasks"`
	Grants     int            `json:"leases"`
	Completed  int            `json:"completions_acknowledged"`
	Stale      int            `json:"stale_refused"`
	Records    int            `json:"ledger_records"`
	Effects    int            `json:"effects"` // of exactly_once actions, on a counter outside
	Undone     int            `json:"effects_undone"`
	Deaths     int            `json:"agents_died_acting"`
	Doubts     int            `json:"actions_in_doubt"` // that were at some time
	Violations []Violation    `json:"violations,omitempty"`
	Dir        string         `json:"dir,omitempty"` // with Keep
	Replay     string         `json:"replay"`
}

func (c RunConfig) withDefaults() (RunConfig, error) {
	if c.Seed == 0 {
		c.Seed = rand.Uint64()>>32 | 1
	}
	if c.Duration == 0 {
		c.Duration = defaultRunDuration
	}
	if c.Duration < 0 || c.Duration > MaxRunDuration {
		return c, fmt.Errorf("chaos: duration %v: want up to %v", c.Duration, MaxRunDuration)
	}
	if c.Drain == 0 {
		c.Drain = defaultDrain
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c, nil
}

// Run breaks a cluster of three processes for a while and checks it. An error
// means that a rule was violated or that the run could not be carried out; it
// ends with the line that repeats the schedule of faults.
func Run(ctx context.Context, cfg RunConfig) (RunReport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return RunReport{}, err
	}
	rep := RunReport{Seed: cfg.Seed, Replay: fmt.Sprintf("quorate chaos run --seed %d --duration %v", cfg.Seed, cfg.Duration)}
	r := &run{cfg: cfg, began: time.Now(), h: &History{}}
	err = r.do(ctx, &rep)
	rep.Seconds = time.Since(r.began).Seconds()
	if err == nil && len(rep.Violations) > 0 {
		err = fmt.Errorf("chaos: %d violations, the first: %s", len(rep.Violations), rep.Violations[0])
	}
	if err != nil {
		err = fmt.Errorf("%w\nreplay: %s", err, rep.Replay)
	}
	if cfg.JSON {
		if e := json.NewEncoder(cfg.Out).Encode(rep); e != nil {
			err = errors.Join(err, fmt.Errorf("chaos: %w", e))
		}
	} else {
		r.print(rep)
	}
	return rep, err
}

type run struct {
	cfg     RunConfig
	began   time.Time
	h       *History
	cluster *proc.Cluster
	nodes   []wire.Client
	level   bool // at rest all ledgers ended in the same place
}

// say prints a line of progress.
func (r *run) say(format string, args ...any) {
	if !r.cfg.JSON {
		fmt.Fprintf(r.cfg.Out, "%6.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (r *run) do(ctx context.Context, rep *RunReport) (err error) {
	r.say("seed %d: starting three nodes", r.cfg.Seed)
	r.cluster, err = proc.Start(ctx, proc.Config{Binary: r.cfg.Binary, Keep: r.cfg.Keep, Args: []string{"--auto-approve", actionVerb + ":" + actionOn}})
	if err != nil {
		return err
	}
	defer r.cluster.Close()
	if r.cfg.Keep {
		rep.Dir = r.cluster.Dir()
	}
	pool := wire.Pool(submitters + workers)
	defer pool.CloseIdleConnections()
	for _, n := range r.cluster.Nodes() {
		r.nodes = append(r.nodes, wire.Client{Base: n.URL(), HTTP: pool})
	}
	v, err := r.nodes[0].Cluster(ctx)
	if err != nil {
		return err
	}
	faults := schedule(r.cfg.Seed, uint32(len(v.Shards)), r.cfg.Duration)
	r.say("formed: %d shards; %d faults in %v", len(v.Shards), len(faults), r.cfg.Duration)
	if err := r.underFaults(ctx, faults, rep); err != nil {
		return err
	}
	if err := r.atRest(ctx); err != nil {
		return err
	}
	r.tally(rep)
	rep.Violations = Check(r.h)
	if !r.level {
		rep.Violations = append(rep.Violations, Violation{Rule: RuleLedger, Detail: fmt.Sprintf("the nodes' ledgers are not equally long %v after the last fault", headsWait)})
	}
	return r.save()
}

// underFaults runs load and nemesis together: submitters stop with the last
// fault, workers go on until every task has ended or the drain is over.
func (r *run) underFaults(ctx context.Context, faults []fault, rep *RunReport) error {
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()
	submit, stopSubmit := context.WithCancel(work)
	defer stopSubmit()
	l := &load{h: r.h, nodes: r.nodes, seed: r.cfg.Seed, lie: r.cfg.lie}
	var subs, wrks sync.WaitGroup
	for n := range workers {
		wrks.Go(func() { l.worker(work, n) })
	}
	for n := range actors {
		wrks.Go(func() { l.act(submit, work, n) })
	}
	for _, action := range []string{"check", "undo"} {
		wrks.Go(func() { l.hook(work, action) })
	}
	for n := range submitters {
		subs.Go(func() { l.submit(submit, work, n) })
	}
	nem := &nemesis{cluster: r.cluster, say: r.say}
	err := nem.run(ctx, faults)
	rep.Faults = map[string]int{}
	for kind, n := range nem.done {
		rep.Faults[string(kind)] = n
	}
	l.calm.Store(true)
	rep.Deaths = int(l.deaths.Load())
	stopSubmit()
	if err == nil {
		subs.Wait() // every key is acknowledged
		r.say("faults are over; waiting until every task has ended")
		err = r.awaitEnd(ctx)
	}
	stopWork()
	subs.Wait()
	wrks.Wait()
	return err
}

// awaitEnd waits until no task is live. Time running out is no error here: the
// checker names the tasks.
func (r *run) awaitEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Drain)
	defer cancel()
	for i := 0; ; i++ {
		v, err := r.nodes[i%len(r.nodes)].Cluster(ctx)
		live := 0
		for state, n := range v.Tasks {
			if !terminal(state) {
				live += n
			}
		}
		if err == nil && live == 0 && len(v.Tasks) > 0 {
			return nil
		}
		if !pause(ctx, restPoll) {
			r.say("%d tasks have not ended after %v (%v)", live, r.cfg.Drain, err)
			return nil
		}
	}
}

// atRest reads every node's tasks and ledger once all ledgers are equally long.
func (r *run) atRest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Drain)
	defer cancel()
	heads, err := awaitEqualHeads(ctx, r.nodes)
	if err != nil {
		return err
	}
	r.level = equalHeads(heads)
	for i, c := range r.nodes {
		id := r.cluster.Nodes()[i].ID
		tasks, err := c.Tasks(ctx)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			r.h.seen(Sight{NodeID: id, TaskID: t.TaskID, State: t.State, AgentID: t.AgentID, Epoch: t.Epoch, Result: string(t.Result)})
		}
		records, err := c.Export(ctx)
		if err != nil {
			return err
		}
		r.h.booked(Book{NodeID: id, Bad: heads[i].Bad, Records: records})
	}
	return nil
}

// awaitEqualHeads has every node verify its ledgers until all end in the same
// place, and returns what each found. Ledgers that stay different are returned
// as they are: the checker says where they part.
func awaitEqualHeads(ctx context.Context, nodes []wire.Client) ([]api.LedgerVerification, error) {
	ctx, cancel := context.WithTimeout(ctx, headsWait)
	defer cancel()
	var last error
	var found []api.LedgerVerification
	for {
		now := make([]api.LedgerVerification, len(nodes))
		last = nil
		for i, c := range nodes {
			var err error
			if now[i], err = c.Verify(ctx); err != nil {
				last = err
			}
		}
		if last == nil {
			found = now
			if equalHeads(found) {
				return found, nil
			}
		}
		if !pause(ctx, restPoll) {
			if found == nil {
				return nil, fmt.Errorf("chaos: no node verified its ledger within %v: %w", headsWait, last)
			}
			return found, nil
		}
	}
}

// headsWait is how long replicas may take to catch up with one another.
const headsWait = 20 * time.Second

func equalHeads(all []api.LedgerVerification) bool {
	for _, v := range all {
		if len(v.Heads) == 0 || len(v.Heads) != len(all[0].Heads) {
			return false
		}
		for i, h := range v.Heads {
			if h != all[0].Heads[i] {
				return false
			}
		}
	}
	return len(all) > 0
}

// tally counts what the history holds.
func (r *run) tally(rep *RunReport) {
	tasks := map[string]bool{}
	for _, s := range r.h.Submissions {
		switch s.Answer {
		case Acked:
			rep.Submitted++
			tasks[s.TaskID] = true
		case Unknown:
			rep.Unknown++
		}
	}
	rep.Tasks = len(tasks)
	rep.Grants = len(r.h.Grants)
	for _, s := range r.h.Settlings {
		if s.Answer == Acked && s.Verdict == "complete" {
			rep.Completed++
		}
		if s.Code == "stale_lease" {
			rep.Stale++
		}
	}
	for _, b := range r.h.Books {
		rep.Records = max(rep.Records, len(b.Records))
	}
	for _, e := range r.h.Effects {
		if e.Undo {
			rep.Undone++
		} else {
			rep.Effects++
		}
	}
	if len(r.h.Books) > 0 {
		for _, rec := range r.h.Books[0].Records {
			if rec.To == "unknown" && rec.From != "unknown" {
				rep.Doubts++
			}
		}
	}
}

// save keeps the history beside the logs when asked to.
func (r *run) save() error {
	if !r.cfg.Keep {
		return nil
	}
	b, err := json.Marshal(r.h)
	if err != nil {
		return fmt.Errorf("chaos: history: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.cluster.Dir(), "history.json"), b, 0o644); err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	return nil
}

func (r *run) print(rep RunReport) {
	out := r.cfg.Out
	fmt.Fprintf(out, "\nseed %d, %.0f s, faults: %v\n", rep.Seed, rep.Seconds, rep.Faults)
	fmt.Fprintf(out, "%d tasks, %d submissions acknowledged (%d unknown and asked again), %d leases, %d completions, %d stale epochs refused\n",
		rep.Tasks, rep.Submitted, rep.Unknown, rep.Grants, rep.Completed, rep.Stale)
	fmt.Fprintf(out, "effects outside: %d, %d undone; agents died %d times acting, %d actions were in doubt\n", rep.Effects, rep.Undone, rep.Deaths, rep.Doubts)
	fmt.Fprintf(out, "ledger: %d records on each of %d nodes\n", rep.Records, len(r.h.Books))
	for i, v := range rep.Violations {
		if i == maxReportedFaults {
			fmt.Fprintf(out, "… and %d more\n", len(rep.Violations)-i)
			break
		}
		fmt.Fprintf(out, "VIOLATION %s\n", v)
	}
	if len(rep.Violations) == 0 && len(r.h.Books) > 0 {
		fmt.Fprintln(out, "every rule holds")
	}
	if rep.Dir != "" {
		fmt.Fprintln(out, "data, logs and history.json are in", rep.Dir)
	}
}
