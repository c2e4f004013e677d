package ledger

import (
	"encoding/hex"
	"fmt"
	"slices"
)

const kindClusterRestored kind = 110

// ClusterRestored is the first command of every shard of a cluster that was
// made of another one's backup or survivor: this is a new cluster, of these
// members, and whatever the old one's agents hold is over.
type ClusterRestored struct {
	ClusterID, From [16]byte // the new one's, the old one's
	Name            string
	Shards          uint32
	Members         []Node
	EpochFloor      uint64 // no lease of the old cluster has a greater epoch, no new one a smaller
	Source          string // what it was made of, for people
}

func (*ClusterRestored) kind() kind { return kindClusterRestored }

// Append implements Command.
func (c *ClusterRestored) Append(dst []byte) []byte {
	dst = append(appendHead(dst, kindClusterRestored), c.ClusterID[:]...)
	dst = appendString(append(dst, c.From[:]...), c.Name)
	dst = appendUint(dst, uint64(c.Shards))
	dst = appendUint(dst, uint64(len(c.Members)))
	for i := range c.Members {
		dst = c.Members[i].append(dst)
	}
	return appendString(appendUint(dst, c.EpochFloor), c.Source)
}

func (c *ClusterRestored) read(r *reader) {
	r.fixed(c.ClusterID[:])
	r.fixed(c.From[:])
	c.Name, c.Shards = r.string(), r.uint32()
	if n := r.count(minNodeBytes); n > 0 {
		c.Members = make([]Node, n)
	}
	for i := range c.Members {
		c.Members[i].read(r)
	}
	c.EpochFloor, c.Source = r.uint(), r.text()
}

func (c *ClusterRestored) bad() string {
	switch {
	case c.ClusterID == [16]byte{} || c.ClusterID == c.From || c.Name == "" || len(c.Name) > maxNameBytes || len(c.Source) > maxDetailBytes:
		return "a restored cluster needs a new ID, a name and names of a sane length"
	case len(c.Members) == 0 || len(c.Members) > maxMembers:
		return "a cluster has one member or more, and a sane number of them"
	}
	for i := range c.Members {
		if detail := badNode(&c.Members[i]); detail != "" {
			return detail
		}
	}
	return ""
}

func (c *ClusterRestored) detail() string {
	return cut(fmt.Sprintf("from cluster %s, %s; epochs up to %d are over", hex.EncodeToString(c.From[:]), c.Source, c.EpochFloor), maxDetailBytes)
}

// restored ends every lease of the old cluster: an open task takes the floor
// as the epoch that is over, so that its old holder is refused. What may be
// happening right now, and must not happen twice, is in doubt.
func (t *Tasks) restored(c *ClusterRestored) Outcome {
	if detail := c.bad(); detail != "" {
		return Outcome{Code: Invalid, Detail: detail}
	}
	t.rec = Record{Verb: VerbClusterRestored, Detail: c.detail()}
	t.recordShard()
	var running []TaskID // with a lease in the log; ending it may make tasks, which the walk would not survive
	for w := t.order.from(TaskID{}); ; w.next() {
		it, ok := w.peek()
		if !ok {
			break
		}
		e := t.held(it.place)
		if e.state.Terminal() || e.epoch >= c.EpochFloor {
			continue
		}
		e.epoch = c.EpochFloor
		t.touch(it.place, e)
		if e.state == StateRunning {
			running = append(running, e.id)
		}
	}
	for _, id := range running {
		if i, e := t.find(id); e.state == StateRunning {
			t.interrupted(i, e)
		}
	}
	return Outcome{}
}

// interrupted ends a lease that is in the log and whose holder is the old
// cluster's.
func (t *Tasks) interrupted(i uint32, e *entry) {
	const reason = "the cluster was restored while it was performed"
	t.rec = Record{Verb: VerbClusterRestored, Agent: e.agent, Epoch: e.epoch, Detail: reason}
	if e.guarantee == ExactlyOnce {
		t.doubt(i, e, reason)
		return
	}
	t.endAttempt(e, e.agent, e.epoch, endExpired)
	e.err = reason
	t.failed(i, e, t.afterFailure(e, true), false)
}

// recordShard writes a record about no task.
func (t *Tasks) recordShard() {
	t.rec.Index, t.rec.TimeMillis = t.index, t.now
	t.journal.write(&t.rec)
}

// restored replaces the cluster: its old nodes never return, the new members
// are all there is.
func (c *Control) restored(x *ClusterRestored) Outcome {
	if detail := x.bad(); detail != "" {
		return invalid(detail)
	}
	for i := range x.Members {
		if _, old := c.nodeAt(x.Members[i].RaftID); old || c.isRemoved(x.Members[i].RaftID) {
			return invalid(fmt.Sprintf("raft ID %016x was a node of the old cluster", x.Members[i].RaftID))
		}
	}
	c.record(Record{Verb: VerbClusterRestored, Detail: x.detail()})
	for _, n := range c.nodes {
		at, _ := slices.BinarySearch(c.removed, n.RaftID)
		c.removed = slices.Insert(c.removed, at, n.RaftID)
		c.touch(rowNode, raftName(n.RaftID))
		c.touch(rowRemoved, raftName(n.RaftID))
	}
	c.nodes = nil
	c.clearMembers()
	c.cluster = Cluster{ID: x.ClusterID, Name: x.Name, Shards: x.Shards}
	c.touch(rowCluster, "")
	for i := range x.Members {
		c.putNode(&x.Members[i])
	}
	return Outcome{}
}
