package raftstore

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// memLog is a Log in memory.
type memLog struct{ *raft.MemoryStorage }

func (l memLog) Append(hs *pb.HardState, entries []*pb.Entry) error {
	if hs != nil {
		if err := l.SetHardState(hs); err != nil {
			return err
		}
	}
	return l.MemoryStorage.Append(entries)
}

func (l memLog) Sync(then func()) error { then(); return nil }

// scriptNode is a replica whose messages a script delivers.
type scriptNode struct {
	r    *Replica
	out  *scriptGroup
	name string
}

func (n *scriptNode) Restore(Reader, []byte) error { return nil }
func (n *scriptNode) Freeze() Changes              { return Changes{} }
func (n *scriptNode) Thaw()                        {}
func (n *scriptNode) Lead(term uint64)             { n.out.printf("%s: leads in term %d", n.name, term) }
func (n *scriptNode) Follow(leader uint64)         { n.out.printf("%s: follows %d", n.name, leader) }
func (n *scriptNode) Digest() uint64               { return 0 }
func (n *scriptNode) Apply(e Entry) [][]byte {
	var out [][]byte
	for _, c := range e.Commands {
		out = append(out, fmt.Appendf(nil, "%s@%d", c, e.Index))
	}
	local := ""
	if e.Local {
		local = " (local)"
	}
	n.out.printf("%s: apply %d/%d at %d: %s%s", n.name, e.Term, e.Index, e.TimeMillis, joinBytes(e.Commands), local)
	return out
}

func joinBytes(bs [][]byte) string {
	var s []string
	for _, b := range bs {
		s = append(s, string(b))
	}
	return strings.Join(s, " ")
}

type scriptGroup struct {
	t     *testing.T
	nodes []*scriptNode // by ID - 1
	queue []*pb.Message
	cut   map[string]bool // "1": all of node 1's links, "1>2": that one
	now   int64
	b     strings.Builder
}

func (g *scriptGroup) printf(format string, args ...any) { fmt.Fprintf(&g.b, format+"\n", args...) }

func (g *scriptGroup) add(n int) {
	var voters []uint64
	for id := uint64(1); id <= uint64(n); id++ {
		voters = append(voters, id)
	}
	for _, id := range voters {
		l := memLog{raft.NewMemoryStorage()}
		boot := &pb.Snapshot{Metadata: &pb.SnapshotMetadata{
			Index: new(uint64(bootIndex)), Term: new(uint64(bootTerm)), ConfState: &pb.ConfState{Voters: voters}}}
		if err := l.ApplySnapshot(boot); err != nil {
			g.t.Fatal(err)
		}
		if err := l.SetHardState(&pb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))}); err != nil {
			g.t.Fatal(err)
		}
		node := &scriptNode{out: g, name: fmt.Sprint(id)}
		r, err := NewReplica(ReplicaConfig{
			ID: id, Log: l, Machine: node, Applied: bootIndex,
			Send:      func(m *pb.Message) { g.queue = append(g.queue, m) },
			Install:   func(*pb.Snapshot, *pb.HardState) error { return errors.New("no snapshots here") },
			NowMillis: func() int64 { g.now++; return g.now },
			// Nothing here may depend on the randomized timeout.
			ElectionTicks: 1000, HeartbeatTicks: 1, MaxBatchCommands: 3, MaxBatchBytes: 1000, MaxInflightEntries: 3,
			Logger: &raftLogger{testDiscard},
		})
		if err != nil {
			g.t.Fatal(err)
		}
		node.r = r
		g.nodes = append(g.nodes, node)
	}
}

func (g *scriptGroup) process() {
	for _, n := range g.nodes {
		if err := n.r.Process(); err != nil {
			g.printf("%s: stops: %v", n.name, err)
		}
	}
}

// deliver passes messages on until none is left.
func (g *scriptGroup) deliver(verbose bool) {
	g.process()
	for len(g.queue) > 0 {
		queue := g.queue
		g.queue = nil
		sort.SliceStable(queue, func(i, j int) bool { return queue[i].GetFrom() < queue[j].GetFrom() })
		for _, m := range queue {
			from, to := fmt.Sprint(m.GetFrom()), fmt.Sprint(m.GetTo())
			lost := g.cut[from] || g.cut[to] || g.cut[from+">"+to]
			if verbose {
				mark := ""
				if lost {
					mark = " lost"
				}
				g.printf("%d→%d %v t%d %d/%d n%d c%d%s%s", m.GetFrom(), m.GetTo(), m.GetType(), m.GetTerm(),
					m.GetLogTerm(), m.GetIndex(), len(m.GetEntries()), m.GetCommit(), rejected(m), mark)
			}
			if lost {
				continue
			}
			if err := g.nodes[m.GetTo()-1].r.Step(m); err != nil {
				g.printf("%d: refuses: %v", m.GetTo(), err)
			}
		}
		g.process()
	}
}

