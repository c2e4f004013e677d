package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/sched"
)

// BenchmarkMatchLease is what it costs to match, rank and lease a task: 8,192
// are queued in 100 classes of four fleets, and 10,000 agents, each with some
// of the capabilities, take one or eight at a time in an order that no cache
// foresees; whoever finds nothing counts as well.
func BenchmarkMatchLease(b *testing.B) {
	for _, atOnce := range []int{1, 8} {
		b.Run(fmt.Sprint(atOnce), func(b *testing.B) { benchMatchLease(b, atOnce) })
	}
}

func benchMatchLease(b *testing.B, atOnce int) {
	const agents, classes, fleets = 10_000, 100, 4
	now := int64(scriptStart)
	s := sched.New(sched.Config{NowMillis: func() int64 { return now }})
	rated := make([]ratedAgent, agents)
	workers, names := make([]*sched.Worker, agents), make([]string, agents)
	for i := range agents {
		names[i] = fmt.Sprintf("agent-%05d", i)
		caps := []ledger.CapabilitySpec{{Action: fmt.Sprint("a", i%classes), Target: "t"}, {Action: fmt.Sprint("a", (i*7+3)%classes), Target: "*"}}
		rated[i] = ratedAgent{id: names[i], caps: caps, well: true}
		workers[i] = s.AddWorker(sched.WorkerConfig{Name: names[i], Capabilities: []string{caps[0].Action + ":t", caps[1].Action + ":*"}})
	}
	r := &rater{weights: rankWeights{1, .3, .3}, view: func() []ratedAgent { return rated }, now: func() int64 { return now }}
	r.refresh()
	d := newDesk(1, func(list []ready) {
		for _, x := range list {
			c, err := s.ClassOf(x.fleet, x.capability)
			if err != nil {
				b.Fatal(err)
			}
			s.Push(x.handle, c, x.band, x.millis)
		}
	})
	d.now, d.why = func() int64 { return now }, r.choose
	d.lead(1, func(func(ledger.Brief) bool) {})
	d.open(1, nil, now)
	capabilities, fleetNames := make([]string, classes), make([]string, fleets)
	for i := range capabilities {
		capabilities[i] = fmt.Sprintf("a%d:t", i)
	}
	for i := range fleetNames {
		fleetNames[i] = fmt.Sprint("fleet", i)
	}
	for _, c := range capabilities { // it ranks for a second
		r.choose(c, names[0])
	}
	const run = 8192
	events := make([]ledger.Event, run)
	rest, buf, grants := make([]sched.Handle, 256), make([]sched.Handle, atOnce), make([]grant, 0, atOnce)
	seq, spent := uint64(0), time.Duration(0)
	b.ReportAllocs()
	for range b.N/run + 1 {
		for i := range events {
			seq++
			events[i] = ledger.Event{Brief: ledger.Brief{ID: ledger.NewTaskID(1, now, seq), Fleet: fleetNames[seq%fleets], Capability: capabilities[seq/fleets%classes],
				State: ledger.StateReady, Priority: ledger.Priority(seq % 4), LeaseMillis: 60_000, CreatedMillis: now, ReadyMillis: now}}
		}
		d.applied(events)
		began, left := time.Now(), run/2
		for i := 0; left > 0; i++ {
			k := i * 7919 % agents
			n := workers[k].TryTake(buf[:min(left, atOnce)])
			if grants = d.leaseTo(buf[:n], names[k], 1, now, grants[:0]); len(grants) != n {
				b.Fatal("not leased")
			}
			left -= n
		}
		spent += time.Since(began)
		for i := range events { // what was not taken goes as well: its handle is stale
			events[i].State = ledger.StateCompleted
		}
		d.applied(events)
		for i := range workers {
			for n := 1; n > 0; n = workers[i].TryTake(rest) {
				continue
			}
		}
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64((b.N/run+1)*run/2), "ns/task")
}

// BenchmarkRanking is what a capability's ranking of 10,000 agents costs; it is
// made once a second, if a task of it is leased.
func BenchmarkRanking(b *testing.B) {
	rated := make([]ratedAgent, 10_000)
	for i := range rated {
		rated[i] = ratedAgent{id: fmt.Sprint("agent", i), caps: []ledger.CapabilitySpec{{Action: fmt.Sprint("a", i%100), Target: "t"}, {Action: "b", Target: "*"}},
			well: true, t: tally{completed: uint64(i % 13), failed: uint64(i % 3)}}
	}
	for _, capability := range []string{"a7:t", "b:x"} {
		b.Run(capability, func(b *testing.B) {
			c := rate(0, rated)
			for b.Loop() {
				c.of.Clear()
				c.ranking(capability, rankWeights{1, .3, .3})
			}
		})
	}
}
