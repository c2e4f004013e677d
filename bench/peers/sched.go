package main

import (
	"context"
	"runtime"
	"sync"

	"github.com/alitto/pond/v2"
	"github.com/panjf2000/ants/v2"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/quorate/quorate/bench"
)

// schedWorkload is queues and pools within this process.
var schedWorkload = Workload{
	Name: "sched",
	About: "nanoseconds a handle or task, in one process; tasks have an empty body that may panic, and on Quorate's side a class, four bands and a generation. " +
		"Not measured here: Taskflow, C++, which Debian does not have (quoted, measured once on a machine of two cores: 431 submitted from outside, 165 a task of a prebuilt graph of 1 M)",
	Quorate: schedContender(bench.SchedContenders()[0], "lanes, injectors and parking of package sched"),
	Peers: append([]Contender{
		schedContender(xsyncQueue(), "MPMCQueue of 1,024; Gosched when full or empty"),
		schedContender(antsPool(), "Pool of 2 workers"),
		schedContender(pondPool(), "NewPool(2), Go"),
		tbbContender("tbb", "C++, two threads, no generation and no class; tasks by task_group, submitting by task_arena.enqueue with a waiting master",
			map[string]string{bench.SchedTasks: "task_group", bench.SchedSubmit: "enqueue"}),
		tbbContender("tbb-for", "C++, two threads: parallel_for of grain 1, which makes no tasks one by one",
			map[string]string{bench.SchedTasks: "parallel_for"}),
	}, languageContenders()...),
}

func languageContenders() (out []Contender) {
	notes := map[string]string{"channel": "buffered, 1,024", "mutex": "sync.Mutex, slice, sync.Cond", "goroutines": "one a task, WaitGroup.Go"}
	for _, c := range bench.SchedContenders()[1:] {
		out = append(out, schedContender(c, notes[c.Name]))
	}
	return out
}

// schedOperations of each metric and round.
const schedOperations = 1_000_000

func schedContender(c bench.SchedContender, note string) Contender {
	name := c.Name
	if name == "sched" {
		name = "quorate"
	}
	return Contender{Name: name, Note: note, Run: func(ctx context.Context, _ Options) (out []Value, err error) {
		for _, metric := range bench.SchedMetrics() {
			if c.Work[metric] == nil {
				continue
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			out = append(out, Value{Metric: metric, Unit: "ns", Value: c.Measure(metric, schedOperations), Lower: true})
		}
		return out, nil
	}}
}

func xsyncQueue() bench.SchedContender {
	pass := func(n int) {
		q := xsync.NewMPMCQueue[uint64](1024)
		var wg sync.WaitGroup
		wg.Go(func() {
			for got := 0; got < n; {
				if _, ok := q.TryDequeue(); ok {
					got++
				} else {
					runtime.Gosched()
				}
			}
		})
		for i := range n {
			for !q.TryEnqueue(uint64(i)) {
				runtime.Gosched()
			}
		}
		wg.Wait()
	}
	own := func(n int) {
		q := xsync.NewMPMCQueue[uint64](1024)
		for i := range n {
			q.TryEnqueue(uint64(i))
			q.TryDequeue()
		}
	}
	return bench.SchedContender{Name: "xsync", Work: map[string]func(int){
		bench.SchedOwn: own, bench.SchedHandOff: pass, bench.SchedHandOff1: pass, bench.SchedSubmit: pass}}
}

// antsPool and pondPool recover a task's panic themselves.
func antsPool() bench.SchedContender {
	return bench.SchedContender{Name: "ants", Work: map[string]func(int){bench.SchedTasks: func(n int) {
		p, err := ants.NewPool(2)
		if err != nil {
			panic(err) // a size of 2 is right
		}
		defer p.Release()
		var wg sync.WaitGroup
		wg.Add(n)
		for range n {
			if p.Submit(wg.Done) != nil {
				wg.Done()
			}
		}
		wg.Wait()
	}}}
}

func pondPool() bench.SchedContender {
	return bench.SchedContender{Name: "pond", Work: map[string]func(int){bench.SchedTasks: func(n int) {
		p := pond.NewPool(2)
		for range n {
			if err := p.Go(func() {}); err != nil {
				panic(err) // only after StopAndWait
			}
		}
		p.StopAndWait()
	}}}
}
