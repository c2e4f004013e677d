package peer

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// layer is what errors and logs of this package are filed under.
const layer = "L5"

// refusal judges what the other side said of itself. dialled is the peer that
// was called, 0 for an accepted connection. nil admits.
func (t *Transport) refusal(h *hello, dialled bool) *RefusedError {
	self, _, open := t.self()
	no := func(code RefusalCode, format string, args ...any) *RefusedError {
		return &RefusedError{Code: code, Text: fmt.Sprintf(format, args...), Local: true}
	}
	if h.version != protocolVersion {
		return no(RefusedVersion, "protocol %d is not spoken here, %d is", h.version, protocolVersion)
	}
	if h.cluster != self.Cluster {
		return no(RefusedCluster, "this node belongs to cluster %q, not %q", self.Cluster, h.cluster)
	}
	if h.purpose == forForm {
		return nil // who it is matters to the forming protocol, not here
	}
	if !open {
		return no(RefusedNotFormed, "this node is not part of a cluster yet")
	}
	switch {
	case h.clusterID != self.ClusterID:
		return no(RefusedClusterID, "this node is part of cluster %x, not %x, though both are named %q", self.ClusterID, h.clusterID, self.Cluster)
	case !dialled && h.wanted != self.RaftID:
		return no(RefusedWrongNode, "this is node %q (raft ID %x), not raft ID %x", self.NodeID, self.RaftID, h.wanted)
	case h.raftID == self.RaftID:
		return no(RefusedNodeID, "raft ID %x is this node's own: is a data directory used twice?", h.raftID)
	case h.nodeID == self.NodeID:
		return no(RefusedNodeID, "node ID %q is this node's own", h.nodeID)
	case !dialled && h.purpose == forPeer && h.raftID > self.RaftID:
		return no(RefusedDirection, "of two nodes the one with the smaller raft ID dials")
	}
	for id, r := range *t.peers.Load() {
		name, incarnation := r.name()
		switch {
		case id == h.raftID && name != "" && name != h.nodeID:
			return no(RefusedNodeID, "raft ID %x belongs to node %q, not %q", id, name, h.nodeID)
		case id != h.raftID && name == h.nodeID:
			return no(RefusedNodeID, "node ID %q belongs to raft ID %x, not %x", name, id, h.raftID)
		case id == h.raftID && h.incarnation != 0 && h.incarnation < incarnation:
			return no(RefusedRolledBack, "start %d of node %q, but start %d was seen: is its data directory a copy?", h.incarnation, name, incarnation)
		}
	}
	if err := t.cfg.Admit(h.raftID, h.nodeID); err != nil {
		return no(RefusedAdmission, "%s", err.Error())
	}
	return nil
}

// noteRefusal logs a refusal, at most once in refusalQuiet per host and code,
// and keeps it for the status of the peer it names.
func (t *Transport) noteRefusal(r *RefusedError, h *hello) {
	if h != nil {
		if p := (*t.peers.Load())[h.raftID]; p != nil {
			p.failed(r)
		}
	}
	host, _, err := net.SplitHostPort(r.Addr)
	if err != nil {
		host = r.Addr
	}
	if !t.refusals.allow(host, r.Code) {
		return
	}
	attrs := []any{"layer", layer, "peer", r.Addr, "code", r.Code.String(), "reason", r.Text, "refused_here", r.Local}
	if h != nil {
		attrs = append(attrs, "node_id", h.nodeID, "raft_id", fmt.Sprintf("%x", h.raftID))
	}
	if r.Code == RefusedNotFormed || r.Code == RefusedBusy { // will pass
		t.cfg.Logger.Debug("peer connection refused", attrs...)
		return
	}
	t.cfg.Logger.Warn("peer connection refused", attrs...)
}

const (
	refusalQuiet   = 10 * time.Second // the same refusal of the same host is logged this often
	refusalEntries = 256              // hosts and codes remembered: some 20 KiB
)

type refusalKey struct {
	host string
	code RefusalCode
}

// refusalLog limits the rate of log lines.
type refusalLog struct {
	mu struct {
		sync.Mutex
		last map[refusalKey]time.Time
	}
}

func (l *refusalLog) allow(host string, code RefusalCode) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, now := refusalKey{host, code}, time.Now()
	if last, ok := l.mu.last[k]; ok && now.Sub(last) < refusalQuiet {
		return false
	}
	if l.mu.last == nil || len(l.mu.last) >= refusalEntries {
		l.mu.last = make(map[refusalKey]time.Time)
	}
	l.mu.last[k] = now
	return true
}
