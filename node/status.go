package node

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

func shardName(s uint32) string { return strconv.FormatUint(uint64(s), 10) }

// stats is what one node tells of itself for the cluster's status.
type stats struct {
	NodeID   string                `json:"node_id"`
	Version  string                `json:"version"`
	Sessions int                   `json:"sessions"`
	Led      []api.ShardStatus     `json:"led"`
	Tasks    map[string]int        `json:"tasks"`
	Queue    map[string]queueStats `json:"queue"`
	Disk     api.DiskStatus        `json:"disk"`
	Steals   api.Steals            `json:"steals"`
}

type queueStats struct {
	Queued, Leased, Delayed int
	Oldest                  int64
}

// statsTimeout bounds what a slow peer can cost a status.
const statsTimeout = time.Second

func (n *core) statsHere(context.Context, struct{}) (stats, error) {
	s := stats{NodeID: n.id.NodeID, Version: Version(), Sessions: len(n.sessions.all()), Tasks: map[string]int{}, Queue: map[string]queueStats{}, Disk: n.diskStatus(), Steals: n.counts.list()}
	counts := map[string]*deskCounts{}
	for _, st := range n.store.Status() {
		if st.Leader != n.id.RaftID {
			continue
		}
		s.Led = append(s.Led, n.shardStatus(st.Shard))
		if m := n.taskShard(st.Shard); m != nil {
			m.view(func(t *ledger.Tasks) { addCounts(s.Tasks, t) })
			n.desk(st.Shard).counts(counts)
		}
	}
	for c, q := range counts {
		s.Queue[c] = queueStats{Queued: q.queued, Leased: q.leased, Delayed: q.delayed}
	}
	for _, d := range n.sched.Depths() {
		if q, ok := s.Queue[d.Capability]; ok {
			q.Oldest = d.OldestMillis
			s.Queue[d.Capability] = q
		}
	}
	return s, nil
}

// shardStatus is one shard as this node sees it.
func (n *core) shardStatus(shard uint32) api.ShardStatus {
	out := api.ShardStatus{Shard: shard, Kind: "tasks"}
	if shard == controlShard {
		out.Kind = "control"
	}
	for _, st := range n.store.Status() {
		if st.Shard != shard {
			continue
		}
		h := n.head(shard)
		out.Leader, out.Term, out.Commit, out.Applied = n.nodeName(st.Leader), st.Term, st.Commit, st.Applied
		out.Checkpoint, out.JournalBytes = st.CheckpointIndex, st.JournalBytes-st.JournalStart
		if st.LastIndex >= st.FirstIndex {
			out.LogEntries = st.LastIndex - st.FirstIndex + 1
		}
		out.AgreedIndex = st.AgreedIndex
		for _, id := range st.Differ {
			out.Diverged = append(out.Diverged, n.nodeName(id))
		}
		out.LedgerSize, out.LedgerHead = h.Seq, hex.EncodeToString(h.Hash[:])
		for _, v := range st.Learners {
			out.Learners = append(out.Learners, n.nodeName(v))
		}
		for _, v := range st.Voters {
			out.Voters = append(out.Voters, n.nodeName(v))
			if st.Leader == n.id.RaftID && v != n.id.RaftID && (!n.peers.Up(v) || !caughtUp(&st, v)) {
				out.Lagging = append(out.Lagging, n.nodeName(v))
			}
		}
	}
	n.placeStatus(&out)
	return out
}

// placeStatus says where a shard belongs, and whether it is there.
func (n *core) placeStatus(out *api.ShardStatus) {
	p, ok := n.placement(out.Shard)
	if !ok {
		return
	}
	out.Epoch = p.Epoch
	for _, v := range p.Voters {
		out.Placed = append(out.Placed, n.nodeName(v))
	}
	want, have := slices.Sorted(slices.Values(out.Placed)), slices.Sorted(slices.Values(out.Voters))
	out.Moving = !slices.Equal(want, have)
}

// nodeName is a voter's node ID; a raft ID that nobody knows is shown as such.
func (n *core) nodeName(id uint64) string {
	if id == 0 {
		return ""
	}
	for _, v := range n.nodes() {
		if v.RaftID == id {
			return v.NodeID
		}
	}
	return fmt.Sprintf("%016x", id)
}

