package bench

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/chaos/proc"
	"github.com/quorate/quorate/node/api"
	qclient "github.com/quorate/quorate/node/client"
)

// SubmitsConfig says what [Submits] measures. Zero fields take the default
// given.
type SubmitsConfig struct {
	Binary   string        // the quorate executable the nodes run; default: this one
	Duration time.Duration // measured, after WarmUp; default 5 s
	WarmUp   time.Duration // default 2 s
	// Connections is how many callers there are, spread over the nodes, each
	// with one request under way; default 64, at most 4096.
	Connections int
	// Batch is how many tasks a request carries; default 1, at most 1024.
	Batch int
	// PayloadBytes is the size of a task's input; default 128, at most 64 KiB.
	PayloadBytes int
	// Via is "http" (default; each caller has a connection of its own) or
	// "stream" (a node's callers share a Submitter of the Go client).
	Via     string
	Profile string // directory for the nodes' CPU profiles; empty: none
	JSON    bool
	Out     io.Writer
}

// SubmitsReport is what was measured: tasks submitted while no agent is there,
// each acknowledged when its entry is fsynced on a quorum.
type SubmitsReport struct {
	Via                 string    `json:"via"`
	Connections         int       `json:"connections"`
	Batch               int       `json:"batch"`
	PayloadBytes        int       `json:"payload_bytes"`
	Seconds             float64   `json:"duration_seconds"`
	Acknowledged        int64     `json:"acknowledged"`
	PerSecond           float64   `json:"submits_per_second"`
	MegabytesPerSecond  float64   `json:"input_mb_per_second"` // 10^6 bytes of input
	Latency             Quantiles `json:"sent_to_acknowledged"`
	NodesCoreMicros     float64   `json:"nodes_core_us_per_submit"`
	GeneratorCoreMicros float64   `json:"generator_core_us_per_submit"`
	Cores               int       `json:"cores"`
	Refused             int64     `json:"refused_or_lost"`
}

func (c SubmitsConfig) withDefaults() (SubmitsConfig, error) {
	c.Duration, c.WarmUp = cmp.Or(c.Duration, 5*time.Second), cmp.Or(c.WarmUp, 2*time.Second)
	c.Connections, c.Batch = cmp.Or(c.Connections, 64), cmp.Or(c.Batch, 1)
	c.PayloadBytes, c.Via = cmp.Or(c.PayloadBytes, 128), cmp.Or(c.Via, ViaHTTP)
	if c.Out == nil {
		c.Out = io.Discard
	}
	var errs []error
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("bench: submits: %s %d: want %d to %d", name, v, lo, hi))
		}
	}
	within("connections", c.Connections, 1, maxAgents)
	within("batch", c.Batch, 1, maxBatch)
	within("payload", c.PayloadBytes, minPayload, maxPayload)
	if c.Via != ViaStream && c.Via != ViaHTTP {
		errs = append(errs, fmt.Errorf("bench: submits: via %q: want %s or %s", c.Via, ViaStream, ViaHTTP))
	}
	if c.Duration < 0 || c.Duration > maxDuration || c.WarmUp < 0 || c.WarmUp > maxDuration {
		errs = append(errs, fmt.Errorf("bench: submits: duration %v, warm-up %v: want up to %v", c.Duration, c.WarmUp, maxDuration))
	}
	return c, errors.Join(errs...)
}

// Submits measures how many tasks a second three node processes acknowledge to
// callers that each wait for their answer before they ask again.
func Submits(ctx context.Context, cfg SubmitsConfig) (SubmitsReport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return SubmitsReport{}, err
	}
	var args []string
	if cfg.Profile != "" {
		args = []string{"--profile", cfg.Profile}
	}
	cluster, err := proc.Start(ctx, proc.Config{Binary: cfg.Binary, Shards: -1, Args: args})
	if err != nil {
		return SubmitsReport{}, fmt.Errorf("bench: %w", err)
	}
	defer cluster.Close()
	m := &submits{cfg: cfg, cluster: cluster, began: time.Now()}
	m.from.Store(int64(maxDuration) * 4) // nothing counts before the warm-up is over
	rep, err := m.run(ctx)
	if err == nil && cfg.Profile != "" {
		err = endProfiles(ctx, cluster)
	}
	if err != nil {
		return rep, err
	}
	if cfg.JSON {
		return rep, json.NewEncoder(cfg.Out).Encode(rep)
	}
	rep.print(cfg.Out)
	return rep, nil
}

