package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// errNodeLeaves ends a session whose node shuts down.
var errNodeLeaves = errors.New("client: the node is leaving")

// Link carries the messages of one session; a Connect stream is one. Send is
// called by one goroutine at a time, Receive by another one; both fail once the
// context the link was opened with has ended.
type Link interface {
	Send(*pb.SessionRequest) error
	Receive() (*pb.SessionResponse, error)
	CloseRequest() error
	CloseResponse() error
}

// route opens an agent's sessions, each at the node whose turn it is.
type route interface {
	open(ctx context.Context) (Link, error)
	node() string          // whose turn it is
	judge(err error) error // what a session ended with; it may be final
	next()
	learn(addrs []string)
	alone() bool // there is no other node
}

// overStreams is the route to nodes elsewhere.
type overStreams struct {
	turn
	c *Client
	l *lane
}

func (r *overStreams) open(ctx context.Context) (Link, error) {
	st := r.l.rpc(r.url()).Session(ctx)
	r.c.head(st.RequestHeader())
	return st, nil
}

func (r *overStreams) node() string { return r.url() }

// session is one connection's worth of work: hello with what is held, then
// messages both ways until it breaks or everything is settled after a drain.
func (w *worker) session(ctx context.Context, r route) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = st.CloseResponse()
	}()
	defer context.AfterFunc(ctx, func() { _ = st.CloseRequest() })() // net/http looks at ctx when the request has ended
	if err := st.Send(w.hello()); err != nil && !errors.Is(err, io.EOF) {
		return problemOf(err)
	}
	first, err := w.welcome(st, cancel)
	if err != nil {
		return problemOf(err)
	}
	r.learn(first.Welcome.Nodes)
	w.mu.Lock()
	w.mu.token = first.Welcome.ResumeToken
	w.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(func() {
		err := w.write(ctx, st)
		if errors.Is(err, io.EOF) { // the node ended the session: the reader is told why
			select {
			case <-ctx.Done():
			case <-time.After(helloWithin):
			}
		}
		if err != nil {
			cancel()
		}
	})
	err = w.read(st, first)
	cancel()
	writer.Wait()
	return problemOf(err)
}

// helloWithin bounds the wait for a node's welcome: it asks the leaders about
// what the agent holds.
const helloWithin = 15 * time.Second

// welcome reads the first message.
func (w *worker) welcome(st Link, cancel func()) (*pb.SessionResponse, error) {
	late := time.AfterFunc(helloWithin, cancel)
	defer late.Stop()
	m, err := st.Receive()
	if err != nil {
		return nil, err
	}
	if m.Welcome == nil {
		return nil, api.Errorf(502, 2, "unexpected_answer", api.RetryNo, "a session did not begin with a welcome")
	}
	return m, nil
}

// hello says what is held; what had no answer yet is settled again.
func (w *worker) hello() *pb.SessionRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	for seq, list := range w.mu.flight {
		w.mu.settle = append(w.mu.settle, list...)
		delete(w.mu.flight, seq)
	}
	w.resume(time.Time{})
	h := &pb.Hello{AgentId: w.cfg.Manifest.AgentID, Manifest: w.manifest, ResumeToken: w.mu.token}
	waiting := 0
	for _, x := range w.mu.held {
		h.Held = append(h.Held, &pb.Claim{TaskId: x.id, Epoch: x.epoch})
		if !x.ended {
			waiting++
		}
	}
	w.mu.grant, w.mu.owed = max(int64(w.cfg.Credit-waiting), 0), 0
	w.mu.drained = false
	m := &pb.SessionRequest{Hello: h}
	if !w.mu.draining {
		m.Credit, w.mu.grant = w.mu.grant, 0
	}
	w.poke()
	return m
}

