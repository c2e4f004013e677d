package gossip

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/memberlist"
)

// table is the living, copied from memberlist's events. It is memberlist's
// delegate: its methods run under memberlist's lock and neither block nor call back.
type table struct {
	changed  chan struct{} // capacity 1
	conflict chan conflict // further ones are dropped: they are repeated while the conflict lasts
	foreign  chan Member   // likewise: nodes of another cluster with the same name
	bad      func(nodeID string, err error)

	mu struct {
		sync.Mutex
		members map[string]Member
		meta    []byte   // this node's, encoded
		cluster [16]byte // this node's, zero before there is one
	}
}

type conflict struct{ nodeID, addr string }

func newTable(bad func(string, error)) *table {
	t := &table{changed: make(chan struct{}, 1), conflict: make(chan conflict, 16), foreign: make(chan Member, 16), bad: bad}
	t.mu.members = map[string]Member{}
	return t
}

func address(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// NotifyJoin implements memberlist.EventDelegate.
func (t *table) NotifyJoin(n *memberlist.Node) {
	m, err := decodeMeta(n.Meta)
	if err != nil {
		t.bad(n.Name, err)
		t.NotifyLeave(n)
		return
	}
	t.mu.Lock()
	t.mu.members[n.Name] = Member{NodeID: n.Name, Addr: address(n), Meta: m}
	t.mu.Unlock()
	t.wake()
}

// NotifyUpdate implements memberlist.EventDelegate.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.NotifyJoin(n) }

// NotifyLeave implements memberlist.EventDelegate.
func (t *table) NotifyLeave(n *memberlist.Node) {
	t.mu.Lock()
	delete(t.mu.members, n.Name)
	t.mu.Unlock()
	t.wake()
}

func (t *table) wake() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (t *table) NotifyConflict(_, other *memberlist.Node) {
	select {
	case t.conflict <- conflict{other.Name, address(other)}:
	default:
	}
}

// NotifyAlive implements memberlist.AliveDelegate: a node of another cluster
// with the same name is kept out. It may have been asked because an address
// changed hands; taken in, the two clusters' nodes of one name would hide each
// other.
func (t *table) NotifyAlive(n *memberlist.Node) error {
	m, err := decodeMeta(n.Meta)
	if err != nil || !t.isForeign(m) { // one that does not decode is dealt with when it joins
		return nil
	}
	select {
	case t.foreign <- Member{NodeID: n.Name, Addr: address(n), Meta: m}:
	default:
	}
	return errForeign
}

// NotifyMerge implements memberlist.MergeDelegate: the states of another
// cluster's nodes are not taken, or a dead node of theirs would make one of ours
// of the same name suspect. A node without a cluster may have heard of both.
func (t *table) NotifyMerge(nodes []*memberlist.Node) (err error) {
	for _, n := range nodes {
		m, bad := decodeMeta(n.Meta)
		if bad == nil && m.ClusterID != ([16]byte{}) && !t.isForeign(m) {
			return nil
		}
		if t.NotifyAlive(n) != nil {
			err = errForeign
		}
	}
	return err
}

var errForeign = errors.New("of another cluster with the same name")

func (t *table) isForeign(m Meta) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return m.ClusterID != t.mu.cluster && m.ClusterID != ([16]byte{}) && t.mu.cluster != ([16]byte{})
}

// NodeMeta implements memberlist.Delegate.
func (t *table) NodeMeta(int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.meta
}

// The rest of memberlist.Delegate: nothing is sent but Meta.

func (t *table) NotifyMsg([]byte)                {}
func (t *table) GetBroadcasts(int, int) [][]byte { return nil }
func (t *table) LocalState(bool) []byte          { return nil }
func (t *table) MergeRemoteState([]byte, bool)   {}

// setMeta takes this node's, and b, the same encoded.
func (t *table) setMeta(m Meta, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.meta, t.mu.cluster = b, m.ClusterID
}

// list is the members by node ID.
func (t *table) list() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Member, 0, len(t.mu.members))
	for _, m := range t.mu.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return out
}
