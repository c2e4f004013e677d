package node

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
	"github.com/quorate/quorate/raftstore"
)

// The administrator runs on the control shard's leader and moves reality to
// the placement that the control shard holds, one step at a time: create the
// replica, add it as a learner, promote it once it has caught up and stayed
// well, remove what is not wanted any more, put its data away. It keeps nothing
// but how long a learner has been well, so another leader goes on from what it
// finds; each step may be done twice.

// Timings of the administrator.
const (
	adminInterval = 200 * time.Millisecond
	healthyFor    = 5 * time.Second // a learner is promoted after it has kept up this long
	sweepEvery    = 10              // passes: replicas that no group knows any more are looked for; the only ones at rest
	stepTimeout   = 3 * time.Second
)

// administrator is the loop's memory; only the loop uses it.
type administrator struct {
	well   map[replicaKey]time.Time // learners that have caught up, and since when
	last   map[uint32]uint64        // shard → the last index of its log, a pass ago
	passes int
	// rest: the last pass found everything in its place. The members and
	// placements it found that for: as long as they stay, there are few passes.
	rest       bool
	members    []ledger.Member
	placements []ledger.Placement
}

type replicaKey struct {
	shard uint32
	node  uint64
}

// shardView is how the members of a shard stand, as its leader knows.
type shardView struct {
	Leader   uint64   `json:"leader,string"`
	Voters   []uint64 `json:"voters"`
	Learners []uint64 `json:"learners"`
	Well     []uint64 `json:"well"`   // others that answer and have (nearly) the whole log
	Active   []uint64 `json:"active"` // others that answer

	Last    uint64            `json:"last,string"` // index of the leader's log
	Matches map[uint64]uint64 `json:"matches"`     // how much of it learners have that answer
}

type changeRequest struct {
	Shard uint32               `json:"shard"`
	Kind  raftstore.ChangeKind `json:"kind"`
	Node  uint64               `json:"node,string"`
}

func (n *core) adminLoop() {
	t := n.ticker(adminInterval)
	defer t.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-t.C:
		}
		st, ok := n.store.ShardStatus(controlShard)
		if !ok || !st.Ready || st.Leader != n.id.RaftID {
			n.admin.well, n.admin.last, n.admin.rest = nil, nil, false
			n.hosts.Store(nil)
			continue
		}
		n.administer()
	}
}

// administer makes one pass: at most one step a shard.
func (n *core) administer() {
	var members []ledger.Member
	var placements []ledger.Placement
	named := false
	n.control.view(func(c *ledger.Control) {
		members, placements, named = c.Members(), c.Placements(), c.Cluster().Name != ""
	})
	if !named {
		return
	}
	if len(members) == 0 {
		n.beginPlacement()
		return
	}
	if n.admin.well == nil {
		n.admin.well, n.admin.last = map[replicaKey]time.Time{}, map[uint32]uint64{}
	}
	n.admin.passes++
	if n.admin.rest && n.admin.passes%sweepEvery != 0 && reflect.DeepEqual(members, n.admin.members) && reflect.DeepEqual(placements, n.admin.placements) {
		return
	}
	n.admin.members, n.admin.placements = members, placements
	views := make([]shardView, len(placements))
	settled := true
	for i := range placements {
		v, err := n.viewShard(uint32(i))
		if err != nil {
			settled = false
			continue
		}
		views[i] = v
		if n.step(uint32(i), &placements[i], &v) {
			settled = false
		}
	}
	n.noteHosts(members, views)
	n.promoteJoined(members, views)
	if n.admin.passes%sweepEvery == 0 && settled {
		n.sweep(members, placements, views)
	}
	n.admin.rest = settled && !slices.ContainsFunc(members, func(m ledger.Member) bool { return m.State != ledger.MemberActive })
}

