package stream

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// session is one agent at work.
type session struct {
	w        Worker
	out      *sender[pb.SessionResponse]
	ctx      context.Context // ends with the session
	cancel   context.CancelCauseFunc
	settle   chan struct{} // a slot for each batch on its way
	jobs     sync.WaitGroup
	draining bool // by the agent; the reader's

	mu struct {
		sync.Mutex
		credit int64
		more   chan struct{} // capacity 1: credit came
	}
}

func bad(status, layer int, code, format string, args ...any) *api.Error {
	return api.Errorf(status, layer, code, api.RetryNo, format, args...)
}

// duplex is what a session is held over: a Connect stream, or a Pipe.
type duplex interface {
	Receive() (*pb.SessionRequest, error)
	Send(*pb.SessionResponse) error
}

// ender ends a duplex: deaf its reading, cut all of it.
type ender interface {
	deaf()
	cut()
	// arrived is called when a message is there, and what it returns when it is
	// answered.
	arrived() (answered func())
}

// Session is the RPC of that name.
func (s *server) Session(ctx context.Context, st *connect.BidiStream[pb.SessionRequest, pb.SessionResponse]) error {
	return s.session(ctx, st, callOf(ctx))
}

func (s *server) session(ctx context.Context, st duplex, c ender) error {
	late := time.AfterFunc(s.cfg.HelloTimeout, c.deaf)
	first, err := st.Receive()
	if !late.Stop() {
		return fail(bad(408, 2, "hello_missing", "no hello within %v", s.cfg.HelloTimeout).WithHint("say hello in the first message"))
	}
	if err != nil {
		return failEnd(err)
	}
	c.arrived()() // a hello waits for nobody
	if first.Hello == nil {
		return fail(bad(400, 2, "out_of_order", "the first message of a session carries hello").WithHint("open with hello, then grant credit"))
	}
	w, err := s.b.OpenWork(ctx, helloOf(first.Hello))
	if err != nil {
		return fail(err)
	}
	defer w.Close()
	x := &session{w: w, out: newSender(st.Send, s.cfg.SendTimeout, c.cut), settle: make(chan struct{}, maxSettling)}
	x.mu.more = make(chan struct{}, 1)
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	defer x.jobs.Wait()
	defer x.cancel(nil)
	if err := x.greet(); err != nil {
		return fail(err)
	}
	x.jobs.Go(x.push)
	x.jobs.Go(func() { x.watch(c) })
	err = x.read(st, first, c)
	if cause := context.Cause(x.ctx); cause != nil && ctx.Err() == nil {
		err = cause // why the reader was cut
	}
	if errors.Is(err, errLeaving) {
		return nil
	}
	return failEnd(err)
}

// failEnd is fail for what a reader got: the end, or a lost connection, is no
// failure.
func failEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled {
		return nil
	}
	return fail(err)
}

func (x *session) greet() error {
	welcome, lost := x.w.Welcome()
	m := &pb.SessionResponse{Welcome: &pb.Welcome{NodeId: welcome.NodeID, ResumeToken: welcome.Resume, MaxCredit: api.MaxCredit,
		ManifestDigest: welcome.Digest, Nodes: welcome.Nodes}}
	for _, ev := range lost {
		m.Revoked = append(m.Revoked, &pb.Revoked{TaskId: ev.TaskID, Epoch: ev.Epoch, Reason: ev.Reason})
	}
	return x.out.send(m)
}

// read handles messages until the agent ends the session or breaks a rule.
func (x *session) read(st duplex, m *pb.SessionRequest, c ender) error {
	m.Hello = nil
	answered := func() {}
	for {
		if err := x.message(m, answered); err != nil {
			return err
		}
		var err error
		if m, err = st.Receive(); err != nil {
			return err
		}
		answered = c.arrived()
	}
}

