package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/quorate/quorate/node/api"
	pb "github.com/quorate/quorate/node/api/quoratev1"
)

// Limits of a Submitter's batches.
const (
	submitsInFlight = 8
	submitBytes     = 1 << 20 // of inputs in one message, beyond the first task
)

// Submitter submits over one stream: what callers hand in while batches are on
// their way goes out together. It is safe for concurrent use.
type Submitter struct {
	c      *Client
	cancel context.CancelFunc
	done   sync.WaitGroup
	wake   chan struct{} // capacity 1

	mu struct {
		sync.Mutex
		queue  []*submission
		flight map[uint64][]*submission
		seq    uint64
		closed error
	}
}

// submission is a caller's batch, or a part of it.
type submission struct {
	specs    []api.TaskSpec
	verdicts []api.SubmitVerdict
	err      error
	given    bool          // the caller has left
	once     bool          // without keys: not to be sent again when it may have arrived
	done     chan struct{} // closed when there are verdicts, or err
}

var errSubmitterClosed = errors.New("client: the submitter is closed")

// Submitter opens a stream to one of the nodes; when it breaks, what was not
// acknowledged goes to the next. Close it at the end.
func (c *Client) Submitter() *Submitter {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Submitter{c: c, cancel: cancel, wake: make(chan struct{}, 1)}
	s.mu.flight = map[uint64][]*submission{}
	s.done.Go(func() { s.run(ctx) })
	return s
}

// Close ends the stream; calls under way fail, their outcome unknown.
func (s *Submitter) Close() {
	s.cancel()
	s.done.Wait()
}

// Submit declares up to api.MaxBatch tasks; each gets its own verdict, in
// order. Those without an idempotency key get one, in specs itself, so that
// what was not acknowledged is repeated safely: unless all are best_effort
// without a key, which the cluster acknowledges before it has them on a disk,
// and which fail with outcome_unknown when the stream breaks. Specs must not
// change before Submit returns, nor after it returned an error.
func (s *Submitter) Submit(ctx context.Context, specs []api.TaskSpec) ([]api.SubmitVerdict, error) {
	if len(specs) > api.MaxBatch {
		return nil, api.Errorf(413, 2, "batch_too_large", api.RetryNo, "%d tasks in one call, at most %d", len(specs), api.MaxBatch)
	}
	once := giveKeys(specs)
	return each(ctx, s.c, specs, func(specs []api.TaskSpec) ([]api.SubmitVerdict, error) { return s.once(ctx, specs, once) },
		func(v api.SubmitVerdict) *api.Error {
			if once && v.Error != nil && v.Error.Retry == api.RetrySameKey {
				return nil // there is no key: the caller decides
			}
			return v.Error
		})
}

// giveKeys gives tasks without a key one, unless that would make them wait: then they are to be sent once.
func giveKeys(specs []api.TaskSpec) (once bool) {
	once = !slices.ContainsFunc(specs, func(x api.TaskSpec) bool { return x.IdempotencyKey != "" || !bestEffort(x.Guarantee) })
	for i := range specs {
		if specs[i].IdempotencyKey == "" && !once {
			specs[i].IdempotencyKey = newKey()
		}
	}
	return once
}

func bestEffort(guarantee string) bool { return guarantee == "best_effort" || guarantee == "atp-1" }

func (s *Submitter) once(ctx context.Context, specs []api.TaskSpec, once bool) ([]api.SubmitVerdict, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	x := &submission{specs: specs, once: once, done: make(chan struct{})}
	s.mu.Lock()
	if err := s.mu.closed; err != nil {
		s.mu.Unlock()
		return nil, err
	}
	s.mu.queue = append(s.mu.queue, x)
	s.mu.Unlock()
	s.poke()
	select {
	case <-x.done:
		return x.verdicts, x.err
	case <-ctx.Done():
		s.mu.Lock()
		x.given = true
		s.mu.Unlock()
		return nil, ended(ctx, ctx.Err())
	}
}

func (s *Submitter) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run keeps a stream open until Close, or a node refuses it for good.
func (s *Submitter) run(ctx context.Context) {
	l := s.c.lane()
	defer l.close()
	at := nodes{urls: s.c.urls, at: int(s.c.next.Load())}
	pause := rounds{}
	for {
		began := time.Now()
		err := problemOf(s.stream(ctx, l.rpc(at.url())))
		s.requeue()
		if ctx.Err() != nil {
			s.end(errSubmitterClosed)
			return
		}
		if e := (*api.Error)(nil); errors.As(err, &e) && e.Retry == api.RetryNo {
			s.end(err)
			return
		}
		at.next()
		if time.Since(began) > worthwhile {
			pause = rounds{}
		}
		pause.again(ctx, err)
	}
}