// read handles what the node says.
func (w *worker) read(st Link, m *pb.SessionResponse) error {
	for {
		for _, r := range m.Revoked {
			w.revoke(r.TaskId, r.Epoch, r.Reason)
		}
		if s := m.Settled; s != nil {
			var refused map[uint32]*api.Error
			for _, v := range s.Verdicts {
				if v.Problem != nil {
					if refused == nil {
						refused = map[uint32]*api.Error{}
					}
					refused[v.Index] = errorOf(v.Problem)
				}
			}
			w.answered(s.Seq, refused)
		}
		if len(m.Tasks) > 0 {
			list := make([]api.Lease, len(m.Tasks))
			for i, t := range m.Tasks {
				list[i] = leaseOf(t)
			}
			w.take(list)
		}
		for _, r := range m.Recall {
			w.recall(r.TaskId, r.Epoch)
		}
		if m.Drain {
			return errNodeLeaves
		}
		var err error
		if m, err = st.Receive(); err != nil {
			return err
		}
	}
}

// write sends what there is to say, until the session ends or, after a drain,
// there is nothing left.
func (w *worker) write(ctx context.Context, st Link) error {
	young := time.NewTimer(startedAfter)
	defer young.Stop()
	armed, starts := true, false
	for {
		m, last := w.message(starts)
		starts = false
		if !armed && w.anyYoung() {
			armed = true
			young.Reset(startedAfter)
		}
		if m != nil {
			if err := st.Send(m); err != nil {
				return err
			}
			continue // there may be more
		}
		if last {
			return st.CloseRequest()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		case <-young.C:
			armed, starts = false, true
		}
	}
}

func (w *worker) anyYoung() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.mu.young) > 0
}

// message collects what is to be said; nil is nothing, and last then that
// there will be nothing more.
func (w *worker) message(starts bool) (m *pb.SessionRequest, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m = &pb.SessionRequest{}
	some := false
	if !w.mu.draining && w.mu.grant > 0 {
		m.Credit, w.mu.grant, some = w.mu.grant, 0, true
	}
	if w.mu.draining && !w.mu.drained {
		m.Drain, w.mu.drained, some = true, true, true
	}
	if len(w.mu.kept) > 0 {
		k := min(len(w.mu.kept), api.MaxBatch/2)
		m.Started, w.mu.kept, some = claimsOf(w.mu.kept[:k]), w.mu.kept[k:], true
	} else if starts && len(w.mu.young) > 0 {
		m.Started = w.startedNow()
		some = some || len(m.Started) > 0
	}
	for id, p := range w.mu.reports {
		if len(m.Progress) == api.MaxBatch-len(m.Started) {
			break
		}
		m.Progress = append(m.Progress, &pb.Claim{TaskId: p.TaskID, Epoch: p.Epoch, Progress: p.Progress})
		delete(w.mu.reports, id)
		some = true
	}
	if len(w.mu.returned) > 0 {
		m.Returned, w.mu.returned, some = claimsOf(w.mu.returned), nil, true
	}
	if len(w.mu.settle) > 0 && len(w.mu.flight) < settlesInFlight {
		k, bytes := 0, 0
		for k < len(w.mu.settle) && k < api.MaxBatch && (k == 0 || bytes+payload(&w.mu.settle[k]) <= settleBytes) {
			bytes += payload(&w.mu.settle[k])
			k++
		}
		list := w.mu.settle[:k:k]
		w.mu.settle = w.mu.settle[k:]
		if len(w.mu.settle) == 0 {
			w.mu.settle = nil
		}
		w.mu.seq++
		w.mu.flight[w.mu.seq] = list
		m.Settle, m.SettleSeq, some = settlementsOf(list), w.mu.seq, true
	}
	if !some {
		return nil, w.mu.draining && len(w.mu.held) == 0
	}
	return m, false
}

func payload(s *api.Settlement) int { return len(s.Result) + len(s.Error) }

// startedNow are the tasks that were begun a while ago and still run. Call
// with the lock held.
func (w *worker) startedNow() []*pb.Claim {
	var list []api.Held
	rest := w.mu.young[:0]
	for _, h := range w.mu.young {
		switch {
		case h.ended || w.mu.held[h.id] != h:
		case len(list) == api.MaxBatch:
			rest = append(rest, h)
		default:
			list = append(list, api.Held{TaskID: h.id, Epoch: h.epoch})
		}
	}
	clear(w.mu.young[len(rest):])
	w.mu.young = rest
	return claimsOf(list)
}
