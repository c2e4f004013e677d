package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/peer"
	"github.com/quorate/quorate/raftstore"
)

// answer is what became of one command: decided (the ledger's outcome, which
// may be a refusal), or an error that says whether it may have happened.
type answer struct {
	outcome ledger.Outcome
	err     error
}

// do is the one door in: it takes commands of one shard to that shard's
// leader, has them decided through the log, and returns an answer per command
// in order. Commands are idempotent (a submit by its key, the others by epoch
// or state), so do repeats what got lost on the way until ctx ends; what is
// still open then is unknown if it may have been proposed, and certainly not
// done otherwise.
func (n *core) do(ctx context.Context, shard uint32, cmds []ledger.Command) []answer {
	ctx, cancel := bounded(ctx)
	defer cancel()
	answers := make([]answer, len(cmds))
	open := make([]int, len(cmds))
	for i := range open {
		open[i] = i
	}
	for {
		id, changed := n.leaders.of(shard)
		batch := make([]ledger.Command, len(open))
		for k, i := range open {
			batch[k] = cmds[i]
		}
		var got []answer
		switch id {
		case 0:
			got = failAll(len(batch), errNotLeader)
		case n.id.RaftID:
			got = n.doHere(ctx, shard, batch)
		default:
			got = n.doThere(ctx, id, shard, batch)
		}
		left := open[:0]
		for k, i := range open {
			if got[k].err != nil && mayRepeat(got[k].err) {
				if answers[i].err == nil || certain(answers[i].err) {
					answers[i].err = got[k].err // an uncertain failure stays uncertain
				}
				left = append(left, i)
				continue
			}
			answers[i] = got[k]
		}
		open = left
		if len(open) == 0 {
			return answers
		}
		if !n.pause(ctx, changed) {
			break
		}
	}
	for _, i := range open {
		if certain(answers[i].err) {
			answers[i].err = errNoLeader(shard)
		} else {
			answers[i].err = errUnknownOutcome("the command")
		}
	}
	return answers
}

// mayRepeat says that a command which got err is worth sending again.
func mayRepeat(err error) bool { return isRetryable(err) || errors.Is(err, raftstore.ErrUnknown) }

// certain says that a command which got err was certainly not done.
func certain(err error) bool {
	return !errors.Is(err, raftstore.ErrUnknown) && !errors.Is(err, peer.ErrCallLost) && !errors.Is(err, context.DeadlineExceeded)
}

func failAll(count int, err error) []answer {
	a := make([]answer, count)
	for i := range a {
		a[i].err = err
	}
	return a
}

// Of a batch's commands: how long another is taken to be at most, and how much
// longer than the first.
const (
	commandGuess = 1 << 10
	commandSpare = 16
)

// outcomes gathers a batch's answers. One value for all: a command's callback
// is a pointer and a number.
type outcomes struct {
	answers []answer
	left    atomic.Int32
	done    chan struct{} // closed with the last answer
	mu      struct {
		sync.Mutex
		abandoned bool // the caller has gone: answers stay as they are
	}
}

func (w *outcomes) take(i int, r raftstore.Result) {
	a := resultAnswer(r)
	w.mu.Lock()
	if !w.mu.abandoned {
		w.answers[i] = a
	}
	w.mu.Unlock()
	if w.left.Add(-1) == 0 {
		close(w.done)
	}
}