// worthwhile is how long a stream has to live for the next attempt to come at
// once.
const worthwhile = 5 * time.Second

// end fails everything there is and everything to come.
func (s *Submitter) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.closed = err
	for _, x := range s.mu.queue {
		x.err = err
		close(x.done)
	}
	s.mu.queue = nil
}

// errSentOnce is what becomes of tasks without a key that were on their way when the stream broke.
var errSentOnce = api.Errorf(504, 5, "outcome_unknown", api.RetryNo, "the stream broke before an answer came, and tasks without an idempotency key are not sent twice").
	WithHint("give best_effort tasks a key if they matter")

// requeue puts what was on its way in front again.
func (s *Submitter) requeue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var again []*submission
	for _, list := range s.mu.flight {
		for _, x := range list {
			switch {
			case x.once:
				x.err = errSentOnce
				close(x.done)
			case !x.given:
				again = append(again, x)
			}
		}
	}
	clear(s.mu.flight)
	s.mu.queue = append(again, s.mu.queue...)
}

func (s *Submitter) stream(ctx context.Context, rpc pb.WorkClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st := rpc.Submit(ctx)
	s.c.head(st.RequestHeader())
	defer context.AfterFunc(ctx, func() { _ = st.CloseRequest() })() // net/http looks at ctx when the request has ended
	if err := st.Send(nil); err != nil {                             // the headers: a node that is not there is found out at once
		return err
	}
	var reader sync.WaitGroup
	var rerr error
	reader.Go(func() {
		rerr = s.read(st)
		cancel()
	})
	werr := s.write(ctx, st)
	_ = st.CloseRequest()
	cancel()
	reader.Wait()
	_ = st.CloseResponse()
	if rerr != nil && !errors.Is(rerr, io.EOF) && connect.CodeOf(rerr) != connect.CodeCanceled {
		return rerr
	}
	return werr
}

// write sends what waits, as long as few enough batches are on their way.
func (s *Submitter) write(ctx context.Context, st *connect.BidiStreamForClient[pb.SubmitRequest, pb.SubmitResponse]) error {
	for {
		seq, specs := s.batch()
		if len(specs) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.wake:
			}
			continue
		}
		if err := st.Send(&pb.SubmitRequest{Seq: seq, Tasks: specs}); err != nil {
			return err
		}
	}
}

// batch takes whole submissions off the queue.
func (s *Submitter) batch() (uint64, []*pb.TaskSpec) {
	s.mu.Lock()
	if len(s.mu.flight) >= submitsInFlight || len(s.mu.queue) == 0 {
		s.mu.Unlock()
		return 0, nil
	}
	var list []*submission
	count, bytes, taken := 0, 0, 0
	for _, x := range s.mu.queue {
		if x.given {
			taken++
			continue
		}
		size := 0
		for i := range x.specs {
			size += len(x.specs[i].Input) + len(x.specs[i].Context)
		}
		if count > 0 && (count+len(x.specs) > api.MaxBatch || bytes+size > submitBytes) {
			break
		}
		count, bytes, taken = count+len(x.specs), bytes+size, taken+1
		list = append(list, x)
	}
	s.mu.queue = append(s.mu.queue[:0], s.mu.queue[taken:]...)
	s.mu.seq++
	seq := s.mu.seq
	if len(list) > 0 {
		s.mu.flight[seq] = list
	}
	s.mu.Unlock()
	specs := make([]*pb.TaskSpec, 0, count)
	for _, x := range list {
		specs = append(specs, specsOf(x.specs)...)
	}
	return seq, specs
}

// read hands verdicts out.
func (s *Submitter) read(st *connect.BidiStreamForClient[pb.SubmitRequest, pb.SubmitResponse]) error {
	for {
		m, err := st.Receive()
		if err != nil {
			return err
		}
		s.mu.Lock()
		list := s.mu.flight[m.Seq]
		delete(s.mu.flight, m.Seq)
		s.mu.Unlock()
		s.poke()
		verdicts := m.Verdicts
		for _, x := range list {
			if len(verdicts) < len(x.specs) {
				x.err = api.Errorf(502, 2, "unexpected_answer", api.RetryNo, "%d verdicts for %d tasks", len(verdicts), len(x.specs))
			} else {
				x.verdicts = make([]api.SubmitVerdict, len(x.specs))
				for i := range x.verdicts {
					v := verdicts[i]
					x.verdicts[i] = api.SubmitVerdict{TaskID: v.TaskId, State: v.State, Replayed: v.Replayed, Error: errorOf(v.Problem)}
				}
				verdicts = verdicts[len(x.specs):]
			}
			close(x.done)
		}
	}
}