// noteHosts counts what each member holds, for people: shards of tasks, and a
// vote in the control shard. Unless every shard was seen, nothing is known.
func (n *core) noteHosts(members []ledger.Member, views []shardView) {
	hosts := map[uint64]int{}
	for i := range views {
		if views[i].Leader == 0 {
			n.hosts.Store(nil)
			return
		}
		for _, m := range members {
			if slices.Contains(views[i].Voters, m.RaftID) || i != controlShard && slices.Contains(views[i].Learners, m.RaftID) {
				hosts[m.RaftID]++
			}
		}
	}
	n.hosts.Store(&hosts)
}

// beginPlacement enters the founders as members.
func (n *core) beginPlacement() {
	c := &ledger.PlacementInit{}
	for _, v := range n.id.Voters {
		c.Members = append(c.Members, v.RaftID)
	}
	a := n.doHere(n.ctx, controlShard, []ledger.Command{c})[0]
	if a.err == nil && a.outcome.Code != ledger.OK {
		n.cfg.Logger.Error("placement does not begin", "layer", 5, "code", a.outcome.Code.String(), "detail", a.outcome.Detail)
	}
}

func (n *core) viewShard(shard uint32) (shardView, error) {
	ctx, cancel := context.WithTimeout(n.ctx, stepTimeout)
	defer cancel()
	return onLeader(ctx, n, shard, methodShard, shard, n.shardHere)
}

func (n *core) shardHere(_ context.Context, shard uint32) (shardView, error) {
	st, ok := n.store.ShardStatus(shard)
	if !ok || !st.Ready || st.Leader != n.id.RaftID {
		return shardView{}, errNotLeader
	}
	v := shardView{Leader: st.Leader, Voters: st.Voters, Learners: st.Learners, Last: st.LastIndex}
	for _, f := range st.Followers {
		if f.Active {
			v.Active = append(v.Active, f.RaftID)
		}
		if f.Active && !f.Snapshot && slices.Contains(st.Learners, f.RaftID) {
			if v.Matches == nil {
				v.Matches = map[uint64]uint64{}
			}
			v.Matches[f.RaftID] = f.Match
		}
		if caughtUp(&st, f.RaftID) {
			v.Well = append(v.Well, f.RaftID)
		}
	}
	return v, nil
}

func (n *core) changeHere(ctx context.Context, q changeRequest) (struct{}, error) {
	_, err := n.store.Change(ctx, q.Shard, raftstore.Change{Kind: q.Kind, RaftID: q.Node})
	var refused *raftstore.ChangeError
	switch {
	case errors.Is(err, raftstore.ErrNoShard):
		return struct{}{}, errNotLeader
	case errors.Is(err, raftstore.ErrChangePending):
		return struct{}{}, api.Errorf(409, 5, "membership_change_under_way", api.RetryLater, "%v", err)
	case errors.As(err, &refused):
		return struct{}{}, api.Errorf(409, 5, "membership_change_refused", api.RetryNo, "%v", err)
	}
	return struct{}{}, err
}

// step moves one shard towards its placement and says whether it had to.
func (n *core) step(shard uint32, p *ledger.Placement, v *shardView) bool {
	n.admin.look(shard, v, n.cfg.Now())
	has := func(id uint64) bool { return slices.Contains(v.Voters, id) || slices.Contains(v.Learners, id) }
	waiting := false
	for _, id := range slices.Concat(p.Voters, p.Learners) {
		switch {
		case has(id):
		case id == n.id.RaftID || n.peers.Up(id):
			n.addReplica(shard, id)
			return true
		default: // the others go on without it
			waiting = waiting || slices.Contains(p.Voters, id)
		}
	}
	for _, id := range p.Voters {
		if slices.Contains(v.Voters, id) {
			continue
		}
		waiting = true
		if n.isWell(shard, id) {
			n.changeMember(shard, raftstore.Promote, id)
			return true
		}
	}
	if waiting {
		return true // nothing is taken away before its replacement stands
	}
	for _, id := range v.Voters {
		switch {
		case slices.Contains(p.Voters, id):
		case id == v.Leader: // its own balanceLoop hands the leadership over
			return true
		default:
			n.changeMember(shard, raftstore.Remove, id)
			return true
		}
	}
	for _, id := range v.Learners {
		if !slices.Contains(p.Learners, id) && !slices.Contains(p.Voters, id) {
			n.changeMember(shard, raftstore.Remove, id)
			return true
		}
	}
	return false
}

