package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/sched"
)

// What queues and pools are measured at, in one process.
const (
	SchedOwn      = "owner: push and take 1"
	SchedOwn32    = "owner: push and take 32"
	SchedHandOff  = "hand-off: push 1, take up to 32"
	SchedHandOff1 = "hand-off: push 1, take 1"
	SchedSubmit   = "submit from outside: 1"
	SchedSubmit32 = "submit from outside: 32"
	SchedTasks    = "tasks to two workers"
)

// SchedMetrics are all of them, in the order of the table.
func SchedMetrics() []string { return schedMetrics }

var schedMetrics = []string{SchedOwn, SchedOwn32, SchedHandOff, SchedHandOff1, SchedSubmit, SchedSubmit32, SchedTasks}

// SchedContender does each of the things it can with n handles or tasks and
// returns when all are through.
type SchedContender struct {
	Name string
	Work map[string]func(n int)
}

// SchedConfig of a measurement.
type SchedConfig struct {
	Operations int // of each metric; default 2 M
	Rounds     int // in turns; default 5
	JSON       bool
	Out        io.Writer
}

// SchedRow is one figure: nanoseconds an operation, the median of the rounds.
type SchedRow struct {
	Metric    string  `json:"metric"`
	Contender string  `json:"contender"`
	Nanos     float64 `json:"ns_per_operation"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	Ratio     float64 `json:"ratio,omitempty"` // of this to sched's, 1 for sched itself
	Procs     int     `json:"gomaxprocs"`
}

// Sched measures the scheduler beside what the language offers, in turns, and
// prints a table.
func Sched(ctx context.Context, cfg SchedConfig) ([]SchedRow, error) {
	if cfg.Operations < 0 || cfg.Rounds < 0 {
		return nil, fmt.Errorf("bench sched: %d operations in %d rounds: want more than none", cfg.Operations, cfg.Rounds)
	}
	if cfg.Operations == 0 {
		cfg.Operations = 2_000_000
	}
	if cfg.Rounds == 0 {
		cfg.Rounds = 5
	}
	contenders := SchedContenders()
	var rows []SchedRow
	for _, metric := range schedMetrics {
		own := 0.0
		taken := make([][]float64, len(contenders))
		for range cfg.Rounds {
			for i, c := range contenders {
				if ctx.Err() != nil {
					return rows, ctx.Err()
				}
				if c.Work[metric] != nil {
					taken[i] = append(taken[i], c.Measure(metric, cfg.Operations))
				}
			}
		}
		for i, xs := range taken {
			if len(xs) == 0 {
				continue
			}
			slices.Sort(xs)
			r := SchedRow{Metric: metric, Contender: contenders[i].Name, Nanos: xs[len(xs)/2], Min: xs[0], Max: xs[len(xs)-1]}
			if i == 0 {
				own = r.Nanos
			}
			r.Ratio, r.Procs = r.Nanos/own, runtime.GOMAXPROCS(0)
			rows = append(rows, r)
		}
	}
	curve, err := schedCurve(ctx, cfg)
	if err != nil {
		return rows, err
	}
	return append(rows, curve...), printSched(cfg, rows, curve)
}

// schedProcs are what the curves are measured at. Beyond the machine's cores
// they show whether threads that are taken off their core hold the others up.
var schedProcs = []int{1, 2, 4, 8}

// schedCurve measures the scheduler alone with ever more processors, and a
// worker for each.
func schedCurve(ctx context.Context, cfg SchedConfig) (rows []SchedRow, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, metric := range []string{SchedOwn, SchedHandOff, SchedSubmit32, SchedTasks} {
		c := schedQuorate()
		for _, procs := range schedProcs {
			runtime.GOMAXPROCS(procs)
			name := metric
			if metric == SchedTasks {
				name = "tasks to as many workers"
				c.Work[metric] = func(n int) { schedTasksTo(n, procs) }
			}
			var xs []float64
			for range cfg.Rounds {
				if ctx.Err() != nil {
					return rows, ctx.Err()
				}
				xs = append(xs, c.Measure(metric, cfg.Operations))
			}
			slices.Sort(xs)
			rows = append(rows, SchedRow{Metric: name, Contender: c.Name, Nanos: xs[len(xs)/2], Min: xs[0], Max: xs[len(xs)-1], Procs: procs})
		}
	}
	return rows, nil
}

// SchedContenders are the scheduler, first, and what the language offers.
func SchedContenders() []SchedContender {
	return []SchedContender{schedQuorate(), schedChannel(), schedMutex(), schedGoroutines()}
}

// Measure does metric's work once and returns nanoseconds an operation.
func (c *SchedContender) Measure(metric string, n int) float64 {
	runtime.GC()
	began := time.Now()
	c.Work[metric](n)
	return float64(time.Since(began).Nanoseconds()) / float64(n)
}

func printSched(cfg SchedConfig, rows, curve []SchedRow) error {
	if cfg.Out == nil {
		return nil
	}
	if cfg.JSON {
		enc := json.NewEncoder(cfg.Out)
		for _, r := range slices.Concat(rows, curve) {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	fmt.Fprintf(cfg.Out, "GOMAXPROCS %d, %d operations, medians of %d rounds in turns; ns an operation [min–max]\n", runtime.GOMAXPROCS(0), cfg.Operations, cfg.Rounds)
	for _, r := range rows {
		fmt.Fprintf(cfg.Out, "%-34s %-12s %8.1f  [%.1f–%.1f]  %.1fx\n", r.Metric, r.Contender, r.Nanos, r.Min, r.Max, r.Ratio)
	}
	fmt.Fprintf(cfg.Out, "sched by GOMAXPROCS; this machine has %d cores, what is beyond is oversubscribed\n", runtime.NumCPU())
	for i, r := range curve {
		if i == 0 || curve[i-1].Metric != r.Metric {
			fmt.Fprintf(cfg.Out, "%-34s", r.Metric)
		}
		fmt.Fprintf(cfg.Out, "  %d: %.1f [%.1f–%.1f]", r.Procs, r.Nanos, r.Min, r.Max)
		if i == len(curve)-1 || curve[i+1].Metric != r.Metric {
			fmt.Fprintln(cfg.Out)
		}
	}
	return nil
}

const schedRun = 32

// schedQuorate is the scheduler. Its tasks are real ones: a class, four bands,
// a generation checked before the body, a body that may panic.
func schedQuorate() SchedContender {
	return SchedContender{Name: "sched", Work: map[string]func(int){
		SchedOwn: func(n int) { schedOwn(n, 1) }, SchedOwn32: func(n int) { schedOwn(n, schedRun) },
		SchedHandOff: func(n int) { schedHandOff(n, schedRun) }, SchedHandOff1: func(n int) { schedHandOff(n, 1) },
		SchedSubmit: func(n int) { schedSubmit(n, 1) }, SchedSubmit32: func(n int) { schedSubmit(n, schedRun) },
		SchedTasks: func(n int) { schedTasksTo(n, 2) },
	}}
}

func schedItems(c sched.Class, k int) []sched.Item {
	list := make([]sched.Item, k)
	for i := range list {
		list[i] = sched.Item{Handle: sched.Handle(i), Class: c, Band: 1, ReadyMillis: 1}
	}
	return list
}

var schedCaps = sched.WorkerConfig{Capabilities: []string{"vet:go"}}

func schedOwn(n, k int) {
	s := sched.New(sched.Config{})
	c := s.Class("vet:go")
	w := s.AddWorker(schedCaps)
	defer w.Close()
	list, buf := schedItems(c, k), make([]sched.Handle, k)
	for i := 0; i < n; i += k {
		if k == 1 {
			w.Push(sched.Handle(i), c, 1, 1)
		} else {
			w.PushBatch(list)
		}
		w.TryTake(buf)
	}
}

// schedHandOff is single pushes to a worker's own lane, which another takes.
func schedHandOff(n, k int) {
	s := sched.New(sched.Config{})
	c := s.Class("vet:go")
	owner, thief := s.AddWorker(schedCaps), s.AddWorker(schedCaps)
	defer owner.Close()
	defer thief.Close()
	var wg sync.WaitGroup
	wg.Go(func() { schedDrain(thief, n, k) })
	for i := range n {
		owner.Push(sched.Handle(i), c, 1, 1)
	}
	wg.Wait()
}

func schedDrain(w *sched.Worker, n, k int) {
	buf := make([]sched.Handle, k)
	for got := 0; got < n; {
		x := w.TryTake(buf)
		if got += x; x < k {
			runtime.Gosched()
		}
	}
}

func schedSubmit(n, k int) {
	s := sched.New(sched.Config{})
	c := s.Class("vet:go")
	w := s.AddWorker(schedCaps)
	defer w.Close()
	var wg sync.WaitGroup
	wg.Go(func() { schedDrain(w, n/k*k, 256) })
	list := schedItems(c, k)
	for range n / k {
		if k == 1 {
			s.Push(1, c, 1, 1)
		} else {
			s.PushBatch(list)
		}
	}
	wg.Wait()
}

// schedTask is a slot of a slab: what a handle's generation is checked against.
type schedTask struct {
	generation uint32
	body       func()
}

// guarded runs a body; its panic ends the task and not the worker.
func guarded(body func()) (ok bool) {
	defer func() { ok = recover() == nil }()
	body()
	return true
}

func schedTasksTo(n, workers int) {
	s := sched.New(sched.Config{})
	c := s.Class("vet:go")
	slab := make([]schedTask, n)
	body := func() {}
	var left atomic.Int64
	left.Store(int64(n))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			w := s.AddWorker(schedCaps)
			defer w.Close()
			buf := make([]sched.Handle, 64)
			for {
				k, err := w.Take(ctx, buf)
				if err != nil {
					return
				}
				for _, h := range buf[:k] {
					if t := &slab[uint32(h)]; t.generation == uint32(h>>32) {
						guarded(t.body)
						t.generation++
					}
				}
				if left.Add(-int64(k)) == 0 {
					cancel()
				}
			}
		})
	}
	list := schedItems(c, schedRun)
	for i := 0; i < n; i += schedRun {
		k := min(schedRun, n-i)
		for j := range k {
			slab[i+j] = schedTask{generation: 1, body: body}
			list[j].Handle, list[j].Band = sched.Handle(1<<32|i+j), sched.Band(j&3)
		}
		s.PushBatch(list[:k])
	}
	wg.Wait()
}

func schedChannel() SchedContender {
	handOff := func(n int) {
		ch := make(chan uint64, 1024)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range n {
				<-ch
			}
		})
		for i := range n {
			ch <- uint64(i)
		}
		wg.Wait()
	}
	return SchedContender{Name: "channel", Work: map[string]func(int){
		SchedOwn: func(n int) {
			ch := make(chan uint64, 1024)
			for i := range n {
				ch <- uint64(i)
				<-ch
			}
		},
		SchedHandOff: handOff, SchedHandOff1: handOff, SchedSubmit: handOff,
		SchedTasks: func(n int) {
			ch := make(chan func(), 1024)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for body := range ch {
						guarded(body)
					}
				})
			}
			body := func() {}
			for range n {
				ch <- body
			}
			close(ch)
			wg.Wait()
		},
	}}
}

// mutexQueue is the plain way: a lock, a slice, a condition.
type mutexQueue struct {
	mu   sync.Mutex
	more sync.Cond
	list []uint64
	at   int
}

func (q *mutexQueue) push(xs ...uint64) {
	q.mu.Lock()
	if q.at == len(q.list) {
		q.list, q.at = q.list[:0], 0
	}
	q.list = append(q.list, xs...)
	q.mu.Unlock()
	q.more.Signal()
}

func (q *mutexQueue) take(buf []uint64) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.at == len(q.list) {
		q.more.Wait()
	}
	n := copy(buf, q.list[q.at:])
	q.at += n
	return n
}

func schedMutex() SchedContender {
	pass := func(n, push, take int) {
		q := &mutexQueue{}
		q.more.L = &q.mu
		n = n / push * push
		var wg sync.WaitGroup
		wg.Go(func() {
			buf := make([]uint64, take)
			for got := 0; got < n; {
				got += q.take(buf)
			}
		})
		xs := make([]uint64, push)
		for range n / push {
			q.push(xs...)
		}
		wg.Wait()
	}
	own := func(n, k int) {
		q := &mutexQueue{}
		q.more.L = &q.mu
		xs := make([]uint64, k)
		for range n / k {
			q.push(xs...)
			q.take(xs)
		}
	}
	return SchedContender{Name: "mutex", Work: map[string]func(int){
		SchedOwn: func(n int) { own(n, 1) }, SchedOwn32: func(n int) { own(n, schedRun) },
		SchedHandOff: func(n int) { pass(n, 1, schedRun) }, SchedHandOff1: func(n int) { pass(n, 1, 1) },
		SchedSubmit: func(n int) { pass(n, 1, 256) }, SchedSubmit32: func(n int) { pass(n, schedRun, 256) },
	}}
}

func schedGoroutines() SchedContender {
	return SchedContender{Name: "goroutines", Work: map[string]func(int){SchedTasks: func(n int) {
		var wg sync.WaitGroup
		body := func() {}
		for range n {
			wg.Go(func() { guarded(body) })
		}
		wg.Wait()
	}}}
}
