package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/chaos/wire"
	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// LifecycleConfig says what [Lifecycle] measures. Zero fields take the default
// given.
type LifecycleConfig struct {
	// Binary is the quorate executable the nodes run; default: this one.
	Binary string
	// Duration is how long is measured, after the warm-up; default 10 s, at
	// most an hour.
	Duration time.Duration
	// WarmUp is how long load runs before anything counts; default 2 s.
	WarmUp time.Duration
	// Rate is how many tasks are submitted a second, open loop, at most a
	// million; 0 submits as fast as the cluster completes them.
	Rate int
	// Shards is how many task shards; default: what nodes take by themselves.
	Shards int
	// PayloadBytes is the size of a task's input; default 128, at most 64 KiB.
	PayloadBytes int
	// Batch is how many tasks one request carries at most; default 256, at
	// most 1024, the API's own limit.
	Batch int
	// Window is how many tasks may be under way when submitting as fast as
	// possible; default 8192.
	Window int
	// Agents is how many agents work, spread over the nodes; default two a
	// node, at most 4096.
	Agents int
	// Guarantee is the tasks' level; default at_least_once. An exactly_once
	// task has a verify task declared and is approved by a rule.
	Guarantee string
	// AuditLevel is the nodes': "hash" (default) or "log".
	AuditLevel string
	// Live is how many tasks that nobody can do wait in the cluster meanwhile;
	// at most 4 Mi.
	Live int
	// Backlog, unless 0, is how many tasks are submitted before the first agent
	// comes, at most 4 Mi: what is measured is how fast they are worked off.
	// Duration, WarmUp, Rate and Window then mean nothing.
	Backlog int
	// Via is how the nodes are spoken to: "stream" (default), by the Go client
	// and quorate.v1.Work, or "http", by JSON.
	Via string
	// Kill SIGKILLs the leader of most task shards half-way.
	Kill bool
	// Profile, if not empty, is a directory for the nodes' CPU profiles.
	Profile string
	// Plot, if not empty, is a file, .svg or .png, for a plot of completions over time.
	Plot string
	// JSON prints the report as one JSON object.
	JSON bool
	// Out takes the report; default: nothing is printed.
	Out io.Writer
}

// Limits and fixed parts of a measurement.
const (
	maxDuration   = time.Hour
	maxRate       = 1_000_000
	minPayload    = 48 // holds the sequence number and the due time
	maxPayload    = 64 << 10
	maxBatch      = 1024
	maxWindow     = 1 << 20
	maxTasks      = 1 << 28 // a bit each: 32 MiB
	maxAgents     = 4096
	maxWaiting    = 4 << 20 // Live, Backlog
	submitterRate = 4       // submitters a node
	workerRate    = 2       // workers a node
	leaseSeconds  = 15
	leaseWait     = time.Second
	callTimeout   = 10 * time.Second // then the outcome is unknown and asked again
	drainWait     = 60 * time.Second
	settleLimit   = 90 * time.Second // for what was filled in to be written and merged
	settleStep    = time.Second      // in which nodes that have settled use less than a tenth of a core
	retryPause    = 20 * time.Millisecond
	capability    = "bench:task"
	nobodyCan     = "bench:waiting"
)

func (c LifecycleConfig) withDefaults() LifecycleConfig {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.PayloadBytes, 128)
	def(&c.Batch, 256)
	def(&c.Window, 8192)
	def(&c.Agents, 3*workerRate)
	if c.Guarantee == "" {
		c.Guarantee = ledger.AtLeastOnce.String()
	}
	if c.Backlog > 0 {
		c.Rate, c.WarmUp = 0, time.Nanosecond
	}
	if c.Via == "" {
		c.Via = ViaStream
	}
	if c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	if c.WarmUp == 0 {
		c.WarmUp = 2 * time.Second
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c
}

// validate returns every mistake at once.
func (c LifecycleConfig) validate() error {
	var errs []error
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("bench: %s %d: want %d to %d", name, v, lo, hi))
		}
	}
	within("rate", c.Rate, 0, maxRate)
	within("payload", c.PayloadBytes, minPayload, maxPayload)
	within("batch", c.Batch, 1, maxBatch)
	within("window", c.Window, 1, maxWindow)
	within("agents", c.Agents, 1, maxAgents)
	within("live", c.Live, 0, maxWaiting)
	within("backlog", c.Backlog, 0, maxWaiting)
	if _, err := ledger.ParseGuarantee(c.Guarantee); err != nil {
		errs = append(errs, fmt.Errorf("bench: guarantee: %w", err))
	}
	if c.Backlog > 0 && c.Kill {
		errs = append(errs, errors.New("bench: a kill and a backlog: want one of them"))
	}
	if c.Via != ViaStream && c.Via != ViaHTTP {
		errs = append(errs, fmt.Errorf("bench: via %q: want %s or %s", c.Via, ViaStream, ViaHTTP))
	}
	if err := checkPlot(c.Plot); err != nil {
		errs = append(errs, err)
	}
	if c.Duration < 0 || c.Duration > maxDuration {
		errs = append(errs, fmt.Errorf("bench: duration %v: want up to %v", c.Duration, maxDuration))
	}
	if c.WarmUp < 0 || c.WarmUp > maxDuration {
		errs = append(errs, fmt.Errorf("bench: warm-up %v: want up to %v", c.WarmUp, maxDuration))
	}
	return errors.Join(errs...)
}

