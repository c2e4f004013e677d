package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// DemoConfig says what [Demo] does. Zero fields take the default given.
type DemoConfig struct {
	// Binary is the quorate executable the nodes and agents run; default: this one.
	Binary string
	// Limit is how many packages are worked through, spread evenly over the
	// standard library; default 72, about a minute on two cores.
	Limit int
	// Keep leaves the cluster and its agents running at the end.
	Keep bool
	// JSON prints the report as one JSON object and no progress.
	JSON bool
	// Out takes progress and report; default: nothing is printed.
	Out io.Writer
}

const (
	defaultDemoLimit = 72
	submitBatch      = 16 // tasks a request
	submitBelow      = 12 // tasks under way: then the next batch
	demoPoll         = 200 * time.Millisecond
	demoPatience     = 3 * time.Minute  // without any completion
	demoDown         = 5 * time.Second  // between the kill and the restart, at least
	demoAgentLease   = 20               // seconds; agents renew by themselves
	demoVerify       = 30 * time.Second // for the ledgers to be equal
	demoCalls        = 10 * time.Second // for one request, over all nodes
	agentStart       = 20 * time.Second
	leaderWait       = 20 * time.Second
	leaderPoll       = 10 * time.Millisecond
)

// demoAgents are the agents: what each can do and the node it asks first.
var demoAgents = []struct {
	id   string
	can  []string
	node int
}{
	{"vet-1", []string{"vet:go"}, 0},
	{"vet-2", []string{"vet:go"}, 1},
	{"lint-1", []string{"lint:gofmt"}, 1},
	{"both-1", []string{"vet:go", "lint:gofmt"}, 2},
}

// DemoReport is what a demonstration found out.
type DemoReport struct {
	Packages     int            `json:"packages"`
	Submitted    int            `json:"submitted"`
	Completed    int            `json:"completed"`
	Failed       int            `json:"failed"`
	Missing      int            `json:"missing"`
	Findings     int            `json:"findings"`
	Extra        int            `json:"attempts_beyond_the_first"`
	Seconds      float64        `json:"duration_seconds"`
	Killed       string         `json:"killed_node"`
	KilledShards []uint32       `json:"killed_leader_of_shards"`
	LedAgain     float64        `json:"shards_led_again_after_seconds"`
	GapSeconds   float64        `json:"longest_gap_around_the_kill_seconds"`
	ByAgent      map[string]int `json:"completed_by_agent"`
	ByNode       map[string]int `json:"completed_by_node"`
	Deploy       Deploy         `json:"deploy"`
	Records      uint64         `json:"ledger_records"`
	Verified     bool           `json:"ledger_verified_on_all_nodes"`
	EqualHeads   bool           `json:"ledger_heads_equal"`
	APIs         []string       `json:"apis,omitempty"` // with Keep
	PIDs         []int          `json:"pids,omitempty"` // with Keep
	Dir          string         `json:"dir,omitempty"`  // with Keep
}

