package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quorate/quorate/raftstore"
)

// headlessAfter is how long a shard may have no leader before the node says
// what its replica knows about it, once.
const headlessAfter = 5 * time.Second

// diagnoseLimit bounds the wait for an engine that may be stuck.
const diagnoseLimit = 2 * time.Second

// headless remembers since when which shards have no leader that this node
// knows.
type headless struct {
	since map[uint32]time.Time
	told  map[uint32]bool
}

// look finds the shards that are due to be told of, and those whose leader is
// there again after that.
func (h *headless) look(now time.Time, shards uint32, leader func(uint32) uint64) (due, back []uint32) {
	for shard := range shards {
		began, ok := h.since[shard]
		switch known := leader(shard) != 0; {
		case known && ok:
			if h.told[shard] {
				back = append(back, shard)
			}
			delete(h.since, shard)
			delete(h.told, shard)
		case !known && !ok:
			if h.since == nil {
				h.since, h.told = map[uint32]time.Time{}, map[uint32]bool{}
			}
			h.since[shard] = now
		case !known && !h.told[shard] && now.Sub(began) >= headlessAfter:
			h.told[shard] = true
			due = append(due, shard)
		}
	}
	return due, back
}

// watchHeadless logs, once a shard and loss, why there may be no leader.
func (n *core) watchHeadless(h *headless, now time.Time) {
	due, back := h.look(now, n.shards, func(shard uint32) uint64 {
		id, _ := n.leaders.of(shard)
		return id
	})
	for _, shard := range due {
		n.background(func() { n.cfg.Logger.Warn("no leader: "+n.whyHeadless(shard), "layer", 5, "shard", shard) })
	}
	for _, shard := range back {
		n.cfg.Logger.Info("a leader is known again", "layer", 5, "shard", shard)
	}
}

// whyHeadless describes what the replica here knows, in one line.
func (n *core) whyHeadless(shard uint32) string {
	var peers []string
	for _, p := range n.peers.Peers() {
		state := "down"
		if p.Up {
			state = "up"
		}
		peers = append(peers, fmt.Sprintf("%s %s since %s", n.nodeName(p.RaftID), state, p.Since.UTC().Format(time.TimeOnly)))
	}
	said := "; connections: " + strings.Join(peers, ", ")
	ctx, cancel := context.WithTimeout(n.ctx, diagnoseLimit)
	defer cancel()
	d, err := n.store.Diagnose(ctx, shard)
	switch {
	case errors.Is(err, raftstore.ErrNoShard):
		return "there is no replica here, and no node says that it leads" + said
	case err != nil:
		return fmt.Sprintf("the replica here does not answer (%v); disk stalled: %v, log write pending for %v%s", err, d.DiskStalled, d.DiskPending, said)
	}
	heard := []string{"nobody"}
	if len(d.Heard) > 0 {
		heard = nil
	}
	for _, h := range d.Heard {
		heard = append(heard, fmt.Sprintf("%s %s of term %d %d ticks ago", n.nodeName(h.RaftID), h.Type, h.Term, h.TicksAgo))
	}
	held := "none"
	if d.HeldRequests > 0 {
		held = fmt.Sprintf("%d for %d ticks, until the log is on the disk", d.HeldRequests, d.HeldTicks)
	}
	return fmt.Sprintf("raft %s term %d vote %q leader %q last %d commit %d applied %d, %d ticks without a leader, %d early campaigns left, silent %v (until %d), requests for votes held: %s, installs a snapshot %v, disk stalled %v, log write pending for %v; heard from: %s%s",
		d.State, d.Term, n.nodeName(d.Vote), n.nodeName(d.Leader), d.Last, d.Commit, d.Applied, d.LeaderlessTicks, d.Campaigns, d.Silent, d.SilentUntil,
		held, d.Installing, d.DiskStalled, d.DiskPending.Round(time.Millisecond), strings.Join(heard, ", "), said)
}