// Lifecycle measures and reports. An error means that it could not be measured
// or that an acknowledged task was not completed.
func Lifecycle(ctx context.Context, cfg LifecycleConfig) (LifecycleReport, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return LifecycleReport{}, err
	}
	args := []string{"--auto-approve", capability}
	if cfg.Profile != "" {
		args = append(args, "--profile", cfg.Profile)
	}
	if cfg.AuditLevel != "" {
		args = append(args, "--audit-level", cfg.AuditLevel)
	}
	cluster, err := proc.Start(ctx, proc.Config{Binary: cfg.Binary, Shards: cmp.Or(cfg.Shards, -1), Args: args})
	if err != nil {
		return LifecycleReport{}, err
	}
	defer cluster.Close()
	m := newMeasurement(cfg, cluster)
	defer m.pool.CloseIdleConnections()
	rep, err := m.run(ctx)
	if err == nil && cfg.Profile != "" {
		err = endProfiles(ctx, cluster)
	}
	if err != nil {
		return rep, err
	}
	if cfg.JSON {
		if err := json.NewEncoder(cfg.Out).Encode(rep); err != nil {
			return rep, fmt.Errorf("bench: %w", err)
		}
	} else {
		rep.print(cfg.Out)
	}
	if rep.Lost > 0 {
		return rep, fmt.Errorf("bench: %d acknowledged tasks were not completed within %v of the last", rep.Lost, drainWait)
	}
	return rep, nil
}

// endProfiles stops the nodes, which writes their profiles.
func endProfiles(ctx context.Context, cluster *proc.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var errs []error
	for _, n := range cluster.Nodes() {
		if n.Running() {
			errs = append(errs, n.Stop(ctx))
		}
	}
	return errors.Join(errs...)
}

// measurement is one run: what the generator's goroutines share.
type measurement struct {
	*Meter
	cfg     LifecycleConfig
	cluster *proc.Cluster
	pool    interface{ CloseIdleConnections() }
	nodes   []wire.Client

	acked       bits          // submission acknowledged, by sequence number
	backlogTook time.Duration // to submit the backlog
	failed      atomic.Int64  // requests without an answer, asked again
	kill        killWatch

	keys      string // what the tasks' keys begin with
	oneNode   bool   // everything is submitted to the first node
	led       []bool // if not nil: and of these shards
	misplaced atomic.Int64
}

func newMeasurement(cfg LifecycleConfig, cluster *proc.Cluster) *measurement {
	pool := wire.Pool(2 * (submitterRate + workerRate))
	m := &measurement{cfg: cfg, cluster: cluster, pool: pool, Meter: NewMeter(MeterConfig{Rate: cfg.Rate, Window: cfg.Window, Batch: cfg.Batch, Limit: int64(cfg.Backlog)})}
	for _, n := range cluster.Nodes() {
		m.nodes = append(m.nodes, wire.Client{Base: n.URL(), HTTP: pool})
	}
	return m
}

// run: warm up, measure, drain, report.
func (m *measurement) run(ctx context.Context) (LifecycleReport, error) {
	work, stopWork := context.WithCancel(ctx)
	defer stopWork()
	submit, stopSubmit := context.WithCancel(work)
	defer stopSubmit()
	var submitters, workers sync.WaitGroup
	startWorkers, startSubmitters := m.startHTTPWorkers, m.startHTTPSubmitters
	if m.cfg.Via == ViaStream {
		startWorkers, startSubmitters = m.startStreamWorkers, m.startStreamSubmitters
	}
	if err := m.fill(ctx); err != nil {
		return LifecycleReport{}, err
	}
	m.restart()
	if m.cfg.Backlog > 0 {
		m.from.Store(0) // all of it counts
		if err := startSubmitters(submit, work, &submitters); err != nil {
			return LifecycleReport{}, err
		}
		submitters.Wait()
		m.backlogTook = m.Since()
	}
	if err := startWorkers(work, &workers); err != nil {
		return LifecycleReport{}, err
	}
	if m.cfg.Backlog == 0 {
		if err := startSubmitters(submit, work, &submitters); err != nil {
			return LifecycleReport{}, err
		}
	}
	before, after, err := m.measure(ctx)
	stopSubmit()
	submitters.Wait()
	m.drain(ctx)
	stopWork()
	workers.Wait()
	if err != nil {
		return LifecycleReport{}, err
	}
	return m.report(before, after), m.timeline(before, after).save(m.cfg.Plot)
}

