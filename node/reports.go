package node

import (
	"context"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
)

const (
	// heldLimit bounds a leader change's wait for the reports of connected nodes.
	// A node that died is not waited for: its connection breaks. One that is only
	// slow may hold tasks that agents have begun with: given again, they would be
	// begun twice. Longer, and a shard would stand still for more than 1.5 s after
	// its leader's death.
	heldLimit = time.Second
	// heldAgain is the pause before a node that refused to report is asked again.
	heldAgain = 20 * time.Millisecond
)

// heldRequest asks what is held of a shard, for the leader of a term.
type heldRequest struct {
	Shard uint32 `json:"shard"`
	Term  uint64 `json:"term"`
}

type heldReport struct {
	ID    ledger.TaskID `json:"id"`
	Agent string        `json:"agent"`
	Epoch uint64        `json:"epoch"`
	Theft *theft        `json:"theft,omitempty"`
}

// returnGrace is how long a new leader gives the agents of a node that is down
// to connect elsewhere and say what they hold, before it gives away what nobody
// reports. What came in its own term does not wait for it.
const returnGrace = 250 * time.Millisecond

func (n *core) awaitReturns() {
	for _, v := range n.others() {
		if !n.peers.Up(v.RaftID) {
			t := time.NewTimer(returnGrace)
			defer t.Stop()
			select {
			case <-t.C:
			case <-n.ctx.Done():
			}
			return
		}
	}
}

// openDesk asks every connected node which tasks of the shard its agents hold,
// then lets the desk give leases.
func (n *core) openDesk(shard uint32, term uint64) {
	reports := n.holds.told(shard, term, n.id.RaftID)
	ctx, cancel := context.WithTimeout(n.ctx, heldLimit)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, v := range n.others() {
		wg.Go(func() {
			list, err := awaitReport(ctx, func() bool { return n.peers.Up(v.RaftID) }, func() ([]heldReport, error) {
				return callPeer[heldRequest, []heldReport](ctx, n, v.RaftID, methodHeld, heldRequest{Shard: shard, Term: term})
			})
			if err != nil {
				if n.ctx.Err() != nil {
					return // the node stops
				}
				n.cfg.Logger.Warn("no report of held tasks: they are given again", "layer", 5, "shard", shard, "node", v.NodeID, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, h := range list {
				reports = append(reports, report{id: h.ID, agent: h.Agent, node: v.RaftID, epoch: h.Epoch, theft: h.Theft})
			}
		})
	}
	wg.Wait()
	d := n.desk(shard)
	if d == nil {
		return // dropped meanwhile
	}
	d.open(term, reports, n.nowMillis())
}

// awaitReport asks a node until it answers, its connection is gone (no report,
// no error) or ctx is over.
func awaitReport(ctx context.Context, up func() bool, ask func() ([]heldReport, error)) ([]heldReport, error) {
	for up() {
		list, err := ask()
		if err == nil {
			return list, nil
		}
		t := time.NewTimer(heldAgain)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
	}
	return nil, nil
}

func (n *core) heldHere(_ context.Context, q heldRequest) ([]heldReport, error) {
	out := []heldReport{}
	for _, r := range n.holds.told(q.Shard, q.Term, n.id.RaftID) {
		out = append(out, heldReport{ID: r.id, Agent: r.agent, Epoch: r.epoch, Theft: r.theft})
	}
	return out, nil
}
