package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/node/internal/peer"
	"github.com/quorate/quorate/raftstore"
)

// Timings of routing.
const (
	callTimeout  = 10 * time.Second      // of one operation, unless the caller's context ends before
	leaderPause  = 25 * time.Millisecond // before a leader that refused or did not answer is asked again
	attemptLimit = 3 * time.Second       // of one call to another node
	notLeaderMsg = "this node does not lead the shard"
)

// errNotLeader is what a local handler answers when leadership moved: ask again.
var errNotLeader = errors.New(notLeaderMsg)

func errNoLeader(shard uint32) *api.Error {
	return api.Errorf(503, 5, "no_leader", api.RetryLater, "shard %d has no reachable leader", shard).
		WithHint("a majority of the nodes must be up: look at `quorate status`")
}

func errUnknownOutcome(what string) *api.Error {
	return api.Errorf(504, 5, "outcome_unknown", api.RetrySameKey, "%s may or may not have happened", what).
		WithHint("repeat it with the same idempotency key (or epoch): it is never done twice")
}

func errOverloaded(what string) *api.Error {
	return api.Errorf(503, 5, "overloaded", api.RetryLater, "%s is over its limit", what).WithHint("slow down and try again")
}

func errDiskFull() *api.Error {
	return api.Errorf(507, 5, "disk_full", api.RetryLater, "too little disk space is left for new tasks").
		WithHint("`quorate doctor` names the node: free space there. What ends tasks (complete, fail, cancel) still works")
}

func errMemoryFull() *api.Error {
	return api.Errorf(507, 5, "memory_full", api.RetryLater, "live tasks take the shard leader's memory budget").
		WithHint("wait until tasks have ended, or cancel some; or raise the budget. What ends tasks (complete, fail, cancel) still works")
}

func errInternal(err error) *api.Error {
	return api.Errorf(500, 5, "internal", api.RetryLater, "%v", err)
}

// bounded gives ctx the operation's time limit if it has none sooner.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}

// onLeader runs an operation where shard is led: local when that is here,
// otherwise over the peer connection, following the leader as it moves until
// ctx ends. Operations are idempotent, so one whose answer was lost is
// repeated; if the end comes before an answer, the error says whether it may
// have happened.
func onLeader[Q, R any](ctx context.Context, n *core, shard uint32, m method, q Q, local func(context.Context, Q) (R, error)) (R, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var zero R
	lost := false
	for {
		id, changed := n.leaders.of(shard)
		var err error
		var r R
		switch id {
		case 0:
			err = errNotLeader
		case n.id.RaftID:
			r, err = local(ctx, q)
		default:
			r, err = callPeer[Q, R](ctx, n, id, m, q)
			if err == nil || !isRetryable(err) {
				return r, err
			}
			lost = lost || errors.Is(err, peer.ErrCallLost) || errors.Is(err, context.DeadlineExceeded)
		}
		if err == nil {
			return r, nil
		}
		if !isRetryable(err) {
			return zero, err
		}
		if !n.pause(ctx, changed) {
			if lost {
				return zero, errUnknownOutcome("the operation")
			}
			return zero, errNoLeader(shard)
		}
	}
}

// pause waits for a change of leaders or a short while; false when ctx ended.
func (n *core) pause(ctx context.Context, changed <-chan struct{}) bool {
	t := time.NewTimer(leaderPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-n.ctx.Done(): // this node is closing
		return false
	case <-changed:
	case <-t.C:
	}
	return ctx.Err() == nil
}

// isRetryable says that asking again, perhaps elsewhere, makes sense.
func isRetryable(err error) bool {
	var nl *raftstore.NotLeaderError
	return errors.Is(err, errNotLeader) || errors.As(err, &nl) || errors.Is(err, peer.ErrPeerDown) ||
		errors.Is(err, peer.ErrCallLost) || errors.Is(err, context.DeadlineExceeded)
}

// Answers between nodes start with one of these.
const (
	answerOK        byte = 0
	answerNotLeader byte = 1
	answerError     byte = 2
)

// callPeer asks one node, once.
func callPeer[Q, R any](ctx context.Context, n *core, id uint64, m method, q Q) (R, error) {
	var r R
	body, err := json.Marshal(q)
	if err != nil {
		return r, errInternal(err)
	}
	b, err := n.callRaw(ctx, id, m, body)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, errInternal(fmt.Errorf("answer of node %x: %w", id, err))
	}
	return r, nil
}

// callRaw asks one node and unwraps the kind of its answer.
func (n *core) callRaw(ctx context.Context, id uint64, m method, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	b, err := n.peers.Call(ctx, id, m, body)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, errInternal(errors.New("empty answer from a peer"))
	}
	switch b[0] {
	case answerOK:
		return b[1:], nil
	case answerNotLeader:
		return nil, errNotLeader
	}
	e := &api.Error{}
	if err := json.Unmarshal(b[1:], e); err != nil {
		return nil, errInternal(fmt.Errorf("error answer of a peer: %w", err))
	}
	return nil, e
}

// serve runs a local handler for a request that came from another node.
func serve[Q, R any](ctx context.Context, body []byte, local func(context.Context, Q) (R, error)) []byte {
	var q Q
	if err := json.Unmarshal(body, &q); err != nil {
		return answerOf(nil, api.Errorf(400, 2, "malformed", api.RetryNo, "peer request: %v", err))
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := local(ctx, q)
	if err != nil {
		return answerOf(nil, err)
	}
	b, err := json.Marshal(r)
	return answerOf(b, err)
}

// answerOf frames an answer.
func answerOf(b []byte, err error) []byte {
	if err == nil {
		return append([]byte{answerOK}, b...)
	}
	if isRetryable(err) {
		return []byte{answerNotLeader}
	}
	var e *api.Error
	if !errors.As(err, &e) {
		e = errInternal(err)
	}
	j, _ := json.Marshal(e) // an api.Error has plain fields only
	return append([]byte{answerError}, j...)
}