// fill submits the tasks that nobody can do.
func (m *measurement) fill(ctx context.Context) error {
	if m.cfg.Live == 0 {
		return nil
	}
	c, err := m.dial(0)
	if err != nil {
		return err
	}
	defer c.Close()
	s := c.Submitter()
	defer s.Close()
	action, target, _ := api.SplitCapability(nobodyCan)
	var next, refused atomic.Int64
	var fillers sync.WaitGroup
	for range submitterRate {
		fillers.Go(func() {
			for ctx.Err() == nil {
				end := next.Add(maxBatch)
				specs := make([]api.TaskSpec, 0, maxBatch)
				for i := end - maxBatch; i < min(end, int64(m.cfg.Live)); i++ {
					specs = append(specs, api.TaskSpec{Action: action, Target: target, IdempotencyKey: "live" + strconv.FormatInt(i, 36),
						Input: encodeInput(i, 0, m.cfg.PayloadBytes)})
				}
				if len(specs) == 0 {
					return
				}
				verdicts, err := s.Submit(ctx, specs)
				if err != nil {
					refused.Add(int64(len(specs)))
					return
				}
				for _, v := range verdicts {
					if v.Error != nil {
						refused.Add(1)
					}
				}
			}
		})
	}
	fillers.Wait()
	if n := refused.Load(); n > 0 {
		return fmt.Errorf("bench: live: %d of %d tasks were not taken", n, m.cfg.Live)
	}
	return m.settle(ctx)
}

// settle waits until the nodes have written down and merged what they were filled with: work of the filling, which would
// else count as the price of having the tasks.
func (m *measurement) settle(ctx context.Context) error {
	before, err := m.mark()
	for began := time.Now(); err == nil && time.Since(began) < settleLimit; {
		if !pause(ctx, settleStep) {
			return ctx.Err()
		}
		var now mark
		if now, err = m.mark(); err == nil && now.nodes-before.nodes < settleStep/10 {
			return nil
		}
		before = now
	}
	return err
}

// startHTTPWorkers starts workers that speak JSON.
func (m *measurement) startHTTPWorkers(work context.Context, workers *sync.WaitGroup) error {
	var ws []*worker
	for i := range m.cfg.Agents {
		w := newWorker(m, i)
		if err := w.register(work); err != nil {
			return err
		}
		ws = append(ws, w)
	}
	for _, w := range ws {
		workers.Go(func() { w.run(work) })
	}
	return nil
}

func (m *measurement) startHTTPSubmitters(submit, work context.Context, submitters *sync.WaitGroup) error {
	for i := range len(m.nodes) * submitterRate {
		submitters.Go(func() { m.submit(submit, work, i) })
	}
	return nil
}

// measure marks the beginning and the end of what counts.
func (m *measurement) measure(ctx context.Context) (before, after mark, err error) {
	if !pause(ctx, m.cfg.WarmUp) {
		return before, after, fmt.Errorf("bench: %w", ctx.Err())
	}
	if before, err = m.markAll(ctx); err != nil {
		return before, after, err
	}
	switch {
	case m.cfg.Backlog > 0:
		m.drain(ctx)
	case m.cfg.Kill:
		m.from.Store(int64(before.at))
		pause(ctx, m.cfg.Duration/2)
		if err := m.killLeader(ctx); err != nil {
			return before, after, err
		}
		pause(ctx, m.cfg.Duration/2)
	default:
		m.from.Store(int64(before.at))
		pause(ctx, m.cfg.Duration)
	}
	after, err = m.markAll(ctx)
	m.to.Store(int64(after.at))
	if ctx.Err() != nil {
		err = fmt.Errorf("bench: %w", ctx.Err())
	}
	return before, after, err
}

// drain waits until every acknowledged task is completed, or none was for
// drainWait.
func (m *measurement) drain(ctx context.Context) {
	last, at := int64(-1), time.Time{}
	for m.acked.minus(&m.done) > 0 && pause(ctx, retryPause) {
		if n := m.completed.Load(); n != last {
			last, at = n, time.Now()
		} else if time.Since(at) > drainWait {
			return
		}
	}
}

// mark is a moment with the figures at it.
type mark struct {
	at        time.Duration
	completed int64
	nodes     time.Duration // CPU of all node processes, those that have ended included
	self      time.Duration // CPU of this process
	waits     ApplyWaits    // of the nodes that run
}

func (m *measurement) mark() (mark, error) {
	k := mark{at: m.Since(), completed: m.completed.Load(), self: selfCPU()}
	for _, n := range m.cluster.Nodes() {
		cpu, err := n.Process().CPU()
		if err != nil {
			return k, err
		}
		k.nodes += cpu
	}
	return k, nil
}

// markAll is mark with what only running nodes can tell; at a kill one does not, and the figures stay out.
func (m *measurement) markAll(ctx context.Context) (mark, error) {
	k, err := m.mark()
	if err != nil || m.cfg.Kill {
		return k, err
	}
	for _, n := range m.nodes {
		if err := k.waits.add(ctx, n.HTTP, n.Base); err != nil {
			return k, err
		}
	}
	return k, nil
}

// pause waits, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
