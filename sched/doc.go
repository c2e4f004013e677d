// Package sched matches ready tasks to workers without a lock, and lets whoever
// is idle take the oldest work it is able to do. It knows handles, classes
// (capabilities, by fleet), bands (priorities) and workers; nothing of raft or
// agents. Whether a handle still stands for anything is its owner's business:
// a cancelled task's handle comes out like any other. It starts no goroutine.
//
// # Life of a handle
//
// Push writes it into the buffer of the best-ranked worker that waits for its
// class, or queues it in the class's injector of its band. Worker.Push queues
// it in the worker's own lane. Take looks at own lanes and the injectors of its
// classes, then steals half of a lane, then parks; TakeFor does the same for
// another node. Each handle pushed comes out of one of them once. Lanes are per
// class: a thief never meets what it can't do. Close moves lanes to injectors.
// PushLater publishes by runs of 32; call Flush before a long body.
//
// Order: of the fleets that have work for a worker, the one it has served least
// for its weight (shares); of a fleet's queues, by ready time less
// Band·AgingMillis; FIFO in each. So a fleet's flood, however critical, takes
// its share and no more, and a task is taken before any of its fleet's next band
// that became ready AgingMillis after it: low is late, never never.
//
// Best-ranked is of those that wait here. One that waits at another node is not given the handle, however much better: nodes tell one
// another what their idle agents can do, not who waits with what rank, and a lease handed over may be refused there and come back.
//
// # Progress
//
//	Push          lock-free   fetch-and-add claims a slot, CAS publishes it (injector)
//	Worker.Push   wait-free   when the lane has room and nobody waits (lane)
//	PushLater     wait-free   the same; no atomic write until it publishes
//	TryTake       lock-free   a failed claim is another's success
//	steal         obstruction-free against thieves of that lane, who look elsewhere
//	finding a waiting worker  lock-free; a load per 64 workers, 32 scores; waking
//	              it is a channel send: the runtime's lock, for that moment
//	Take          TryTake, then blocking, that being its purpose
//	AddWorker, Close, UpdateCapabilities, Workers, ClassOf the first times: a mutex
//
// # No wake-up is lost
//
// A pusher publishes (1), sets the class's ready bit unless it is set (2), then
// searches the waiting workers (3). A worker sets its waiting bit (4), then
// looks at the ready classes of its mask (5). All are sequentially consistent:
// either 4 precedes 3 and the pusher finds the worker, or 1 and 2 precede 5 and
// the worker finds the work. What else can happen, and why it does no harm:
//   - Who clears a waiting bit owns the wait and sends exactly one token; a
//     worker that finds its bit cleared by another waits for that token.
//   - Bits are counted before they are set and after they are cleared, so a
//     count of 0 proves a page empty (a summary word does not).
//   - A taker clears a ready bit before it looks again, and if it was wrong does
//     2 and 3 itself: a pusher may have relied on the bit it cleared.
//   - A worker roused for a class may take other work first: it then rouses the
//     next (duty). So does a thief that left something: who found the lane
//     pinned may have parked.
//   - An index changes hands: a claim checks that the claimed can do it.
//
// When no call runs, nobody is parked who can do something queued: Lane-, Wake-
// and TestHintExhaustive try every interleaving, and find 13 planted mistakes.
//
// # Measured
//
// go test -run xxx -bench . ./sched; two shared cores, ns per handle, 0 allocations, 17 to 19 bytes a handle queued; rows 1 to 3 when idle:
//
//	own lane, push and take 1 / 32 / 256         11 / 3.4 / 2.8   (bare lane 7 / 1.1)
//	push 1, thief takes ≤ 32 / 1                 10 to 14 / 45 to 52
//	a steal of 32 and nothing else, per call     20   (by a loop over slots: 32)
//	owner's push and take under 1 / 3 thieves    21 to 31 / 22 to 24 (no back-off: 59 / 69)
//	submit 1 / 32, nobody taking; with a taker   24 / 12; 56 / 27
//	1 M tasks, four bands, two parking workers   29
//	best of 10 / 1,000 / 10,000 waiting          60 / 160 / 430  (scores in the workers: 60 / 155 / 520)
//	match, rank, lease among 10,000, 1 / 8 taken 950 to 1,300 / 310 to 480  (node; fronts in the queues: 1,610, 1,020 beside it)
//	push to a parked worker and back             528
//
// Behind another fleet's 100,000, 2,000 tasks have .500 of the service at 1:1, .250 at 3:1, .750 at 1:3; the first waits for 0 to 8 others (TestFairShare).
//
// # Rejected
//
// Three other lanes: at the type lane, with figures. One mutex over rings: submit 1 / 32 80 / 83, with a taker 57 / 57, 1 M tasks 51, parked 688. Reusing
// blocks: hazard pointers or epochs on each Push and Take, for 17 bytes. One
// account of fleets for all workers: one served well by some starves elsewhere.
package sched