// submits is one run: what its callers share.
type submits struct {
	cfg      SubmitsConfig
	cluster  *proc.Cluster
	began    time.Time
	next     atomic.Int64 // number of the next task
	acked    atomic.Int64
	refused  atomic.Int64
	lag      latencies // from sent to acknowledged
	from, to atomic.Int64
	last     struct {
		sync.Mutex
		err error // why something was refused
	}
}

// submitFunc submits a batch and says how many of it were taken.
type submitFunc func(ctx context.Context, specs []api.TaskSpec) (taken int, err error)

func (m *submits) run(ctx context.Context) (SubmitsReport, error) {
	work, stop := context.WithCancel(ctx)
	defer stop()
	call, shut, err := m.callers()
	if err != nil {
		return SubmitsReport{}, err
	}
	var callers sync.WaitGroup
	for i := range m.cfg.Connections {
		callers.Go(func() { m.caller(work, call[i]) })
	}
	before, after, err := m.measure(ctx)
	stop()
	callers.Wait()
	shut()
	if err != nil {
		return SubmitsReport{}, err
	}
	n, seconds := after.completed-before.completed, (after.at - before.at).Seconds()
	if n == 0 {
		return SubmitsReport{}, fmt.Errorf("bench: submits: nothing was acknowledged: %w", m.last.err)
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	return SubmitsReport{Via: m.cfg.Via, Connections: m.cfg.Connections, Batch: m.cfg.Batch, PayloadBytes: m.cfg.PayloadBytes, Seconds: seconds,
		Acknowledged: n, PerSecond: float64(n) / seconds, MegabytesPerSecond: float64(n) / seconds * float64(m.cfg.PayloadBytes) / 1e6,
		Latency: m.lag.quantiles(), NodesCoreMicros: each(after.nodes - before.nodes), GeneratorCoreMicros: each(after.self - before.self),
		Cores: runtime.NumCPU(), Refused: m.refused.Load()}, nil
}

// callers gives each connection's way to submit, and how to end them all.
func (m *submits) callers() (call []submitFunc, shut func(), err error) {
	var ends []func()
	shut = func() {
		for _, end := range ends {
			end()
		}
	}
	urls := m.cluster.URLs()
	if m.cfg.Via == ViaHTTP {
		for i := range m.cfg.Connections {
			c := &plainConn{addr: strings.TrimPrefix(urls[i%len(urls)], "http://")}
			ends = append(ends, c.close)
			call = append(call, c.submit)
		}
		return call, shut, nil
	}
	var shared []*qclient.Submitter
	for i := range urls {
		c, err := qclient.New(qclient.Config{URLs: append(urls[i:len(urls):len(urls)], urls[:i]...), Actor: fmt.Sprint("bench-", i)})
		if err != nil {
			shut()
			return nil, nil, fmt.Errorf("bench: %w", err)
		}
		s := c.Submitter()
		ends = append(ends, func() { s.Close(); c.Close() })
		shared = append(shared, s)
	}
	for i := range m.cfg.Connections {
		call = append(call, func(ctx context.Context, specs []api.TaskSpec) (taken int, err error) {
			verdicts, err := shared[i%len(shared)].Submit(ctx, specs)
			for _, v := range verdicts {
				if v.Error == nil {
					taken++
				} else {
					err = v.Error
				}
			}
			return taken, err
		})
	}
	return call, shut, nil
}

// caller submits, one request after the other, until ctx ends.
func (m *submits) caller(ctx context.Context, submit submitFunc) {
	action, target, _ := api.SplitCapability(nobodyCan)
	specs, due := make([]api.TaskSpec, m.cfg.Batch), make([]time.Duration, m.cfg.Batch)
	for ctx.Err() == nil {
		first := m.next.Add(int64(len(specs))) - int64(len(specs))
		now := time.Since(m.began)
		for i := range specs {
			due[i] = now
			specs[i] = api.TaskSpec{Action: action, Target: target, IdempotencyKey: "s" + strconv.FormatInt(first+int64(i), 36),
				Input: encodeInput(first+int64(i), now, m.cfg.PayloadBytes)}
		}
		taken, err := submit(ctx, specs)
		if ctx.Err() != nil {
			return
		}
		m.acked.Add(int64(taken))
		m.lag.record(time.Since(m.began), m.from.Load(), m.to.Load(), due[:taken])
		if taken < len(specs) {
			m.refused.Add(int64(len(specs) - taken))
			m.last.Lock()
			m.last.err = err
			m.last.Unlock()
			pause(ctx, retryPause)
		}
	}
}

func (m *submits) measure(ctx context.Context) (before, after mark, err error) {
	look := func() (k mark, err error) {
		k = mark{at: time.Since(m.began), completed: m.acked.Load(), self: selfCPU()}
		all, err := cpus(m.cluster)
		for _, d := range all {
			k.nodes += d
		}
		return k, err
	}
	if !pause(ctx, m.cfg.WarmUp) {
		return before, after, fmt.Errorf("bench: %w", ctx.Err())
	}
	if before, err = look(); err != nil {
		return before, after, err
	}
	m.from.Store(int64(before.at))
	if !pause(ctx, m.cfg.Duration) {
		return before, after, fmt.Errorf("bench: %w", ctx.Err())
	}
	after, err = look()
	m.to.Store(int64(after.at))
	return before, after, err
}

// plainConn is one HTTP/1.1 connection with one request at a time under way,
// spoken without net/http's client: the generator shares the nodes' cores.
type plainConn struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

func (c *plainConn) close() {
	if c.conn != nil {
		_ = c.conn.Close() // what was answered was read
		c.conn = nil
	}
}

// submit sends one task as an object, more as an array.
func (c *plainConn) submit(ctx context.Context, specs []api.TaskSpec) (taken int, err error) {
	var v any = specs
	if len(specs) == 1 {
		v = specs[0]
	}
	body, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	if c.conn == nil {
		conn, err := (&net.Dialer{Timeout: callTimeout}).DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return 0, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })()
	c.out = fmt.Appendf(c.out[:0], "POST /v1/tasks HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", c.addr, len(body))
	c.out = append(c.out, body...)
	_ = c.conn.SetDeadline(time.Now().Add(callTimeout)) // fails only when the connection is over
	if _, err = c.conn.Write(c.out); err == nil {
		taken, err = c.answer(len(specs))
	}
	if err != nil && !errors.As(err, new(*api.Error)) {
		c.close()
	}
	return taken, err
}

