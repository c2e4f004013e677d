package bench

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/quorate/quorate/ledger"
)

// LifecycleReport is what was measured.
type LifecycleReport struct {
	Rate                int         `json:"rate_per_second"` // 0: as fast as possible
	PayloadBytes        int         `json:"payload_bytes"`
	Batch               int         `json:"batch"`
	Guarantee           string      `json:"guarantee"`
	Agents              int         `json:"agents"`
	Live                int         `json:"live,omitempty"`                         // tasks that waited meanwhile
	Backlog             int         `json:"backlog,omitempty"`                      // tasks that were there before the first agent
	BacklogPerSecond    float64     `json:"backlog_submitted_per_second,omitempty"` // while there was none
	Seconds             float64     `json:"duration_seconds"`
	Completed           int64       `json:"completed"` // within the duration
	LifecyclesPerSecond float64     `json:"lifecycles_per_second"`
	SubmitAcked         Quantiles   `json:"submit_to_acknowledged"`
	Leased              Quantiles   `json:"submit_to_leased"`
	Latency             Quantiles   `json:"submit_to_completed"`         // completion acknowledged
	NodesCoreMicros     float64     `json:"nodes_core_us_per_lifecycle"` // all three nodes together
	GeneratorCoreMicros float64     `json:"generator_core_us_per_lifecycle"`
	NodesCores          float64     `json:"nodes_cores"` // cores used on average
	GeneratorCores      float64     `json:"generator_cores"`
	Cores               int         `json:"cores"`
	AskedAgain          int64       `json:"requests_asked_again"`    // no answer, or one that says to try later
	Lost                int         `json:"lost"`                    // acknowledged, never completed
	ApplyHeldUp         *ApplyWaits `json:"apply_held_up,omitempty"` // nil after a kill
	Kill                *KillReport `json:"kill,omitempty"`
}

// report puts the figures together after everything has stopped.
func (m *measurement) report(before, after mark) LifecycleReport {
	seconds := (after.at - before.at).Seconds()
	n := after.completed - before.completed
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(max(n, 1)) }
	r := LifecycleReport{
		Guarantee: m.cfg.Guarantee, Agents: m.cfg.Agents, Live: m.cfg.Live, Backlog: m.cfg.Backlog,
		Rate: m.cfg.Rate, PayloadBytes: m.cfg.PayloadBytes, Batch: m.cfg.Batch,
		Seconds: seconds, Completed: n, LifecyclesPerSecond: float64(n) / seconds,
		SubmitAcked: m.submitLag.quantiles(), Leased: m.takeLag.quantiles(), Latency: m.endLag.quantiles(),
		NodesCoreMicros: each(after.nodes - before.nodes), GeneratorCoreMicros: each(after.self - before.self),
		NodesCores: (after.nodes - before.nodes).Seconds() / seconds, GeneratorCores: (after.self - before.self).Seconds() / seconds,
		Cores: runtime.NumCPU(), AskedAgain: m.failed.Load(), Lost: m.acked.minus(&m.done), Kill: m.kill.report(),
	}
	if !m.cfg.Kill {
		waits := after.waits.since(before.waits)
		r.ApplyHeldUp = &waits
	}
	if m.cfg.Backlog > 0 {
		r.BacklogPerSecond = float64(m.cfg.Backlog) / m.backlogTook.Seconds()
	}
	return r
}

// selfCPU is this process's CPU time.
func selfCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0 // it cannot fail for this process
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (r LifecycleReport) print(out io.Writer) {
	load := "as fast as they complete"
	if r.Rate > 0 {
		load = fmt.Sprintf("open loop, %d/s", r.Rate)
	}
	fsynced := "every submit and completion fsynced on a quorum"
	if r.Guarantee == ledger.BestEffort.String() {
		fsynced = "nothing awaited on submit"
	}
	fmt.Fprintf(out, "three nodes, %s; %s, %d agents, %d B inputs, batches of %d, %s; %d cores\n", fsynced, r.Guarantee, r.Agents, r.PayloadBytes, r.Batch, load, r.Cores)
	if r.Live > 0 {
		fmt.Fprintf(out, "  waiting meanwhile     %d tasks that no agent can do\n", r.Live)
	}
	if r.Backlog > 0 {
		fmt.Fprintf(out, "  backlog               %d tasks, submitted at %.0f /s before the first agent came\n", r.Backlog, r.BacklogPerSecond)
	}
	fmt.Fprintf(out, "  lifecycles            %.0f /s (%d in %.1f s)\n", r.LifecyclesPerSecond, r.Completed, r.Seconds)
	for _, l := range []struct {
		name string
		q    Quantiles
	}{{"submit acknowledged", r.SubmitAcked}, {"leased by a worker", r.Leased}, {"completed", r.Latency}} {
		fmt.Fprintf(out, "  %-21s p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f ms after it was due\n", l.name, l.q.P50Millis, l.q.P99Millis, l.q.P999Millis, l.q.MaxMillis)
	}
	fmt.Fprintf(out, "  CPU per lifecycle     nodes %.1f core-µs, generator %.1f core-µs (%.2f and %.2f cores)\n", r.NodesCoreMicros, r.GeneratorCoreMicros, r.NodesCores, r.GeneratorCores)
	if r.ApplyHeldUp != nil {
		fmt.Fprintf(out, "  apply held up         %s\n", r.ApplyHeldUp)
	}
	if r.AskedAgain > 0 {
		fmt.Fprintf(out, "  asked again           %d requests\n", r.AskedAgain)
	}
	fmt.Fprintf(out, "  lost                  %d\n", r.Lost)
	if k := r.Kill; k != nil {
		fmt.Fprintf(out, "  SIGKILL of %s         first completion of its shards after", k.Node)
		for _, shard := range slices.Sorted(maps.Keys(k.FirstMillis)) {
			fmt.Fprintf(out, " %d: %d ms", shard, k.FirstMillis[shard])
		}
		fmt.Fprintf(out, "; worst %d ms\n", k.WorstMillis)
	}
}
