package sim

import (
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// network carries messages between nodes and loses, delays, repeats and
// reorders them. A cut link takes nothing new; what is on its way arrives.
type network struct {
	s       *sim
	packets []*packet // in flight
	cut     map[[2]uint64]bool
	// Per mille of messages.
	lose, repeat, linger int
	splits               bool
}

// packet is one message, or one whole snapshot.
type packet struct {
	from, to uint64
	shard    uint32
	due      int
	msg      []byte
	snap     *snapshot
	sender   *replica // of a snapshot
}

func (w *network) delay() int {
	d := 1 + w.s.rng.IntN(3)
	if w.s.rng.IntN(1000) < w.linger {
		d += w.s.rng.IntN([]int{15, 50, 150}[w.s.rng.IntN(3)])
	}
	return w.s.now + d
}

func (w *network) send(from, to uint64, shard uint32, msg []byte) {
	w.s.sent++
	if w.cut[[2]uint64{from, to}] || w.s.rng.IntN(1000) < w.lose {
		return
	}
	for _, part := range w.split(msg) {
		w.packets = append(w.packets, &packet{from: from, to: to, shard: shard, due: w.delay(), msg: part})
		if w.s.rng.IntN(1000) < w.repeat {
			w.packets = append(w.packets, &packet{from: from, to: to, shard: shard, due: w.delay(), msg: part})
		}
	}
}

// split turns an append message into two, as a leader with a smaller limit
// would have sent it.
func (w *network) split(msg []byte) [][]byte {
	if !w.splits || w.s.rng.IntN(4) != 0 {
		return [][]byte{msg}
	}
	m := new(pb.Message)
	if err := proto.Unmarshal(msg, m); err != nil || m.GetType() != pb.MsgApp || len(m.GetEntries()) < 2 {
		return [][]byte{msg}
	}
	k := 1 + w.s.rng.IntN(len(m.GetEntries())-1)
	last := m.GetEntries()[k-1]
	first, second := proto.CloneOf(m), proto.CloneOf(m)
	first.Entries, second.Entries = first.GetEntries()[:k], second.GetEntries()[k:]
	second.Index, second.LogTerm = new(last.GetIndex()), new(last.GetTerm())
	var parts [][]byte
	for _, p := range []*pb.Message{first, second} {
		if w.s.rng.IntN(3) == 0 {
			continue // lost
		}
		b, err := proto.Marshal(p)
		if err != nil {
			w.s.failf("marshal: %v", err)
		}
		parts = append(parts, b)
	}
	return parts
}

func (w *network) stream(r *replica, to uint64, g *snapshot) {
	w.s.tracef("  shard %d: %d→%d snapshot of index %d begins", r.shard, r.n.id, to, g.index)
	w.packets = append(w.packets, &packet{from: r.n.id, to: to, shard: r.shard, due: w.delay() + w.s.rng.IntN(30), snap: g, sender: r})
}

// forget drops the snapshots a crashed node was sending.
func (w *network) forget(id uint64) {
	keep := w.packets[:0]
	for _, p := range w.packets {
		if p.snap == nil || p.from != id {
			keep = append(keep, p)
		}
	}
	w.packets = keep
}

// deliver hands over what is due, in random order.
func (w *network) deliver() {
	var due []*packet
	keep := w.packets[:0]
	for _, p := range w.packets {
		n := w.s.nodes[p.to-1]
		switch {
		case p.due > w.s.now:
			keep = append(keep, p)
		case n.up && n.paused > w.s.now:
			p.due = n.paused + w.s.rng.IntN(3)
			keep = append(keep, p)
		default:
			due = append(due, p)
		}
	}
	w.packets = keep
	w.s.rng.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
	for _, p := range due {
		w.hand(p)
	}
}

func (w *network) hand(p *packet) {
	n := w.s.nodes[p.to-1]
	lost := !n.up || n.replicas[p.shard] == nil
	if p.snap != nil {
		w.handSnapshot(p, lost)
		return
	}
	if lost {
		return
	}
	n.do(func() {
		r := n.replicas[p.shard]
		r.receive(p.from, p.msg)
		if w.s.rng.IntN(4) != 0 { // several messages may be stepped before one Process
			r.process()
		}
	})
}

func (w *network) handSnapshot(p *packet, lost bool) {
	n := w.s.nodes[p.to-1]
	ok := false
	if !lost && w.s.rng.IntN(1000) >= w.lose {
		life := n.life
		n.do(func() {
			if ok = n.replicas[p.shard].offer(p.from, p.snap); !ok {
				p.due = w.s.now + 1
				w.packets = append(w.packets, p)
			}
		})
		if !ok && n.up && n.life == life {
			return // later
		}
		ok = ok && n.up
	}
	s := p.sender
	if s.ended() {
		return
	}
	w.s.tracef("  shard %d: %d→%d snapshot of index %d ends: %v", s.shard, p.from, p.to, p.snap.index, ok)
	delete(s.streams, p.to)
	s.n.do(func() {
		s.ReportSnapshot(p.to, ok)
		s.process()
	})
}