// doHere proposes commands on this node and waits for their outcomes.
func (n *core) doHere(ctx context.Context, shard uint32, cmds []ledger.Command) []answer {
	answers := make([]answer, len(cmds))
	proposals := make([]raftstore.Proposal, 0, len(cmds))
	w := &outcomes{answers: answers, done: make(chan struct{})}
	now, full := n.nowMillis(), n.memoryFull()
	var buf []byte
	for i, c := range cmds {
		if full && isNew(c) {
			answers[i].err = errMemoryFull()
			continue
		}
		if err := n.admit(shard, c, now); err != nil {
			answers[i].err = err
			continue
		}
		start := len(buf)
		if buf = c.Append(buf); start == 0 { // the others are most likely about as long
			buf = slices.Grow(buf, (min(len(buf), commandGuess)+commandSpare)*(len(cmds)-1-i))
		}
		proposals = append(proposals, raftstore.Proposal{
			Command: buf[start:len(buf):len(buf)],
			New:     isNew(c),
			Async:   isAsync(c),
			Done:    func(r raftstore.Result) { w.take(i, r) },
		})
	}
	if len(proposals) == 0 {
		return answers
	}
	w.left.Store(int32(len(proposals)))
	n.store.Propose(shard, proposals)
	select {
	case <-w.done:
		return answers
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.abandoned = true
	for i := range answers {
		if answers[i] == (answer{}) {
			answers[i].err = raftstore.ErrUnknown
		}
	}
	return answers
}

// isAsync says that a command is answered when it was proposed: best_effort
// submissions without a key (a key asks which task has it), and records of
// refusals.
func isAsync(c ledger.Command) bool {
	switch c := c.(type) {
	case *ledger.Submit:
		return c.Spec.Guarantee == ledger.BestEffort && c.Spec.Key == ""
	case *ledger.Refused:
		return true
	}
	return false
}

// isNew says that a command brings work, and so is refused while a disk or
// memory is almost full. What ends work, or keeps track of it, is not.
func isNew(c ledger.Command) bool {
	switch c.(type) {
	case *ledger.Submit, *ledger.Declare:
		return true
	}
	return false
}

func resultAnswer(r raftstore.Result) answer {
	switch {
	case r.Err == nil && r.Outcome == nil:
		return answer{outcome: ledger.Outcome{Code: ledger.OK}} // answered when proposed
	case r.Err == nil:
		o, err := ledger.DecodeOutcome(r.Outcome)
		return answer{outcome: o, err: err}
	case errors.Is(r.Err, raftstore.ErrOverloaded):
		return answer{err: errOverloaded("the shard's queue")}
	case errors.Is(r.Err, raftstore.ErrDiskFull):
		return answer{err: errDiskFull()}
	case errors.Is(r.Err, raftstore.ErrTooLarge):
		return answer{err: api.Errorf(413, 2, "payload_too_large", api.RetryNo, "the command does not fit a log entry")}
	case errors.Is(r.Err, raftstore.ErrStopped): // certainly not done: another node leads soon
		return answer{err: errNotLeader}
	}
	return answer{err: r.Err}
}

// admit is the leader's check before a command goes to the log: a claim on a
// lease must be the one the desk knows. What is refused here for its epoch is
// also recorded.
func (n *core) admit(shard uint32, c ledger.Command, nowMillis int64) error {
	d := n.desk(shard)
	if d == nil {
		return nil
	}
	var id ledger.TaskID
	var agent, verb string
	var epoch uint64
	v := claimHolds
	switch c := c.(type) {
	case *ledger.Complete:
		id, agent, epoch, verb = c.ID, c.Agent, c.Epoch, "complete"
		c.AssignedMillis, c.StartedMillis, c.StolenFrom, v = d.settling(c.ID, c.Agent, c.Epoch, nowMillis)
	case *ledger.Doubt:
		id, agent, epoch, verb = c.ID, c.Agent, c.Epoch, "unknown"
		_, _, _, v = d.settling(c.ID, c.Agent, c.Epoch, nowMillis)
	case *ledger.Attach:
		id, agent, epoch, verb = c.ID, c.Agent, c.Epoch, "checkpoint"
		_, v = d.renew(c.ID, c.Agent, 0, c.Epoch, false, nil, nowMillis)
	case *ledger.Expire:
		return d.admitExpire(c)
	case *ledger.Declare:
		if c.Terms.Self {
			return n.admitAgain(shard, c.ID, c.Spec.Fleet, c.Spec.Key)
		}
		return nil
	case *ledger.Recall:
		if c.Agent != "" {
			return n.admitAgain(shard, ledger.TaskID{}, c.Fleet, c.Key)
		}
		return nil
	case *ledger.Fail:
		id, agent, epoch, verb = c.ID, c.Agent, c.Epoch, "fail"
		c.AssignedMillis, c.StartedMillis, c.StolenFrom, v = d.settling(c.ID, c.Agent, c.Epoch, nowMillis)
	}
	switch v {
	case claimNoDesk:
		return errNotLeader
	case claimStale:
		n.refused(shard, id, agent, epoch, verb)
		return errStale(id, epoch)
	}
	return nil
}

// admitAgain asks the rules once more about an intent that is declared again,
// by its key or the ID it was given, and may get its go. An error: the rules
// can't be asked.
func (n *core) admitAgain(shard uint32, id ledger.TaskID, fleet, key string) error {
	m := n.taskShard(shard)
	if m == nil {
		return nil
	}
	if key != "" {
		m.view(func(t *ledger.Tasks) { id = t.LiveKey(fleet, key) })
	}
	if id.IsZero() {
		return nil
	}
	cmds, _, e := n.revalidate(id, "")
	if e != nil {
		return e
	}
	if len(cmds) > 0 {
		n.propose(shard, cmds) // decided before the intent, which follows them in the log
	}
	return nil
}

func errStale(id ledger.TaskID, epoch uint64) *api.Error {
	e := api.Errorf(409, 5, "stale_lease", api.RetryNo, "epoch %d of task %s is over: the task was given to another agent or has ended", epoch, id).
		WithHint("drop the work; what it changed outside must be fenced by the epoch")
	e.Task = id.String()
	return e
}

// refused has a refusal recorded in the audit log; nobody waits for it.
func (n *core) refused(shard uint32, id ledger.TaskID, agent string, epoch uint64, verb string) {
	c := &ledger.Refused{ID: id, Agent: agent, Epoch: epoch, Verb: verb, Code: ledger.StaleLease}
	n.store.Propose(shard, []raftstore.Proposal{{Command: c.Append(nil), Async: true, Done: func(raftstore.Result) {}}})
}

// doThere forwards commands, once, to the node that leads the shard.
func (n *core) doThere(ctx context.Context, id uint64, shard uint32, cmds []ledger.Command) []answer {
	b := binary.AppendUvarint(nil, uint64(shard))
	b = binary.AppendUvarint(b, uint64(len(cmds)))
	var one []byte
	for i, c := range cmds {
		one = c.Append(one[:0])
		if i == 0 { // the others are probably as long
			b = slices.Grow(b, min(len(cmds)*(len(one)+forwardedHead), forwardedRoom))
		}
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	r, err := n.callRaw(ctx, id, methodDo, b)
	if err != nil {
		return failAll(len(cmds), err)
	}
	answers, err := decodeAnswers(r, len(cmds))
	if err != nil {
		return failAll(len(cmds), errInternal(err))
	}
	return answers
}

// serveDo is doThere's other end.
func (n *core) serveDo(ctx context.Context, b []byte) []byte {
	shard, cmds, err := decodeDo(b)
	if err != nil {
		return answerOf(nil, api.Errorf(400, 2, "malformed", api.RetryNo, "forwarded commands: %v", err))
	}
	if id, _ := n.leaders.of(shard); id != n.id.RaftID {
		return answerOf(nil, errNotLeader)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	return answerOf(encodeAnswers(n.doHere(ctx, shard, cmds)), nil)
}

var errShort = errors.New("short or malformed frame")

// maxForwarded bounds the commands of one forwarded batch.
const maxForwarded = 4096

// Room that is made for a forwarded batch before its length is known.
const (
	forwardedHead = 8 // a command's length, and by how much others may be longer
	forwardedRoom = 512 << 10
)

func decodeDo(b []byte) (shard uint32, cmds []ledger.Command, err error) {
	r := frame{b: b}
	shard = uint32(r.uvarint())
	count := r.uvarint()
	if r.bad || count > maxForwarded {
		return 0, nil, errShort
	}
	cmds = make([]ledger.Command, 0, min(count, uint64(len(r.b))))
	for range count {
		c, err := ledger.DecodeCommand(r.bytes())
		if err != nil {
			return 0, nil, err
		}
		cmds = append(cmds, c)
	}
	if r.bad || len(r.b) != 0 {
		return 0, nil, errShort
	}
	return shard, cmds, nil
}

// Answers on the wire: a kind, then an outcome or an error.
const (
	wireOutcome byte = iota
	wireNotLeader
	wireUnknown
	wireError
)

func encodeAnswers(answers []answer) []byte {
	b := make([]byte, 0, 48*len(answers))
	var one []byte
	for _, a := range answers {
		kind := wireOutcome
		one = one[:0]
		switch {
		case a.err == nil:
			one = a.outcome.Append(one)
		case errors.Is(a.err, raftstore.ErrUnknown):
			kind = wireUnknown
		case isRetryable(a.err):
			kind = wireNotLeader
		default:
			kind = wireError
			var e *api.Error
			if !errors.As(a.err, &e) {
				e = errInternal(a.err)
			}
			one, _ = json.Marshal(e)
		}
		b = append(b, kind)
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	return b
}

func decodeAnswers(b []byte, count int) ([]answer, error) {
	r := frame{b: b}
	answers := make([]answer, count)
	for i := range answers {
		kind, body := r.byte(), r.bytes()
		if r.bad {
			return nil, errShort
		}
		switch kind {
		case wireOutcome:
			o, err := ledger.DecodeOutcome(body)
			if err != nil {
				return nil, err
			}
			answers[i].outcome = o
		case wireNotLeader:
			answers[i].err = errNotLeader
		case wireUnknown:
			answers[i].err = raftstore.ErrUnknown
		case wireError:
			e := &api.Error{}
			if err := json.Unmarshal(body, e); err != nil {
				return nil, err
			}
			answers[i].err = e
		default:
			return nil, errShort
		}
	}
	return answers, nil
}

// frame reads length-prefixed fields; after a mistake every read is zero and
// bad is set.
type frame struct {
	b   []byte
	bad bool
}

func (f *frame) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *frame) byte() byte {
	if len(f.b) == 0 {
		f.bad = true
		return 0
	}
	c := f.b[0]
	f.b = f.b[1:]
	return c
}

func (f *frame) bytes() []byte {
	n := f.uvarint()
	if n > uint64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	b := f.b[:n:n]
	f.b = f.b[n:]
	return b
}