// message handles one message's fields in their order. answered is called when
// nothing of it is on its way any more.
func (x *session) message(m *pb.SessionRequest, answered func()) error {
	settling := false
	defer func() {
		if !settling {
			answered()
		}
	}()
	switch {
	case m.Hello != nil:
		return bad(400, 2, "out_of_order", "a second hello in one session").WithHint("say hello once, in the first message")
	case m.Credit < 0:
		return bad(400, 2, "negative_credit", "credit %d: it only grows", m.Credit).WithHint("return tasks that were not started, or drain")
	case len(m.Settle) > api.MaxBatch || len(m.Returned) > api.MaxCredit:
		return bad(413, 2, "batch_too_large", "%d settlements and %d returned tasks in one message, at most %d and %d", len(m.Settle), len(m.Returned), api.MaxBatch, api.MaxCredit).WithHint("send several messages")
	case len(m.Started)+len(m.Progress) > api.MaxBatch:
		return bad(413, 2, "batch_too_large", "%d started and %d with progress in one message, at most %d together", len(m.Started), len(m.Progress), api.MaxBatch).WithHint("send several messages")
	}
	if m.Credit > 0 && !x.draining {
		if err := x.grant(m.Credit); err != nil {
			return err
		}
	}
	if len(m.Started)+len(m.Progress) > 0 {
		if err := x.claim(m); err != nil {
			return err
		}
	}
	if len(m.Settle) > 0 {
		select {
		case x.settle <- struct{}{}:
		case <-x.ctx.Done():
			return context.Cause(x.ctx)
		}
		settling = true
		x.jobs.Go(func() {
			defer func() { <-x.settle }()
			defer answered()
			x.settled(m)
		})
	}
	if len(m.Returned) > 0 {
		x.w.Return(heldOf(m.Returned))
	}
	if m.Drain {
		x.draining = true
		x.mu.Lock()
		x.mu.credit = 0
		x.mu.Unlock()
	}
	return nil
}

func (x *session) grant(n int64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n > api.MaxCredit || x.mu.credit+n > api.MaxCredit {
		return bad(400, 2, "credit_too_large", "credit of %d on top of %d is over %d", n, x.mu.credit, api.MaxCredit).WithHint("grant credit as tasks end")
	}
	x.mu.credit += n
	select {
	case x.mu.more <- struct{}{}:
	default:
	}
	return nil
}

// spend takes what was pushed off the credit, which a drain may have ended.
func (x *session) spend(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.credit = max(x.mu.credit-int64(n), 0)
}

func (x *session) credit() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mu.credit
}

// claim passes start and progress on. The reader waits for it: an agent that
// reports faster than its shards' leaders answer is slowed down.
func (x *session) claim(m *pb.SessionRequest) error {
	list := make([]api.HeldClaim, 0, len(m.Started)+len(m.Progress))
	for _, c := range m.Started {
		list = append(list, api.HeldClaim{Held: api.Held{TaskID: c.TaskId, Epoch: c.Epoch}, Start: true})
	}
	for _, c := range m.Progress {
		p := c.Progress
		if len(p) == 0 {
			p = []byte("null")
		}
		list = append(list, api.HeldClaim{Held: api.Held{TaskID: c.TaskId, Epoch: c.Epoch}, Progress: p})
	}
	gone, err := x.w.Claim(x.ctx, list)
	if err != nil || len(gone) == 0 {
		return err
	}
	return x.out.send(&pb.SessionResponse{Revoked: revokedOf(gone)})
}