// look notes which learners keep up: they have nearly all, or, when much is
// written, all there was a pass ago.
func (a *administrator) look(shard uint32, v *shardView, now time.Time) {
	before := a.last[shard]
	a.last[shard] = v.Last
	for _, id := range v.Learners {
		k := replicaKey{shard, id}
		match, answers := v.Matches[id]
		switch {
		case !slices.Contains(v.Well, id) && !(answers && before > 0 && match >= before):
			delete(a.well, k)
		case a.well[k].IsZero():
			a.well[k] = now
		}
	}
}

// isWell says that a learner has kept up for long enough.
func (n *core) isWell(shard uint32, id uint64) bool {
	since := n.admin.well[replicaKey{shard, id}]
	return !since.IsZero() && n.cfg.Now().Sub(since) >= n.cfg.healthyFor
}

func (n *core) addReplica(shard uint32, id uint64) {
	ctx, cancel := context.WithTimeout(n.ctx, stepTimeout)
	defer cancel()
	if _, err := onNode(ctx, n, id, methodCreate, shard, n.createHere); err != nil {
		n.cfg.Logger.Debug("no replica made", "layer", 5, "shard", shard, "node", n.nodeName(id), "error", err)
		return
	}
	n.changeMember(shard, raftstore.AddLearner, id)
}

func (n *core) changeMember(shard uint32, kind raftstore.ChangeKind, id uint64) {
	ctx, cancel := context.WithTimeout(n.ctx, stepTimeout)
	defer cancel()
	_, err := onLeader(ctx, n, shard, methodChange, changeRequest{shard, kind, id}, n.changeHere)
	if err != nil {
		n.cfg.Logger.Warn("a shard's members do not change yet", "layer", 5, "shard", shard, "change", kind.String(), "node", n.nodeName(id), "error", err)
		return
	}
	n.cfg.Logger.Info("a shard's members changed", "layer", 5, "shard", shard, "change", kind.String(), "node", n.nodeName(id))
	delete(n.admin.well, replicaKey{shard, id})
}

// onNode runs an operation on one node, this one included.
func onNode[Q, R any](ctx context.Context, n *core, id uint64, m method, q Q, local func(context.Context, Q) (R, error)) (R, error) {
	if id == n.id.RaftID {
		return local(ctx, q)
	}
	return callPeer[Q, R](ctx, n, id, m, q)
}

func (n *core) founders() []uint64 {
	ids := make([]uint64, len(n.id.Voters))
	for i, v := range n.id.Voters {
		ids[i] = v.RaftID
	}
	return ids
}

func (n *core) createHere(_ context.Context, shard uint32) (struct{}, error) {
	if shard >= n.shards {
		return struct{}{}, errShort
	}
	n.orders.Lock()
	defer n.orders.Unlock()
	return struct{}{}, n.store.Create(shard, n.founders())
}

// dropHere puts a replica away. The asker found that its group does not know
// it, and may come late, when the replica was placed here again: where it is
// placed is asked for anew, and what is placed here stays. A replica is made
// after it was placed, so that one is either seen here as placed, or made when
// this is done.
func (n *core) dropHere(ctx context.Context, shard uint32) (struct{}, error) {
	n.orders.Lock()
	defer n.orders.Unlock()
	if err := n.caughtUp(ctx, controlShard); err != nil {
		return struct{}{}, err
	}
	if p, ok := n.placement(shard); !ok || slices.Contains(p.Voters, n.id.RaftID) || slices.Contains(p.Learners, n.id.RaftID) {
		return struct{}{}, api.Errorf(409, 5, "placed_here", api.RetryLater, "shard %d is placed on this node", shard)
	}
	err := n.store.Drop(shard, true)
	if err == nil && shard != controlShard {
		n.replicas.drop(shard)
		if err := n.trails.forget(shard); err != nil {
			n.cfg.Logger.Warn("audit hashes of a shard that is no longer here stay on disk", "layer", 7, "shard", shard, "error", err)
		}
		n.cfg.Logger.Info("replica put away: the shard lives elsewhere now", "layer", 5, "shard", shard)
	}
	return struct{}{}, err
}

