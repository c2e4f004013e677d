package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/quorate/quorate/chaos/proc"
)

// fault is one step of a schedule of faults.
type fault struct {
	wait  time.Duration // after the step before, with all nodes up
	kind  faultKind
	shard uint32 // kill and pause hit the leader of this shard
	down  time.Duration
}

type faultKind string

const (
	killLeader faultKind = "kill"  // SIGKILL, then start again
	stopLeader faultKind = "stop"  // SIGTERM, then start again
	hangLeader faultKind = "pause" // SIGSTOP, then SIGCONT: it comes back believing that it leads
	killTwo    faultKind = "kill2" // two of three: no quorum until they return
	killAll    faultKind = "kill3" // the power fails
)

// faultShares weighs the kinds: one fault is drawn uniformly from this list.
var faultShares = []faultKind{
	killLeader, killLeader, killLeader, killLeader, killLeader,
	hangLeader, hangLeader, stopLeader, killTwo, killAll,
}

// Bounds of a schedule's waits.
const (
	minFaultWait, maxFaultWait = 500 * time.Millisecond, 3 * time.Second
	minFaultDown, maxFaultDown = 200 * time.Millisecond, 4 * time.Second
)

// schedule draws faults for that long; the same seed and shards draw the same.
func schedule(seed uint64, shards uint32, duration time.Duration) []fault {
	rng := rand.New(rand.NewPCG(seed, seedNemesis))
	between := func(lo, hi time.Duration) time.Duration {
		return lo + time.Duration(rng.Int64N(int64(hi-lo)))
	}
	var out []fault
	for at := time.Duration(0); ; {
		f := fault{
			wait: between(minFaultWait, maxFaultWait), kind: faultShares[rng.IntN(len(faultShares))],
			shard: rng.Uint32N(shards), down: between(minFaultDown, maxFaultDown),
		}
		if at += f.wait + f.down; at > duration {
			return out
		}
		out = append(out, f)
	}
}

// nemesis carries a schedule out. Whatever it breaks it mends before the next
// step, so that one step is one kind of trouble.
type nemesis struct {
	cluster *proc.Cluster
	say     func(format string, args ...any)
	done    map[faultKind]int
}

func (n *nemesis) run(ctx context.Context, faults []fault) error {
	n.done = map[faultKind]int{}
	for _, f := range faults {
		if !pause(ctx, f.wait) {
			return nil
		}
		victims, err := n.victims(ctx, f)
		if err != nil {
			return err
		}
		n.say("%-5s %s for %v", f.kind, strings.Join(ids(victims), ", "), f.down.Round(time.Millisecond))
		if err := n.strike(ctx, f, victims); err != nil {
			return err
		}
		n.done[f.kind]++
	}
	return nil
}

// victims are the leader of the fault's shard and as many others as it takes.
func (n *nemesis) victims(ctx context.Context, f fault) ([]*proc.Node, error) {
	nodes := n.cluster.Nodes()
	first := nodes[int(f.shard)%len(nodes)] // when nobody leads
	if leaders, err := n.cluster.Leaders(ctx); err == nil {
		if l := n.cluster.Node(leaders[f.shard]); l != nil {
			first = l
		}
	}
	count := map[faultKind]int{killTwo: 2, killAll: len(nodes)}[f.kind]
	victims := []*proc.Node{first}
	for _, other := range nodes {
		if other != first && len(victims) < count {
			victims = append(victims, other)
		}
	}
	return victims, nil
}

// strike breaks the victims, waits, and mends them.
func (n *nemesis) strike(ctx context.Context, f fault, victims []*proc.Node) error {
	if f.kind == hangLeader {
		p := victims[0].Process()
		if err := p.Pause(); err != nil {
			return err
		}
		pause(ctx, f.down)
		return p.Resume()
	}
	for _, v := range victims {
		if f.kind == stopLeader {
			if err := v.Stop(ctx); err != nil {
				return err
			}
			continue
		}
		v.Kill()
	}
	pause(ctx, f.down)
	// Mend even when the time is up: the run ends with every node there.
	for _, v := range victims {
		if err := v.Start(); err != nil {
			return err
		}
	}
	for _, v := range victims {
		if err := v.AwaitReady(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("chaos: after %s: %w", f.kind, err)
		}
	}
	return nil
}

func ids(nodes []*proc.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.ID)
	}
	return out
}

// pause waits, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