// settled has one batch settled and answers it. A session that ends meanwhile
// does not take the batch back.
func (x *session) settled(m *pb.SessionRequest) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(x.ctx))
	defer cancel()
	stop := context.AfterFunc(x.ctx, func() { time.AfterFunc(lastWord, cancel) })
	defer stop()
	list := make([]api.Settlement, len(m.Settle))
	for i, t := range m.Settle {
		list[i] = api.Settlement{TaskID: t.TaskId, Epoch: t.Epoch, Verdict: "complete", Result: t.Result, Error: t.Error, NoRetry: t.NoRetry}
		switch {
		case t.InDoubt:
			list[i].Verdict = "unknown"
		case t.Failed:
			list[i].Verdict = "fail"
		}
	}
	verdicts, err := x.w.Settle(ctx, list)
	a := &pb.Settled{Seq: m.SettleSeq, Count: uint32(len(list))}
	for i := range list {
		switch {
		case err != nil:
			a.Verdicts = append(a.Verdicts, &pb.SettleVerdict{Index: uint32(i), Problem: problem(asError(err))})
		case verdicts[i].Error != nil || verdicts[i].Replayed || verdicts[i].State != "completed":
			v := &verdicts[i]
			a.Verdicts = append(a.Verdicts, &pb.SettleVerdict{Index: uint32(i), State: v.State, Replayed: v.Replayed, Problem: problem(v.Error)})
		}
	}
	if x.out.send(&pb.SessionResponse{Settled: a}) != nil {
		x.cancel(nil)
	}
}

// push takes tasks while there is credit and sends them. What can't be sent
// goes back.
func (x *session) push() {
	for {
		credit := x.credit()
		if credit == 0 {
			select {
			case <-x.mu.more:
				continue
			case <-x.ctx.Done():
				return
			case <-x.w.Leaving():
				return
			}
		}
		got, err := x.w.Take(x.ctx, int(min(credit, api.MaxBatch)))
		if err != nil {
			x.cancel(err)
			return
		}
		if len(got) == 0 {
			if x.ctx.Err() != nil {
				return
			}
			select {
			case <-x.w.Leaving():
				return
			default:
				continue
			}
		}
		x.spend(len(got))
		for len(got) > 0 {
			k := fitting(got)
			if x.out.send(&pb.SessionResponse{Tasks: tasksOf(got[:k])}) != nil {
				x.giveBack(got)
				x.cancel(nil)
				return
			}
			got = got[k:]
		}
	}
}

// fitting is how many of the tasks go into one message.
func fitting(list []api.Lease) int {
	size := 0
	for i := range list {
		size += len(list[i].Input) + len(list[i].Context) + len(list[i].Description) + 200
		if c := list[i].Checkpoint; c != nil {
			size += len(c.State)
		}
		if size > maxPushBytes && i > 0 {
			return i
		}
	}
	return len(list)
}

func (x *session) giveBack(list []api.Lease) {
	back := make([]api.Held, len(list))
	for i := range list {
		back[i] = api.Held{TaskID: list[i].TaskID, Epoch: list[i].Epoch}
	}
	x.w.Return(back)
}

var errLeaving = errors.New("the node is leaving")

// watch tells the agent what happens to its tasks, and ends the session when
// the node says so.
func (x *session) watch(c ender) {
	leaving := x.w.Leaving()
	var over <-chan time.Time
	for {
		select {
		case <-x.ctx.Done():
			c.deaf() // the reader may wait for an agent that says nothing
			return
		case <-x.w.Over():
			x.cancel(x.w.Why())
		case <-x.w.Told():
			list, err := x.w.Events(api.MaxBatch)
			if err != nil {
				x.cancel(err)
			} else if len(list) > 0 && x.out.send(told(list)) != nil {
				x.cancel(nil)
			}
		case <-leaving:
			leaving = nil
			over = time.After(leaveGrace)
			if x.out.send(&pb.SessionResponse{Drain: true}) != nil {
				x.cancel(nil)
			}
		case <-over:
			x.cancel(errLeaving)
		}
	}
}

// told is a message of events.
func told(list []api.SessionEvent) *pb.SessionResponse {
	m := &pb.SessionResponse{}
	for _, ev := range list {
		if ev.Type == api.EventRecall {
			m.Recall = append(m.Recall, &pb.Claim{TaskId: ev.TaskID, Epoch: ev.Epoch})
		} else {
			m.Revoked = append(m.Revoked, &pb.Revoked{TaskId: ev.TaskID, Epoch: ev.Epoch, Reason: ev.Reason})
		}
	}
	return m
}

// leaveGrace is how long an agent may go on at a node that leaves: it should
// open a session elsewhere within it, which fences this one.
const leaveGrace = time.Second