func (n *core) hostsHere(context.Context, struct{}) ([]uint32, error) { return n.store.Shards(), nil }

// promoteJoined makes joining nodes full members once they follow the control
// shard well.
func (n *core) promoteJoined(members []ledger.Member, views []shardView) {
	for _, m := range members {
		if m.State == ledger.MemberJoining && slices.Contains(views[controlShard].Learners, m.RaftID) && n.isWell(controlShard, m.RaftID) {
			a := n.doHere(n.ctx, controlShard, []ledger.Command{&ledger.NodeState{RaftID: m.RaftID, State: ledger.MemberActive, By: "administrator"}})[0]
			n.cfg.Logger.Info("node is a full member now", "layer", 5, "node", m.NodeID, "code", a.outcome.Code.String())
		}
	}
}

// sweep puts away replicas that no group knows any more and retires nodes that
// have none left. Every view is there and as placed.
func (n *core) sweep(members []ledger.Member, placements []ledger.Placement, views []shardView) {
	for _, m := range members {
		left := 0
		for i := range views {
			if slices.Contains(views[i].Voters, m.RaftID) || slices.Contains(views[i].Learners, m.RaftID) ||
				slices.Contains(placements[i].Voters, m.RaftID) || slices.Contains(placements[i].Learners, m.RaftID) {
				left++
			}
		}
		if m.State == ledger.MemberRemoving && left == 0 {
			n.retire(m)
			continue
		}
		if m.RaftID != n.id.RaftID && !n.peers.Up(m.RaftID) {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, stepTimeout)
		hosts, err := onNode(ctx, n, m.RaftID, methodHosts, struct{}{}, n.hostsHere)
		for _, shard := range hosts {
			if err != nil || int(shard) >= len(views) || slices.Contains(views[shard].Voters, m.RaftID) ||
				slices.Contains(views[shard].Learners, m.RaftID) || shard == controlShard {
				continue
			}
			if _, err := onNode(ctx, n, m.RaftID, methodDrop, shard, n.dropHere); err != nil {
				n.cfg.Logger.Warn("replica not put away", "layer", 5, "shard", shard, "node", m.NodeID, "error", err)
			}
		}
		cancel()
	}
}

// retire ends a removal, unless it was taken back. A node that is up is told,
// so that it stops by itself; nothing waits for it.
func (n *core) retire(m ledger.Member) {
	if m.RaftID == n.id.RaftID {
		return // it leads the control shard: another does this
	}
	a := n.doHere(n.ctx, controlShard, []ledger.Command{&ledger.NodeRetire{RaftID: m.RaftID}})[0]
	if a.err != nil || a.outcome.Code != ledger.OK {
		n.cfg.Logger.Warn("node not removed yet", "layer", 5, "node", m.NodeID, "code", a.outcome.Code.String(), "error", a.err)
		return
	}
	n.cfg.Logger.Info("node removed for good", "layer", 5, "node", m.NodeID)
	ctx, cancel := context.WithTimeout(n.ctx, time.Second)
	defer cancel()
	if n.peers.Up(m.RaftID) {
		if _, err := callPeer[struct{}, struct{}](ctx, n, m.RaftID, methodRetired, struct{}{}); err != nil {
			n.cfg.Logger.Debug("a removed node was not told", "layer", 5, "node", m.NodeID, "error", err)
		}
	}
}

// retiredHere is told to a node that was removed: it stops.
func (n *core) retiredHere(context.Context, struct{}) (struct{}, error) {
	n.fatal(errRetired)
	return struct{}{}, nil
}

var errRetired = errors.New("this node was removed from the cluster and never returns: keep its data directory or delete it, and start a new node with another ID")
