// Package sched matches ready tasks to workers without a lock, and lets whoever
// is idle take the oldest work it is able to do. It knows handles, classes
// (interned capabilities), bands (priorities) and workers; nothing of raft or
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
//
// Order: by ready time less Band·AgingMillis, FIFO in each queue. So a task is
// taken before any of the next band that became ready AgingMillis after it: low
// is late, never never. (It needs no clock but to bound times in the future.)
//
// # Progress
//
//	Push          lock-free   fetch-and-add claims a slot, CAS publishes it (injector)
//	Worker.Push   wait-free   when the lane has room and nobody waits (lane)
//	TryTake       lock-free   a failed claim is another's success
//	steal         obstruction-free against thieves of that lane, who look elsewhere
//	finding a waiting worker  lock-free; a load per 64 workers, 32 scores; waking
//	              it is a channel send: the runtime's lock, for that moment
//	Take          TryTake, then blocking, that being its purpose
//	AddWorker, Close, UpdateCapabilities, Workers, Class the first times: a mutex
//
// Nothing waits for a pusher taken off its thread between claim and stamp: with
// work published behind it, its slot is voided and it pushes again.
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
//     next for what it left (duty). So does a thief that left something; a
//     worker may have parked because the lane was pinned.
//   - An index changes hands: a claim checks afterwards that the claimed can do
//     it, and else sends it back to look.
//
// Invariant: when no call is running, nobody is parked who can do something
// queued.
//
// # Measured
//
// go test -run xxx -bench . ./sched; two shared, loaded cores, ns per handle,
// medians of 5 to 7; 0 allocations, 17 to 19 bytes a handle in injectors:
//
//	own lane, push and take 1 / 32 / 256         24 / 5.8 / 4.3   (bare lane 10.8 / 1.9)
//	push 1, thief takes ≤ 32 / 1                 24 to 76 / 50 to 65
//	submit 1 / 32, nobody taking; with a taker   35 / 19; 54 / 24
//	submit in 32s and take 256, both ends        14
//	1 M tasks, four bands, two parking workers   35
//	best of 10 / 1,000 / 10,000 waiting          70 / 172 / 542
//	push to a parked worker and back             528
//
// # Rejected
//
//   - One mutex over rings, every second run of the same suite: submit 1 / 32
//     80 / 83, with a taker 57 / 57, both ends 17, 1 M tasks 51, parked 688.
//   - From a prototype, bare lanes, quoted: slots all atomic, as Go's run queue:
//     owner 25 against 19 for claim-before-read. A block queue: owner 5.5, but
//     its private tail is invisible to a thief while the owner is busy. A
//     channel: 53, and 163 handed off. xsync's MPMC ring: 35 and 46, bounded.
//   - Reusing blocks would want hazard pointers or epochs, two atomics more on
//     each Push and Take, to save 17 bytes of garbage a handle.
//   - Prefetch into lanes: the buffer given to Take is the batch.
package sched
