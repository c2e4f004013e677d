package node

import (
	"github.com/quorate/quorate/node/internal/gate"
	"github.com/quorate/quorate/node/internal/peer"
	"github.com/quorate/quorate/node/internal/stream"
	"github.com/quorate/quorate/node/internal/web"
	"github.com/quorate/quorate/raftstore"
)

// Parts of a memory budget. They are bounds that are seldom reached together:
// an idle node fills none of them, a busy one the first two.
const (
	cachePart      = 8  // Pebble's block cache
	memtablePart   = 32 // each of up to four memtables of the log
	mailboxPart    = 8  // commands that wait, of all shards
	checkpointPart = 8  // applied entries until a state checkpoint
	bodyPart       = 4  // one HTTP body or NDJSON chunk that carries many tasks
	arrivingPart   = 4  // bodies and messages that are not answered
	streamBytes    = 32 << 10
	connBytes      = 16 << 10
)

// storeBudget sizes the replicas' store.
func (c *Config) storeBudget(s *raftstore.Config, shards uint32) {
	s.DiskReserveBytes, s.DiskBudgetBytes = c.DiskReserveBytes, c.DiskBudgetBytes
	b := c.MemoryBudgetBytes
	if b == 0 {
		return
	}
	s.CacheBytes = b / cachePart
	s.MemTableBytes = int(b / memtablePart)
	s.MailboxBytes = max(int(b/mailboxPart)/int(shards), maxCommandBytes)
	s.CheckpointBytes = b / checkpointPart
	s.Engines = 1
}

// liveBytes is what the tasks in memory take here, about.
func (n *core) liveBytes() (sum int64) {
	for _, r := range *n.replicas.of.Load() {
		if r.machine != nil {
			sum += r.machine.held.Load()
		}
	}
	return sum
}

// memoryFull says that live tasks take all they may.
func (n *core) memoryFull() bool {
	b := n.cfg.MemoryBudgetBytes
	return b != 0 && n.liveBytes() >= b
}

// maxCommandBytes is raftstore's default bound of a command.
const maxCommandBytes = 4 << 20

func (c *Config) peerBudget(p *peer.Config) {
	if c.MemoryBudgetBytes != 0 {
		p.MaxFrameBytes = 16 << 20 // as everywhere: nodes of one cluster agree on it
		p.MaxQueueBytes = 2 * p.MaxFrameBytes
	}
}

func (c *Config) faceBudget(w *web.Config, s *stream.Config) {
	g, arriving := gate.Config{}, int64(0)
	if b := c.MemoryBudgetBytes; b != 0 {
		w.MaxBatchBytes = max(int(b/bodyPart), 2*c.MaxPayloadBytes+bodySlackBytes)
		g.InAll = int(b / streamBytes)
		s.MaxMessageBytes = min(2*c.MaxPayloadBytes+messageSlackBytes, stream.MaxMessageBytes)
		arriving = max(b/arrivingPart, int64(2*max(w.MaxBatchBytes, s.MaxMessageBytes)))
	}
	w.Bytes = gate.NewBytes(arriving)
	s.Bytes = w.Bytes
	w.Gate = gate.New(g)
	s.Gate = w.Gate
}

// connections is how many the API has open; 0: package gate's limit.
func (c *Config) connections() int { return int(c.MemoryBudgetBytes / connBytes) }

// messageSlackBytes is what a message may have beside the two payloads of one
// task: a client sends up to 1 MiB of other tasks or results with it.
const messageSlackBytes = 2 << 20

// bodySlackBytes is what a body has beside its payloads.
const bodySlackBytes = 64 << 10