// Demo runs the demonstration. An error means that something was lost, that
// the ledgers differ, or that the demonstration itself could not be carried out.
func Demo(ctx context.Context, cfg DemoConfig) (DemoReport, error) {
	if cfg.Limit == 0 {
		cfg.Limit = defaultDemoLimit
	}
	if cfg.Limit < 0 {
		return DemoReport{}, fmt.Errorf("chaos: limit %d: want at least 1", cfg.Limit)
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	d := &demo{cfg: cfg, began: time.Now()}
	d.view = newView(cfg.Out, cfg.JSON)
	err := d.run(ctx)
	d.view.end()
	d.rep.Seconds = time.Since(d.began).Seconds()
	if d.counted {
		if cfg.JSON {
			if e := json.NewEncoder(cfg.Out).Encode(d.rep); e != nil {
				err = errors.Join(err, fmt.Errorf("chaos: %w", e))
			}
		} else {
			printDemo(cfg.Out, d.rep, err == nil)
		}
	}
	return d.rep, err
}

type demo struct {
	cfg     DemoConfig
	began   time.Time
	view    *view
	rep     DemoReport
	cluster *proc.Cluster
	nodes   []wire.Client
	specs   []api.TaskSpec // all that is to be done
	ids     []string       // of those submitted, in the same order
	counted bool           // every task has ended and the report says how
	kill    kill
}

// kill is the fault in the middle: when, whom, what it led.
type kill struct {
	node   *proc.Node
	at     time.Time
	back   bool // started again
	shards []uint32
}

func (d *demo) run(ctx context.Context) (err error) {
	root, err := goroot(ctx)
	if err != nil {
		return err
	}
	all, err := packages(root)
	if err != nil {
		return err
	}
	chosen := spread(all, d.cfg.Limit)
	d.rep.Packages = len(chosen)
	d.view.say("%d of the %d packages of the standard library in %s", len(chosen), len(all), root)
	if d.cluster, err = proc.Start(ctx, proc.Config{Binary: d.cfg.Binary, Keep: d.cfg.Keep, Detach: d.cfg.Keep, Args: []string{"--auto-approve", "deploy:prod"}}); err != nil {
		return err
	}
	defer func() { d.leave(ctx) }()
	pool := wire.Pool(4)
	defer pool.CloseIdleConnections()
	for _, n := range d.cluster.Nodes() {
		d.nodes = append(d.nodes, wire.Client{Base: n.URL(), HTTP: pool})
		d.view.say("node %s answers at %s (process %d)", n.ID, n.URL(), n.Process().PID())
	}
	if err := d.startAgents(ctx); err != nil {
		return err
	}
	if err := d.plan(root, chosen); err != nil {
		return err
	}
	tasks, err := d.watch(ctx)
	if err != nil {
		return err
	}
	d.settle(tasks)
	if err := d.deploy(ctx); err != nil {
		return err
	}
	d.counted = true
	return d.verify(ctx)
}

// startAgents starts the agent processes and waits until all are registered.
func (d *demo) startAgents(ctx context.Context) error {
	urls := d.cluster.URLs()
	for _, a := range demoAgents {
		order := append(slices.Clone(urls[a.node:]), urls[:a.node]...)
		args := []string{"agent", "run", "--id", a.id, "--api", strings.Join(order, ",")}
		for _, c := range a.can {
			args = append(args, "--can", c)
		}
		// What an agent is to do, its environment says: one command serves both.
		args = append(args, "--", "sh", "-c", `exec "$0" chaos work "$QUORATE_ACTION"`, d.cluster.Binary())
		if _, err := d.cluster.Spawn(a.id, args...); err != nil {
			return err
		}
		d.view.say("agent %s can %s, asks %s first", a.id, strings.Join(a.can, " and "), d.cluster.Nodes()[a.node].ID)
	}
	ctx, cancel := context.WithTimeout(ctx, agentStart)
	defer cancel()
	for {
		var agents []api.Agent
		err := d.ask(ctx, func(ctx context.Context, c wire.Client) (err error) {
			agents, err = c.Agents(ctx)
			return err
		})
		if err == nil && len(agents) >= len(demoAgents) {
			return nil
		}
		if !pause(ctx, demoPoll) {
			return fmt.Errorf("chaos: %d of %d agents registered within %v; their logs are in %s", len(agents), len(demoAgents), agentStart, d.cluster.Dir())
		}
	}
}

// ask tries one node after the other until one answers.
func (d *demo) ask(ctx context.Context, call func(context.Context, wire.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, demoCalls)
	defer cancel()
	for {
		var last error
		for i, c := range d.nodes {
			if !d.cluster.Nodes()[i].Running() {
				continue
			}
			if last = call(ctx, c); last == nil {
				return nil
			}
		}
		if p := wire.Problem(last); p != nil && p.Retry == api.RetryNo || !pause(ctx, demoPoll) {
			return last
		}
	}
}

// plan makes one vet and one lint task for every package. The keys make it
// safe to send a batch again when its answer was lost.
func (d *demo) plan(root string, chosen []string) error {
	for _, pkg := range chosen {
		input, err := json.Marshal(workInput{Root: root, Package: pkg})
		if err != nil {
			return fmt.Errorf("chaos: %w", err)
		}
		for _, can := range []string{"vet:go", "lint:gofmt"} {
			action, target, _ := api.SplitCapability(can)
			d.specs = append(d.specs, api.TaskSpec{
				Action: action, Target: target, Description: can + " " + pkg, Input: input,
				IdempotencyKey: "demo/" + can + "/" + pkg, LeaseSeconds: demoAgentLease,
			})
		}
	}
	return nil
}

// submit sends the next batch when little is left to do.
func (d *demo) submit(ctx context.Context, prog *progress) error {
	if len(d.ids) == len(d.specs) || len(d.ids)-prog.ended >= submitBelow {
		return nil
	}
	batch := d.specs[len(d.ids):min(len(d.ids)+submitBatch, len(d.specs))]
	var verdicts []api.SubmitVerdict
	err := d.ask(ctx, func(ctx context.Context, c wire.Client) (err error) {
		verdicts, err = c.Submit(ctx, batch)
		for _, v := range verdicts {
			err = errors.Join(err, refusal(v.Error)) // asked again as a whole: the keys see to that
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("chaos: submit: %w", err)
	}
	for _, v := range verdicts {
		d.ids = append(d.ids, v.TaskID)
		prog.mine[v.TaskID] = true
	}
	d.rep.Submitted = len(d.ids)
	return nil
}

// watch follows the tasks to their end, strikes half-way, and returns them.
func (d *demo) watch(ctx context.Context) ([]api.Task, error) {
	prog := newProgress(len(d.specs))
	lastMove := time.Now()
	for {
		if err := d.submit(ctx, prog); err != nil {
			return nil, err
		}
		var tasks []api.Task
		var agents []api.Agent
		err := d.ask(ctx, func(ctx context.Context, c wire.Client) (err error) {
			if tasks, err = c.Tasks(ctx); err != nil {
				return err
			}
			agents, err = c.Agents(ctx)
			return err
		})
		if ctx.Err() != nil {
			return nil, fmt.Errorf("chaos: %w", ctx.Err())
		}
		if err == nil && prog.update(tasks, agents) {
			lastMove = time.Now()
		}
		d.view.show(prog, d.nodeStates())
		if prog.ended == len(d.specs) {
			d.rep.ByAgent, d.rep.ByNode = prog.byAgent, prog.byNode
			return tasks, d.restart(ctx)
		}
		if time.Since(lastMove) > demoPatience {
			return nil, fmt.Errorf("chaos: nothing was completed for %v, %d of %d tasks have ended (last: %v)", demoPatience, prog.ended, len(d.specs), err)
		}
		if err := d.strike(ctx, prog); err != nil {
			return nil, err
		}
		if !pause(ctx, demoPoll) {
			return nil, fmt.Errorf("chaos: %w", ctx.Err())
		}
	}
}

// strike kills when half is done, and restarts when three quarters are, but
// not before the others have had some time alone.
func (d *demo) strike(ctx context.Context, prog *progress) error {
	switch {
	case d.kill.node == nil && prog.ended*2 >= len(d.specs):
		return d.killBusyLeader(ctx, prog)
	case d.kill.node != nil && !d.kill.back && prog.ended*4 >= len(d.specs)*3 && time.Since(d.kill.at) > demoDown:
		return d.restart(ctx)
	}
	return nil
}

// killBusyLeader sends SIGKILL to the leader of the shard with most tasks left.
func (d *demo) killBusyLeader(ctx context.Context, prog *progress) error {
	leaders, err := d.cluster.Leaders(ctx)
	if err != nil {
		return err
	}
	var busy uint32
	for shard, n := range prog.liveByShard {
		if leaders[shard] != "" && (n > prog.liveByShard[busy] || n == prog.liveByShard[busy] && shard < busy) {
			busy = shard
		}
	}
	victim := d.cluster.Node(leaders[busy])
	if victim == nil {
		return fmt.Errorf("chaos: shard %d is led by %q, which is none of the nodes", busy, leaders[busy])
	}
	for shard, id := range leaders {
		if id == victim.ID {
			d.kill.shards = append(d.kill.shards, shard)
		}
	}
	slices.Sort(d.kill.shards)
	d.kill.node, d.kill.at = victim, time.Now()
	victim.Kill()
	d.rep.Killed, d.rep.KilledShards = victim.ID, d.kill.shards
	d.view.say("SIGKILL to %s, leader of busy shard %d (it led %v)", victim.ID, busy, d.kill.shards)
	return d.awaitLeaders(ctx)
}

// awaitLeaders waits until every shard of the killed node is led by another,
// and notes how long that took.
func (d *demo) awaitLeaders(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	for {
		leaders, err := d.cluster.Leaders(ctx)
		led := err == nil && !slices.ContainsFunc(d.kill.shards, func(s uint32) bool {
			return leaders[s] == "" || leaders[s] == d.kill.node.ID
		})
		if led {
			took := time.Since(d.kill.at)
			d.rep.LedAgain = took.Seconds()
			d.view.say("its shards are led again after %v", took.Round(time.Millisecond))
			return nil
		}
		if !pause(ctx, leaderPoll) {
			return fmt.Errorf("chaos: shards %v have had no leader for %v", d.kill.shards, leaderWait)
		}
	}
}

// restart brings the killed node back, once.
func (d *demo) restart(ctx context.Context) error {
	if d.kill.node == nil || d.kill.back {
		return nil
	}
	d.kill.back = true
	t := time.Now()
	if err := d.kill.node.Restart(ctx); err != nil {
		return err
	}
	d.view.say("%s is back and ready after %v", d.kill.node.ID, time.Since(t).Round(time.Millisecond))
	return nil
}

// nodeStates says which nodes run.
func (d *demo) nodeStates() map[string]bool {
	up := map[string]bool{}
	for _, n := range d.cluster.Nodes() {
		up[n.ID] = n.Running()
	}
	return up
}

// shardOf reads the shard out of a task ID.
func shardOf(id string) uint32 {
	t, err := ledger.ParseTaskID(id)
	if err != nil {
		return 0
	}
	return t.Shard()
}
