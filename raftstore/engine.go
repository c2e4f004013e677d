package raftstore

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxSyncs bounds the log writes of an engine that are on their way to the disk; with more the engine waits. One fsync
// covers all that were written when it began, so two or three are usual.
const maxSyncs = 64

// engine drives several shards in one goroutine. What they append in one pass goes to the log as one write, and its
// fsync overlaps with whatever comes next: a second goroutine waits for it. Few, large steps are what a busy machine
// needs: a goroutine a shard cost two more wake-ups, a log write and a peer frame each for the same command.
type engine struct {
	env     *shardEnv
	shards  []*shard
	sink    logSink
	wake    chan struct{} // capacity 1: mail, or something below
	syncs   chan logWrite
	waiting atomic.Pointer[time.Time] // since when the log write being waited for has been on its way; nil: none
	mu      struct {
		sync.Mutex
		synced []logWrite // durable now, oldest first
		spare  []logWrite
		calls  []func() // run on the engine's goroutine
		stop   bool     // end when every shard has
		abort  bool     // end at once
	}
	done    chan struct{} // closed at the end
	batcher Batcher       // the transport, if it is one
	current *shard        // being worked on, for the message of a panic
	froze   bool          // a checkpoint began in this turn

	announcer  *time.Timer // posts announce
	announcing bool        // it was started
}

func newEngine(env *shardEnv) *engine {
	e := &engine{env: env, wake: make(chan struct{}, 1), syncs: make(chan logWrite, maxSyncs), done: make(chan struct{})}
	e.batcher, _ = env.cfg.Transport.(Batcher)
	e.announcer = time.AfterFunc(announceAfter, func() { e.post(e.announce) })
	e.announcer.Stop()
	return e
}

func (e *engine) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// post runs fn on the engine's goroutine, if that still runs.
func (e *engine) post(fn func()) {
	e.mu.Lock()
	e.mu.calls = append(e.mu.calls, fn)
	e.mu.Unlock()
	e.signal()
}

// finish ends the engine once its shards have ended, or at once.
func (e *engine) finish(abort bool) {
	e.mu.Lock()
	e.mu.stop, e.mu.abort = true, e.mu.abort || abort
	e.mu.Unlock()
	e.signal()
}

// run is the engine's goroutine.
func (e *engine) run() {
	waiter := make(chan struct{})
	go func() { // joined below
		defer close(waiter)
		e.waitForSyncs()
	}()
	defer func() {
		if p := recover(); p != nil {
			e.env.fatal(fmt.Errorf("shard %d: broken invariant: %v\n%s", e.current.id, p, debug.Stack()))
		}
		e.announcer.Stop()
		close(e.syncs)
		e.awaitDetached()
		for _, s := range e.shards {
			s.replica.Stop()
			s.dropStaged(ErrStopped)
			s.mail.close()
		}
		<-waiter
		for _, s := range e.shards {
			close(s.done)
		}
		close(e.done)
	}()
	for _, s := range e.shards {
		s.replica.SeekLeader()
		s.active = true
	}
	for {
		if err := e.turn(); err != nil {
			e.env.fatal(fmt.Errorf("shard %d: %w", e.current.id, err))
			return
		}
		<-e.wake
		ended, err := e.intake()
		if err != nil {
			e.env.fatal(fmt.Errorf("shard %d: %w", e.current.id, err))
			return
		}
		if ended {
			return
		}
	}
}

// waitForSyncs passes log writes on when they are durable.
func (e *engine) waitForSyncs() {
	for w := range e.syncs {
		began := time.Now()
		e.waiting.Store(&began)
		err := w.wait()
		e.waiting.Store(nil)
		if err != nil {
			e.env.fatal(fmt.Errorf("log sync: %w", err))
			for range e.syncs { // nobody may be left waiting for room
			}
			return
		}
		e.mu.Lock()
		e.mu.synced = append(e.mu.synced, w)
		e.mu.Unlock()
		e.signal()
	}
}

// awaitDetached gets back the shards that install a snapshot.
func (e *engine) awaitDetached() {
	for {
		detached := false
		for _, s := range e.shards {
			detached = detached || s.detached
		}
		if !detached {
			return
		}
		<-e.wake
		e.runCalls()
	}
}

func (e *engine) runCalls() {
	e.mu.Lock()
	calls := e.mu.calls
	e.mu.calls = nil
	e.mu.Unlock()
	for _, fn := range calls {
		fn()
	}
}

// intake takes what arrived. ended: every shard has stopped.
func (e *engine) intake() (ended bool, err error) {
	e.mu.Lock()
	synced := e.mu.synced
	e.mu.synced, e.mu.spare = e.mu.spare[:0], synced
	stop, abort := e.mu.stop, e.mu.abort
	e.mu.Unlock()
	if abort {
		return true, nil
	}
	for i := range synced {
		for _, d := range synced[i].durable {
			e.current = d.log.owner
			d.log.persisted()
			d.then()
			d.log.owner.active = true
		}
		e.sink.recycle(&synced[i])
	}
	e.runCalls()
	ended = stop
	for _, s := range e.shards {
		e.current = s
		if s.ended || s.detached {
			ended = ended && s.ended
			continue
		}
		if s.mail.pending.Swap(false) || s.stopping {
			s.active = true
			abort, err := s.intake()
			if abort || err != nil {
				return abort, err
			}
		}
		ended = ended && s.ended
	}
	e.letGo()
	return ended, nil
}

// letGo ends the shards that leave this process and have nothing under way any more.
func (e *engine) letGo() {
	e.shards = slices.DeleteFunc(e.shards, func(s *shard) bool {
		if !s.leaving || !s.ended || s.detached || len(s.log.unsynced) > 0 {
			return false
		}
		s.dropStaged(ErrNoShard)
		s.mail.close()
		close(s.done)
		return true
	})
}

// turn does everything there is to do. First all shards write, then the messages and the log write leave, then all
// apply what was committed, while the disk works.
func (e *engine) turn() error {
	for more := true; more; {
		more = false
		for _, s := range e.shards {
			if !s.active || s.stopping || s.detached {
				continue
			}
			e.current = s
			got, err := s.replica.Collect()
			if err != nil {
				return err
			}
			more = more || got
			s.sendBeats()
		}
		if w, ok, err := e.sink.commit(); err != nil {
			return fmt.Errorf("log append: %w", err)
		} else if ok {
			e.syncs <- w
		}
		if e.batcher != nil {
			e.batcher.Flush()
		}
		for _, s := range e.shards {
			if !s.active || s.stopping || s.detached {
				continue
			}
			e.current = s
			if err := s.replica.Apply(); err != nil {
				return err
			}
		}
	}
	e.froze = false
	for _, s := range e.shards {
		if !s.active || s.detached {
			continue
		}
		e.current, s.active = s, false
		e.detach(s)
		if !s.detached {
			e.froze = s.maybeCheckpoint(e.froze) || e.froze
			s.publish()
		}
	}
	return nil
}

// detach lets a shard with a snapshot to install do that in a goroutine of its own: it takes long, and the other
// shards' heartbeats must not wait for it.
func (e *engine) detach(s *shard) {
	if s.arrived == nil || s.stopping || s.frozen.index != 0 || len(s.log.unsynced) > 0 {
		return
	}
	s.detached = true
	s.log.sink = nil
	e.env.work.Go(func() {
		err := s.offerArrived()
		e.post(func() {
			s.detached, s.active = false, true
			s.log.sink = &e.sink
			if err != nil {
				e.env.fatal(fmt.Errorf("shard %d: %w", s.id, err))
			}
		})
	})
}
