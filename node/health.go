package node

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/ledger"
	"github.com/quorate/quorate/node/api"
)

// checkReplicas: are replicas that applied the same log in the same state?
func checkReplicas(c *api.Cluster, add addCheck) {
	var bad []string
	for _, s := range c.Shards {
		if len(s.Diverged) > 0 {
			bad = append(bad, fmt.Sprintf("%d (%s)", s.Shard, strings.Join(s.Diverged, ", ")))
		}
	}
	if len(bad) > 0 {
		add(5, "replicas", "fail", "a node that a majority contradicts stops by itself and leaves diverged.json in its data directory: keep that directory, and replace the node by a new one",
			"in another state than the leader: shard %s", strings.Join(bad, "; "))
		return
	}
	add(5, "replicas", "ok", "", "no replica was seen in another state than its leader")
}

// checkDisks: is there room, and do log writes come back?
func checkDisks(c *api.Cluster, add addCheck) {
	var low, stalled []string
	for _, x := range c.Nodes {
		switch d := x.Disk; {
		case d == nil:
		case d.Low && d.BudgetBytes > 0 && d.UsedBytes > d.BudgetBytes*3/4:
			low = append(low, fmt.Sprintf("%s (%d MiB used, its budget is %d MiB)", x.NodeID, d.UsedBytes>>20, d.BudgetBytes>>20))
		case d.Low:
			low = append(low, fmt.Sprintf("%s (%d MiB free, %d MiB reserved)", x.NodeID, d.FreeBytes>>20, d.ReserveBytes>>20))
		case d.Stalled:
			stalled = append(stalled, x.NodeID)
		}
	}
	switch {
	case len(low) > 0:
		add(5, "disks", "fail", "free space there: new tasks are refused meanwhile (disk_full), what ends tasks goes through; a disk that fills up all the same stops its node",
			"almost full: %s", strings.Join(low, ", "))
	case len(stalled) > 0:
		add(5, "disks", "warn", "look at the device: the node leads nothing while its log writes take so long", "log writes stand still on %s", strings.Join(stalled, ", "))
	default:
		var used []string
		for _, x := range c.Nodes {
			if x.Disk != nil {
				p := &x.Disk.Parts
				used = append(used, fmt.Sprintf("%s %d MiB (log %d, state %d, journals %d, hashes and index %d, archive %d)", x.NodeID, p.Total>>20, p.Log>>20, p.State>>20, p.Journal>>20, (p.Hashes+p.Index)>>20, p.Archive>>20))
			}
		}
		add(5, "disks", "ok", "", "every reachable node has room, and its log writes come back; in use: %s", strings.Join(used, "; "))
	}
}

func (n *core) diskStatus() api.DiskStatus {
	h := n.store.DiskHealth()
	return api.DiskStatus{FreeBytes: h.FreeBytes, ReserveBytes: h.ReserveBytes, UsedBytes: h.UsedBytes, BudgetBytes: h.BudgetBytes, Low: h.Low, Stalled: h.Stalled, Parts: n.diskParts()}
}

// checkPlacement: does every shard have the replicas it should have, on nodes
// that are there?
func (n *core) checkPlacement(c *api.Cluster, add addCheck) {
	alive := map[string]bool{}
	waiting := 0
	for _, x := range c.Nodes {
		alive[x.NodeID] = x.State == "alive"
		if x.Role == "joining" || x.Role == "draining" || x.Role == "removing" {
			waiting++
		}
	}
	var thin, moving []string
	for _, s := range c.Shards {
		live := 0
		for _, v := range s.Voters {
			if alive[v] {
				live++
			}
		}
		if s.Moving {
			moving = append(moving, shardName(s.Shard))
		}
		if live < ledger.ReplicationFactor {
			thin = append(thin, fmt.Sprintf("%d (%d of %d)", s.Shard, live, ledger.ReplicationFactor))
		}
	}
	invites := 0
	n.control.view(func(ctl *ledger.Control) { invites = len(ctl.Invites()) })
	switch {
	case len(n.id.Voters) == 1 && len(c.Nodes) == 1:
		add(5, "placement", "warn", "quorate node add --node-id ID, then start that node with --join; three nodes survive the loss of one", "one node: nothing is replicated")
	case len(thin) > 0:
		add(5, "placement", "warn", "start the missing node again; if it is lost for good: quorate node remove ID, then quorate node add --node-id NEW", "under-replicated: shard %s", strings.Join(thin, ", "))
	case len(moving) > 0 || waiting > 0:
		add(5, "placement", "ok", "", "replicas are on their way: shard %s; %d nodes join or leave", strings.Join(moving, ", "), waiting)
	case invites > 0:
		add(5, "placement", "ok", "", "every shard has %d replicas where it belongs; %d admitted nodes have not come", ledger.ReplicationFactor, invites)
	default:
		add(5, "placement", "ok", "", "every shard has %d replicas where it belongs", ledger.ReplicationFactor)
	}
}

// checkMemory: is there room for live tasks here?
func (n *core) checkMemory(add addCheck) {
	live, budget := n.liveBytes()>>20, n.cfg.MemoryBudgetBytes>>20
	switch {
	case budget == 0:
		add(5, "memory", "ok", "", "live tasks take about %d MiB here, without a budget", live)
	case n.memoryFull():
		add(5, "memory", "fail", "wait until tasks have ended, cancel some, or raise the budget: new tasks are refused meanwhile (memory_full) on the shards this node leads",
			"live tasks take about %d MiB here, all of the budget", live)
	default:
		add(5, "memory", "ok", "", "live tasks take about %d of %d MiB here", live, budget)
	}
}

// seldom limits a log line to one a second: what a broken peer repeats says
// nothing new.
type seldom struct{ last atomic.Int64 }

func (s *seldom) allow(at time.Time) bool {
	now := at.UnixNano()
	last := s.last.Load()
	return (now-last >= int64(time.Second) || now < last) && s.last.CompareAndSwap(last, now)
}
