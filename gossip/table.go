package gossip

import (
	"cmp"
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
	bad      func(nodeID string, err error)

	mu struct {
		sync.Mutex
		members map[string]Member
		meta    []byte // this node's, encoded
	}
}

type conflict struct{ nodeID, addr string }

func newTable(bad func(string, error)) *table {
	t := &table{changed: make(chan struct{}, 1), conflict: make(chan conflict, 16), bad: bad}
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

func (t *table) setMeta(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.meta = b
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