func (c *plainConn) answer(n int) (taken int, err error) {
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	b, err := io.ReadAll(r.Body)
	_ = r.Body.Close() // it was read to its end
	switch {
	case err != nil:
		return 0, err
	case r.StatusCode/100 != 2:
		e := new(api.Error)
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			return 0, fmt.Errorf("bench: %s: %.200s", r.Status, b)
		}
		return 0, e
	case n == 1:
		return 1, nil
	}
	var out struct {
		Tasks []api.SubmitVerdict `json:"tasks"`
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	var last error
	for _, v := range out.Tasks {
		if v.Error == nil {
			taken++
		} else {
			last = v.Error
		}
	}
	return taken, last
}

func (r SubmitsReport) print(out io.Writer) {
	fmt.Fprintf(out, "three nodes, every submit fsynced on a quorum before it is acknowledged; %s, %d callers, %d a request, %d B inputs; %d cores\n",
		r.Via, r.Connections, r.Batch, r.PayloadBytes, r.Cores)
	fmt.Fprintf(out, "  submits               %.0f /s (%d in %.1f s), %.1f MB/s of input\n", r.PerSecond, r.Acknowledged, r.Seconds, r.MegabytesPerSecond)
	l := r.Latency
	fmt.Fprintf(out, "  acknowledged          p50 %.2f  p99 %.2f  p99.9 %.2f  max %.1f ms after it was sent\n", l.P50Millis, l.P99Millis, l.P999Millis, l.MaxMillis)
	fmt.Fprintf(out, "  CPU per submit        nodes %.1f core-µs, generator %.1f core-µs\n", r.NodesCoreMicros, r.GeneratorCoreMicros)
	if r.Refused > 0 {
		fmt.Fprintf(out, "  refused or lost       %d\n", r.Refused)
	}
}