func rejected(m *pb.Message) string {
	if m.GetReject() {
		return " rejected"
	}
	return ""
}

func (g *scriptGroup) propose(r *Replica, commands []string, async bool) {
	var ps []Proposal
	for _, c := range commands {
		ps = append(ps, Proposal{Command: []byte(c), Async: async, Done: func(res Result) {
			g.printf("%d: %s → index %d, outcome %q, error %v", r.cfg.ID, c, res.Index, res.Outcome, res.Err)
		}})
	}
	r.Propose(ps)
}

// step passes in a message that no correct peer sends.
func (g *scriptGroup) step(r *Replica, d *datadriven.TestData) {
	var from, term, index, commit uint64
	var typ string
	d.ScanArgs(g.t, "type", &typ)
	d.ScanArgs(g.t, "from", &from)
	d.MaybeScanArgs(g.t, "term", &term)
	d.MaybeScanArgs(g.t, "index", &index)
	d.MaybeScanArgs(g.t, "commit", &commit)
	err := r.Step(&pb.Message{Type: pb.MessageType(pb.MessageType_value[typ]).Enum(), From: &from, To: new(r.cfg.ID),
		Term: &term, Index: &index, Commit: &commit})
	g.printf("error: %v", err)
}

func (g *scriptGroup) run(d *datadriven.TestData) string {
	g.b.Reset()
	node := func() *scriptNode {
		var id int
		d.ScanArgs(g.t, "id", &id)
		return g.nodes[id-1]
	}
	words := strings.Fields(d.Input)
	switch d.Cmd {
	case "group":
		var n int
		d.ScanArgs(g.t, "n", &n)
		g.add(n)
	case "campaign":
		if err := node().r.rn.Campaign(); err != nil {
			g.printf("error: %v", err)
		}
	case "peer-down":
		var peer uint64
		d.ScanArgs(g.t, "peer", &peer)
		node().r.PeerDown(peer)
	case "tick":
		n := 1
		d.MaybeScanArgs(g.t, "n", &n)
		for range n {
			node().r.Tick()
		}
	case "propose":
		g.propose(node().r, words, d.HasArg("async"))
	case "read":
		n := node()
		n.r.Read(func(index uint64, err error) { g.printf("%s: read index %d, error %v", n.name, index, err) })
	case "await":
		n := node()
		var index uint64
		d.ScanArgs(g.t, "index", &index)
		n.r.Await(index, func(err error) { g.printf("%s: has applied %d, error %v", n.name, index, err) })
	case "transfer":
		var to uint64
		d.ScanArgs(g.t, "to", &to)
		n := node()
		n.r.TransferLeader(to, func(err error) { g.printf("%s: leadership handed over to %d, error %v", n.name, to, err) })
	case "step":
		g.step(node().r, d)
	case "cut":
		clear(g.cut)
		for _, w := range words {
			g.cut[w] = true
		}
	case "stop":
		node().r.Stop()
	case "drop":
		g.queue = nil
	case "deliver":
		g.deliver(d.HasArg("verbose"))
	case "status":
		for _, n := range g.nodes {
			r := n.r
			g.printf("%s: %v term %d leader %d commit %d applied %d pending %d queued %d", n.name, roleOf(r.role), r.term, r.lead,
				r.commit, r.applied, r.pending.len(), r.queue.len())
		}
	default:
		d.Fatalf(g.t, "unknown command %s", d.Cmd)
	}
	if !slices.Contains([]string{"group", "deliver", "status", "drop", "cut", "stop"}, d.Cmd) && !d.HasArg("hold") {
		g.process()
	}
	return g.b.String()
}

func TestReplicaScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/replica", func(t *testing.T, path string) {
		g := &scriptGroup{t: t, cut: map[string]bool{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return g.run(d) })
	})
}
