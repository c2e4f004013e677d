package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Proposer is one process of a group that replicates commands: Quorate's raftstore, or what it is compared with.
type Proposer interface {
	// Leads lists the shards this process leads.
	Leads() []uint32
	// Transfer starts handing a shard over to the process with that index.
	Transfer(shard uint32, to int) error
	// Pipeline opens a way to propose on a shard. Each is used by one goroutine; end closes it, after the last answer.
	// The commands may be kept but not changed; done is called once for each.
	Pipeline(shard uint32) (propose func(commands [][]byte, done func(error)), end func())
}

// Orders and answers of a process of the group: one JSON object a line on its standard input and output. It ends
// with its input, so that none outlives who started it.
type order struct {
	Do   string    `json:"do"` // "leads", "balance", "load", "cpu"
	Load *LoadSpec `json:"load,omitempty"`
}

type answer struct {
	Error string      `json:"error,omitempty"`
	Leads []uint32    `json:"leads,omitempty"`
	CPU   int64       `json:"cpu_ns,omitempty"`
	Load  *loadResult `json:"load,omitempty"`
}

// LoadSpec is closed-loop load of one process on the shards it leads.
type LoadSpec struct {
	Clients      int `json:"clients"` // goroutines that propose, spread over the shards
	Depth        int `json:"depth"`   // proposals each keeps in flight
	Burst        int `json:"burst"`   // at most this many are proposed at once
	PayloadBytes int `json:"payload_bytes"`
	// FollowUpBytes, if not 0, is the size of a second proposal that follows the answer to each: the two count once.
	FollowUpBytes int           `json:"follow_up_bytes,omitempty"`
	Profile       string        `json:"profile,omitempty"` // directory: each process writes its CPU profile there
	WarmUp        time.Duration `json:"warm_up_ns"`
	Duration      time.Duration `json:"duration_ns"`
}

// Limits of a LoadSpec.
const (
	maxClients = 256 // a histogram each
	maxDepth   = 1 << 16
)

func (s LoadSpec) validate() error {
	if s.Clients < 1 || s.Clients > maxClients || s.Depth < 1 || s.Depth > maxDepth || s.Burst < 1 || s.Burst > s.Depth {
		return fmt.Errorf("bench: %d clients, depth %d, burst %d: want 1 to %d clients, a depth up to %d and a burst up to the depth",
			s.Clients, s.Depth, s.Burst, maxClients, maxDepth)
	}
	if s.PayloadBytes < 1 || s.PayloadBytes > maxPayload || s.FollowUpBytes < 0 || s.FollowUpBytes > maxPayload || s.WarmUp < 0 || s.WarmUp > maxDuration || s.Duration <= 0 || s.Duration > maxDuration {
		return fmt.Errorf("bench: payload of %d bytes, warm-up %v, duration %v: out of range", s.PayloadBytes, s.WarmUp, s.Duration)
	}
	return nil
}

type loadResult struct {
	Acked   int64         `json:"acked"` // within the duration
	Failed  int64         `json:"failed"`
	Seconds float64       `json:"seconds"`
	CPU     time.Duration `json:"cpu_ns"` // of the process within the duration, generator included
	Hist    []byte        `json:"hist"`   // HDR, microseconds from the call to the answer, one a burst
}

