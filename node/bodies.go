package node

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/raftstore"
)

// What a node reads of shards: from its own replica, or, where it has none or
// a replica that has just begun, from the shard's leader.

// replicaWait is how long a task that another node's leader was quicker with
// may take to arrive in the replica here.
const replicaWait = 100 * time.Millisecond

// fetchBodies renders leases for grants, each at its grant's place; one whose
// task is not ready any more, or can't be had, has no task ID.
func (n *core) fetchBodies(ctx context.Context, got []grant) []api.Lease {
	out := make([]api.Lease, len(got))
	far := map[uint32][]stolen{}
	places := map[uint32][]int{} // of far's, in out
	for i, g := range got {
		t, ok, err := n.replicaTask(g)
		switch {
		case err != nil:
		case !ok:
			places[g.id.Shard()] = append(places[g.id.Shard()], i)
			far[g.id.Shard()] = append(far[g.id.Shard()], stolen{ID: g.id, Epoch: g.epoch, LeaseMillis: g.leaseMillis, Attempt: g.attempt, Logged: g.logged})
		case leasable(&t, g):
			out[i] = renderLease(&t, g)
		}
	}
	for shard, list := range far {
		leases, err := onLeader(context.WithoutCancel(ctx), n, shard, methodBodies, list, n.bodiesHere)
		if err != nil || len(leases) != len(list) {
			continue
		}
		for i, l := range leases {
			out[places[shard][i]] = l
		}
	}
	return out
}

// bodiesHere renders leases for an agent of a node without a replica.
func (n *core) bodiesHere(_ context.Context, list []stolen) ([]api.Lease, error) {
	if len(list) > MaxLeases {
		return nil, errShort
	}
	out := make([]api.Lease, len(list))
	for i, g := range list {
		m := n.taskShard(g.ID.Shard())
		if m == nil {
			return nil, errNotLeader
		}
		x := grant{id: g.ID, epoch: g.Epoch, leaseMillis: g.LeaseMillis, attempt: g.Attempt, logged: g.Logged}
		if t, ok, err := m.task(g.ID); err == nil && ok && leasable(&t, x) {
			out[i] = renderLease(&t, x)
		}
	}
	return out, nil
}

// leasable says that a task is in the state its grant was given in.
func leasable(t *ledger.Task, g grant) bool {
	return t.State == ledger.StateReady || g.logged && t.State == ledger.StateRunning
}

// elsewhereInterval is how often a task is looked at whose shard has no
// replica here, while somebody waits for it.
const elsewhereInterval = 200 * time.Millisecond

// movedElsewhere waits until a task is in another state, at its leader.
func (n *core) movedElsewhere(ctx context.Context, id ledger.TaskID, from string) bool {
	t := time.NewTicker(elsewhereInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		case <-n.ctx.Done():
			return false
		}
		if x, err := n.readTask(ctx, id); err == nil && x.State != from {
			return true
		}
	}
}

// endsElsewhere is closed when a task has ended whose shard has no replica
// here; nil when there is one, which tells by itself.
func (n *core) endsElsewhere(ctx context.Context, id ledger.TaskID, from string) <-chan struct{} {
	if n.taskShard(id.Shard()) != nil {
		return nil
	}
	ended := make(chan struct{})
	n.background(func() {
		for n.movedElsewhere(ctx, id, from) {
			x, err := n.readTask(ctx, id)
			if err == nil && isTerminal(x.State) {
				close(ended)
				return
			}
			if err == nil {
				from = x.State
			}
		}
	})
	return ended
}

// unlease takes a lease back that did not come about.
func (n *core) unlease(shard uint32, id ledger.TaskID) {
	if d := n.desk(shard); d != nil {
		d.unlease(id, n.nowMillis())
	}
}

// replicaTask reads a task from this node's replica, waiting shortly for it to
// arrive there. It is not found when there is no replica.
func (n *core) replicaTask(g grant) (ledger.Task, bool, error) {
	id := g.id
	m := n.taskShard(id.Shard())
	if m == nil {
		return ledger.Task{}, false, nil
	}
	arrived := func(t *ledger.Task, ok bool) bool { return ok && (!g.logged || t.Epoch >= g.epoch) }
	t, ok, err := m.task(id)
	if err != nil || arrived(&t, ok) {
		return t, true, err
	}
	ctx, cancel := context.WithTimeout(n.ctx, replicaWait)
	defer cancel()
	for {
		ch := m.progress()
		if t, ok, err = m.task(id); err != nil || arrived(&t, ok) {
			return t, true, err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return t, false, nil
		}
	}
}

// remoteJournal reads a shard's journal at its leader. Journals are equal byte
// for byte, so an offset is good on every node.
type remoteJournal struct {
	ctx   context.Context
	n     *core
	shard uint32
}

var _ raftstore.Journal = remoteJournal{}

// recordsRequest asks for the records of a shard's journal from an offset on.
type recordsRequest struct {
	Shard  uint32 `json:"shard"`
	Offset int64  `json:"offset"`
}

type recordsAnswer struct {
	Records [][]byte `json:"records"`
	Next    []int64  `json:"next"` // where the record after each starts
}

// recordsBytes bounds one answer.
const recordsBytes = 1 << 20

// Append is never called: nothing applies entries through this.
func (remoteJournal) Append([]byte) { panic("node: a remote journal is read only") }

// Size is not known here.
func (remoteJournal) Size() int64 { return math.MaxInt64 }

// Read implements raftstore.Journal.
func (j remoteJournal) Read(offset int64, fn func(offset, next int64, record []byte) bool) error {
	for {
		a, err := onLeader(j.ctx, j.n, j.shard, methodRecords, recordsRequest{j.shard, offset}, j.n.recordsHere)
		if err != nil || len(a.Records) == 0 {
			return err
		}
		for i, r := range a.Records {
			if i >= len(a.Next) || a.Next[i] <= offset {
				return errShort
			}
			if !fn(offset, a.Next[i], r) {
				return nil
			}
			offset = a.Next[i]
		}
	}
}

func (n *core) recordsHere(_ context.Context, q recordsRequest) (recordsAnswer, error) {
	var a recordsAnswer
	j := n.store.Journal(q.Shard)
	switch {
	case j == nil:
		return a, errNotLeader
	case q.Offset < 0:
		return a, errShort
	case q.Offset >= j.Size():
		return a, nil
	}
	size := 0
	err := j.Read(q.Offset, func(_, next int64, record []byte) bool {
		a.Records, a.Next = append(a.Records, append([]byte(nil), record...)), append(a.Next, next)
		size += len(record)
		return size < recordsBytes
	})
	if errors.Is(err, raftstore.ErrTrimmed) {
		err = n.errTrimmed(q.Shard)
	}
	return a, err
}

func (n *core) memberRequest(ctx context.Context, m method, body []byte) ([]byte, bool) {
	switch m {
	case methodBodies:
		return serve(ctx, body, n.bodiesHere), true
	case methodRecords:
		return serve(ctx, body, n.recordsHere), true
	case methodShard:
		return serve(ctx, body, n.shardHere), true
	case methodChange:
		return serve(ctx, body, n.changeHere), true
	case methodHosts:
		return serve(ctx, body, n.hostsHere), true
	case methodCreate:
		return serve(ctx, body, n.createHere), true
	case methodDrop:
		return serve(ctx, body, n.dropHere), true
	case methodRetired:
		return serve(ctx, body, n.retiredHere), true
	case methodNodes:
		return serve(ctx, body, n.nodesHere), true
	}
	return nil, false
}
