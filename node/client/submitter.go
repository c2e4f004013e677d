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
	submitBytes     = 1 << 20 // of tasks in one message, beyond the first
	specBytes       = 256     // of a task's numbers, times and tags, and of its message's own, at most
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
	bytes    int           // of specs
	once     bool          // without keys: not to be sent again when it may have arrived
	alone    bool          // was on its way when a node refused a message: sent with no other, to learn whose it was
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
// order. A call may be larger than one message; a task too large for any is
// refused by itself. Those without an idempotency key get one, in specs itself,
// so that what was not acknowledged is repeated safely: unless all are
// best_effort without a key, which the cluster acknowledges before it has them
// on a disk, and which fail with outcome_unknown when the stream breaks. Specs
// must not change before Submit returns, nor after it returned an error.
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
	var one [1]*submission // most calls have no second
	parts := split(one[:0], specs, once)
	s.mu.Lock()
	if err := s.mu.closed; err != nil {
		s.mu.Unlock()
		return nil, err
	}
	for _, x := range parts {
		if x.err == nil {
			s.mu.queue = append(s.mu.queue, x)
		}
	}
	s.mu.Unlock()
	s.poke()
	for _, x := range parts {
		select {
		case <-x.done:
		case <-ctx.Done():
			s.mu.Lock()
			for _, x := range parts {
				x.given = true
			}
			s.mu.Unlock()
			return nil, ended(ctx, ctx.Err())
		}
	}
	return joined(parts)
}

// split appends submissions that each fit into a message. A task that fits
// into none is refused here.
func split(parts []*submission, specs []api.TaskSpec, once bool) []*submission {
	var last *submission
	for i := range specs {
		n := sizeOf(&specs[i])
		if n > maxMessageBytes {
			x := &submission{specs: specs[i : i+1 : i+1], done: make(chan struct{})}
			x.err = api.Errorf(413, 2, "message_too_large", api.RetryNo, "a task of %d bytes, a message has at most %d", n, maxMessageBytes).
				WithHint("keep the data elsewhere and submit a reference to it")
			close(x.done)
			parts, last = append(parts, x), nil
			continue
		}
		if last == nil || last.bytes+n > submitBytes {
			last = &submission{specs: specs[i:i:i], once: once, done: make(chan struct{})}
			parts = append(parts, last)
		}
		last.specs, last.bytes = specs[i-len(last.specs):i+1:i+1], last.bytes+n
	}
	return parts
}

// sizeOf is at least what a task takes in a message, and the message with it.
func sizeOf(t *api.TaskSpec) int {
	n := specBytes + len(t.Action) + len(t.Target) + len(t.IdempotencyKey) + len(t.FleetID) + len(t.SessionID) + len(t.ParentTaskID) + len(t.Description) +
		len(t.Input) + len(t.Context) + len(t.Rollback) + len(t.Verify) + len(t.Approval) + len(t.Compliance) + len(t.Snapshot) +
		len(t.Priority) + len(t.Guarantee) + len(t.OnDependencyFailure)
	for _, id := range t.After {
		n += len(id) + 6
	}
	if t.RetryPolicy != nil {
		n += len(t.RetryPolicy.Backoff)
	}
	return n
}

// joined is what became of a call's parts. One too large for a message is its
// own tasks' refusal; any other error is the call's.
func joined(parts []*submission) ([]api.SubmitVerdict, error) {
	verdicts := parts[0].verdicts
	for i, x := range parts {
		switch e := tooLarge(x.err); {
		case e != nil:
			for range x.specs {
				verdicts = append(verdicts, api.SubmitVerdict{Error: e})
			}
		case x.err != nil:
			return nil, x.err
		case i > 0:
			verdicts = append(verdicts, x.verdicts...)
		}
	}
	return verdicts, nil
}

// tooLarge is the error of a message, and not of the one who sends it; else nil.
func tooLarge(err error) *api.Error {
	if err == nil {
		return nil
	}
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == "message_too_large" {
		return e
	}
	return nil
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
	at := turn{s.c.book, s.c.book.here()}
	pause := rounds{}
	for {
		began := time.Now()
		err := problemOf(s.stream(ctx, at.at, l.rpc(at.url())))
		s.requeue(err)
		if ctx.Err() != nil {
			s.end(errSubmitterClosed)
			return
		}
		err = at.judge(err)
		if e := (*api.Error)(nil); errors.As(err, &e) && e.Retry == api.RetryNo && tooLarge(err) == nil {
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

// requeue puts what was on its way in front again. If the stream ended because
// a message was too large, the one that was alone fails; the others go alone
// from now on until it is known which it was.
func (s *Submitter) requeue(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var again []*submission
	large := tooLarge(err) != nil
	for _, list := range s.mu.flight {
		for _, x := range list {
			switch {
			case large && len(s.mu.flight) == 1 && len(list) == 1:
				x.err = err
				close(x.done)
				continue
			case large:
				x.alone = true
			}
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

func (s *Submitter) stream(ctx context.Context, at *place, rpc pb.WorkClient) error {
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
		rerr = s.read(at, st)
		cancel()
	})
	werr := s.write(ctx, st)
	if errors.Is(werr, io.EOF) { // the node ended the stream: the reader is told why
		select {
		case <-ctx.Done():
		case <-time.After(answerWithin):
		}
	}
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
	if len(s.mu.flight) >= submitsInFlight || len(s.mu.queue) == 0 || s.suspect() {
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
		if count > 0 && (x.alone || count+len(x.specs) > api.MaxBatch || bytes+x.bytes > submitBytes) || x.alone && len(s.mu.flight) > 0 {
			break
		}
		count, bytes, taken = count+len(x.specs), bytes+x.bytes, taken+1
		if list = append(list, x); x.alone {
			break
		}
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

// suspect says that a submission that goes alone is on its way. Call with the
// lock held.
func (s *Submitter) suspect() bool {
	for _, list := range s.mu.flight {
		if len(list) > 0 && list[0].alone {
			return true
		}
	}
	return false
}

// read hands verdicts out.
func (s *Submitter) read(at *place, st *connect.BidiStreamForClient[pb.SubmitRequest, pb.SubmitResponse]) error {
	for first := true; ; first = false {
		m, err := st.Receive()
		if err != nil {
			return err
		}
		if first {
			s.c.book.answered(at, st.ResponseHeader())
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