// ServeProposer obeys the orders of a harness until in ends.
func ServeProposer(ctx context.Context, in io.Reader, out io.Writer, index, peers int, p Proposer) error {
	orders := bufio.NewScanner(in)
	enc := json.NewEncoder(out)
	for orders.Scan() {
		var o order
		a := answer{}
		if err := json.Unmarshal(orders.Bytes(), &o); err != nil {
			return fmt.Errorf("bench: order %q: %w", orders.Bytes(), err)
		}
		switch o.Do {
		case "leads":
			a.Leads = p.Leads()
		case "cpu":
			a.CPU = int64(selfCPU())
		case "balance":
			for _, shard := range p.Leads() {
				if to := int(shard) % peers; to != index {
					_ = p.Transfer(shard, to) // may have lost it meanwhile; who balances asks again
				}
			}
		case "load":
			r, err := generate(ctx, o.Load, p)
			if a.Load = r; err != nil {
				a.Error = err.Error()
			}
		default:
			a.Error = "unknown order " + o.Do
		}
		if err := enc.Encode(a); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return orders.Err()
}

// generate loads the shards that p leads.
func generate(ctx context.Context, spec *LoadSpec, p Proposer) (*loadResult, error) {
	if spec == nil {
		return nil, errors.New("bench: load without a specification")
	}
	if err := spec.validate(); err != nil {
		return nil, err
	}
	led := p.Leads()
	if len(led) == 0 { // it follows; its CPU counts all the same
		pause(ctx, spec.WarmUp)
		defer StartProfile(spec.Profile)()
		cpu := selfCPU()
		pause(ctx, spec.Duration)
		return &loadResult{Seconds: spec.Duration.Seconds(), CPU: selfCPU() - cpu}, nil
	}
	l := &load{spec: *spec, began: time.Now(), commands: noise(spec.PayloadBytes, spec.Burst), followUps: noise(spec.FollowUpBytes, 1)}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var clients sync.WaitGroup
	all := make([]*client, spec.Clients)
	for i := range all {
		all[i] = &client{load: l, hist: hdrhistogram.New(1, maxLatency.Microseconds(), latencyDigits), tokens: make(chan struct{}, spec.Depth),
			begun: make(chan time.Duration, spec.Depth)}
		clients.Go(func() { all[i].run(ctx, p, led[i%len(led)]) })
	}
	pause(ctx, spec.WarmUp)
	defer StartProfile(spec.Profile)()
	from, cpu := l.since(), selfCPU()
	l.from.Store(int64(from))
	pause(ctx, spec.Duration)
	to := l.since()
	l.to.Store(int64(to))
	r := &loadResult{Seconds: (to - from).Seconds(), CPU: selfCPU() - cpu}
	stop()
	clients.Wait()
	hist := hdrhistogram.New(1, maxLatency.Microseconds(), latencyDigits)
	for _, c := range all {
		r.Acked += c.acked
		r.Failed += c.failed
		hist.Merge(c.hist)
	}
	var err error
	r.Hist, err = hist.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err == nil && l.err.Load() != nil {
		err = fmt.Errorf("bench: %d proposals failed, the first: %w", r.Failed, *l.err.Load())
	}
	return r, err
}

// load is what the clients of one order share.
type load struct {
	spec      LoadSpec
	commands  [][]byte
	followUps [][]byte
	began     time.Time
	from, to  atomic.Int64 // nanoseconds since began; 0: not known yet
	err       atomic.Pointer[error]
}

func (l *load) since() time.Duration { return time.Since(l.began) }

// noiseCommands is how many different commands there are: 512 KiB of them at 128 bytes, more than any compressor's window
// of the stores that are measured.
const noiseCommands = 4096

// noise makes commands that do not compress, and the first ones again behind the last: any burst is a slice of them.
func noise(size, burst int) [][]byte {
	if size == 0 {
		return nil
	}
	random := rand.NewChaCha8([32]byte{1})
	all := make([][]byte, noiseCommands, noiseCommands+burst)
	for i := range all {
		all[i] = make([]byte, size)
		_, _ = random.Read(all[i]) // never fails
	}
	for i := range burst {
		all = append(all, all[i%noiseCommands])
	}
	return all
}

// client keeps up to Depth proposals in flight on one shard.
type client struct {
	load   *load
	tokens chan struct{}      // one each for what is under way
	begun  chan time.Duration // when what now needs its follow-up began
	mu     sync.Mutex         // answers may come from several goroutines
	hist   *hdrhistogram.Histogram
	acked  int64
	failed int64
}

func (c *client) run(ctx context.Context, p Proposer, shard uint32) {
	propose, end := p.Pipeline(shard)
	defer end()
	at := 0 // in the commands
	burst := func(of [][]byte, n int) [][]byte {
		at = (at + n) % noiseCommands
		return of[at : at+n]
	}
	held := 0 // tokens that are known to be back
	defer func() {
		for ; held < cap(c.tokens); held++ { // the last answers
			select {
			case c.tokens <- struct{}{}:
			case <-c.begun: // without its follow-up: it counts for nothing
				<-c.tokens
				held--
			}
		}
	}()
	for {
		select {
		case start := <-c.begun:
			propose(burst(c.load.followUps, 1), c.answer(start, 1, true))
			continue
		default:
		}
		select {
		case start := <-c.begun:
			propose(burst(c.load.followUps, 1), c.answer(start, 1, true))
		case c.tokens <- struct{}{}:
			n := 1
		more:
			for ; n < c.load.spec.Burst; n++ {
				select {
				case c.tokens <- struct{}{}:
				default:
					break more
				}
			}
			propose(burst(c.load.commands, n), c.answer(c.load.since(), n, len(c.load.followUps) == 0))
		case <-ctx.Done():
			return
		}
		if c.load.err.Load() != nil {
			return
		}
	}
}

// answer takes the answers of a burst of n that began at start; last says that nothing follows them.
func (c *client) answer(start time.Duration, n int, last bool) func(error) {
	l := c.load
	return func(err error) {
		now := l.since()
		from, to := time.Duration(l.from.Load()), time.Duration(l.to.Load())
		c.mu.Lock()
		n--
		switch {
		case err != nil:
			c.failed++
			l.err.CompareAndSwap(nil, &err)
		case last && from > 0 && now >= from && (to == 0 || now < to):
			c.acked++
			if n == 0 && start >= from {
				_ = c.hist.RecordValue(min(max((now-start).Microseconds(), 1), maxLatency.Microseconds())) // within its bounds
			}
		}
		c.mu.Unlock()
		if err == nil && !last {
			c.begun <- start // it has room for all that is under way
			return
		}
		<-c.tokens
	}
}
