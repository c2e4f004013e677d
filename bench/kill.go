package bench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/ledger"
)

// killWatch waits for the first completion on each shard whose leader was
// killed. It counts from just before the SIGKILL, and only completions that
// were asked for after it: one asked for before may have been decided already.
type killWatch struct {
	at      atomic.Int64 // nanoseconds on the measurement's clock; 0: no kill
	waiting atomic.Int64 // shards without a completion
	mu      struct {
		sync.Mutex
		node  string
		first map[uint32]time.Duration // since the kill; negative: none yet
	}
}

// noneYet marks a shard without a completion.
const noneYet = time.Duration(-1)

// killLeader kills the node that leads most task shards.
func (m *measurement) killLeader(ctx context.Context) error {
	leaders, err := m.cluster.Leaders(ctx)
	if err != nil {
		return err
	}
	led := map[string][]uint32{}
	for shard, id := range leaders {
		if shard != 0 { // no task lives on the control shard
			led[id] = append(led[id], shard)
		}
	}
	var victim string
	for _, id := range slices.Sorted(maps.Keys(led)) {
		if victim == "" || len(led[id]) > len(led[victim]) {
			victim = id
		}
	}
	node := m.cluster.Node(victim)
	if node == nil {
		return fmt.Errorf("bench: leader %q is none of the nodes", victim)
	}
	m.kill.begin(victim, led[victim], m.Since())
	node.Kill()
	return nil
}

func (k *killWatch) begin(node string, shards []uint32, at time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.node, k.mu.first = node, map[uint32]time.Duration{}
	for _, s := range shards {
		k.mu.first[s] = noneYet
	}
	k.waiting.Store(int64(len(shards)))
	k.at.Store(int64(at))
}

// completed takes note of a completion asked for at began and answered at now.
func (k *killWatch) completed(id string, began, now time.Duration) {
	at := time.Duration(k.at.Load())
	if at == 0 || began < at || k.waiting.Load() == 0 {
		return
	}
	t, err := ledger.ParseTaskID(id)
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if first, ok := k.mu.first[t.Shard()]; ok && first == noneYet {
		k.mu.first[t.Shard()] = now - at
		k.waiting.Add(-1)
	}
}

// KillReport says how long the shards of a killed leader stood still.
type KillReport struct {
	Node string `json:"node"`
	// FirstMillis is the time from the SIGKILL to the first completion that
	// was asked for after it, by shard; -1: there was none.
	FirstMillis map[uint32]int64 `json:"first_completion_ms"`
	WorstMillis int64            `json:"worst_ms"` // -1: a shard had none
}

func (k *killWatch) report() *KillReport {
	if k.at.Load() == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r := &KillReport{Node: k.mu.node, FirstMillis: map[uint32]int64{}}
	for shard, d := range k.mu.first {
		ms := int64(-1)
		if d != noneYet {
			ms = d.Milliseconds()
		}
		r.FirstMillis[shard] = ms
		if ms < 0 || r.WorstMillis < 0 {
			r.WorstMillis = -1
		} else {
			r.WorstMillis = max(r.WorstMillis, ms)
		}
	}
	return r
}