// gather asks every node for its stats, this one included.
func (n *core) gather(ctx context.Context) map[uint64]stats {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	own, _ := n.statsHere(ctx, struct{}{}) // never fails
	all := map[uint64]stats{n.id.RaftID: own}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, v := range n.others() {
		wg.Go(func() {
			s, err := callPeer[struct{}, stats](ctx, n, v.RaftID, methodStats, struct{}{})
			if err != nil {
				return // shown as unreachable
			}
			mu.Lock()
			defer mu.Unlock()
			all[v.RaftID] = s
		})
	}
	wg.Wait()
	return all
}

// Cluster is the whole picture, put together from what every node says.
func (n *core) Cluster(ctx context.Context) (api.Cluster, error) {
	all := n.gather(ctx)
	c := api.Cluster{Cluster: n.id.Cluster, ClusterID: hex.EncodeToString(n.id.ClusterID[:]), NodeID: n.id.NodeID, Phase: "member",
		Version: Version(), Nodes: []api.NodeStatus{}, Shards: []api.ShardStatus{}, Queue: []api.QueueStatus{}, Tasks: map[string]int{}, Agents: map[string]int{}}
	led := map[uint32]api.ShardStatus{}
	queue := map[string]queueStats{}
	for _, s := range all {
		c.Steals = addSteals(c.Steals, s.Steals)
		for _, sh := range s.Led {
			if old, ok := led[sh.Shard]; !ok || old.Term < sh.Term {
				led[sh.Shard] = sh
			}
		}
		for st, k := range s.Tasks {
			c.Tasks[st] += k
		}
		for name, q := range s.Queue {
			sum := queue[name]
			sum.Queued, sum.Leased, sum.Delayed = sum.Queued+q.Queued, sum.Leased+q.Leased, sum.Delayed+q.Delayed
			if q.Oldest > 0 && (sum.Oldest == 0 || q.Oldest < sum.Oldest) {
				sum.Oldest = q.Oldest
			}
			queue[name] = sum
		}
	}
	for shard := range n.shards {
		s, ok := led[shard]
		if !ok {
			s = n.shardStatus(shard)
		}
		c.Shards = append(c.Shards, s)
	}
	n.clusterNodes(&c, all)
	n.clusterQueue(&c, queue)
	return c, nil
}

func (n *core) clusterNodes(c *api.Cluster, all map[uint64]stats) {
	known, roles := map[uint64]ledger.Node{}, map[uint64]string{}
	n.control.view(func(ctl *ledger.Control) {
		for _, m := range ctl.Members() {
			roles[m.RaftID] = m.State.String()
		}
		for _, x := range ctl.Nodes() {
			known[x.RaftID] = x
		}
	})
	for _, v := range n.nodes() {
		x := known[v.RaftID]
		s, alive := all[v.RaftID]
		ns := api.NodeStatus{NodeID: v.NodeID, RaftID: fmt.Sprintf("%016x", v.RaftID), APIAddr: x.APIAddr, PeerAddr: x.PeerAddr,
			GossipAddr: x.GossipAddr, State: "unreachable", Role: "member", Version: x.Version}
		if role := roles[v.RaftID]; role != "" {
			ns.Role = role
		}
		if alive {
			ns.Disk = &s.Disk
			ns.State, ns.Leads, ns.Agents, ns.Version = "alive", len(s.Led), s.Sessions, s.Version
		}
		c.Nodes = append(c.Nodes, ns)
	}
}

func (n *core) clusterQueue(c *api.Cluster, queue map[string]queueStats) {
	now := n.nowMillis()
	var agents []ledger.Agent
	n.control.view(func(ctl *ledger.Control) { agents = ctl.Agents() })
	for _, a := range agents {
		c.Agents[a.State.String()]++
	}
	for name, q := range queue {
		s := api.QueueStatus{Capability: name, Queued: q.Queued, Leased: q.Leased, Delayed: q.Delayed}
		if q.Oldest > 0 && now > q.Oldest {
			s.OldestSeconds = float64(now-q.Oldest) / 1000
		}
		action, target, _ := api.SplitCapability(name)
		for i := range agents {
			if agents[i].State == ledger.AgentHealthy && canDo(agents[i].Capabilities, action, target) {
				s.Workers++
			}
		}
		c.Queue = append(c.Queue, s)
	}
	sort.Slice(c.Queue, func(i, j int) bool { return c.Queue[i].Capability < c.Queue[j].Capability })
}

// Ready says whether this node can serve: every shard has a leader it knows.
func (n *core) Ready() error {
	if n.draining.Load() {
		return api.Errorf(503, 5, "draining", api.RetryLater, "this node is shutting down").WithHint("use another node")
	}
	for shard := range n.shards {
		if id, _ := n.leaders.of(shard); id == 0 {
			return errNoLeader(shard)
		}
	}
	return nil
}
