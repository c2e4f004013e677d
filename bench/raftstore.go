package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/quorate/quorate/node/bare"
	"github.com/quorate/quorate/raftstore"
)

// RaftstoreConfig says what [Raftstore] measures. Zero fields take the default given.
type RaftstoreConfig struct {
	// Command starts a process of the group; default: this program, `bench raftstore-node`.
	Command []string
	// Shards is measured for each number; default 1 and 48.
	Shards []int
	// PayloadBytes is the size of a proposal; default 128.
	PayloadBytes int
	// FollowUpBytes, if not 0, is the size of a second proposal after the answer to each; the two count once.
	FollowUpBytes int
	// InFlight is how many proposals are under way at saturation, over all shards; default 12,288.
	InFlight int
	// Duration is what is measured, after WarmUp; defaults 10 s and 2 s.
	Duration, WarmUp time.Duration
	// Profile, if not empty, is a directory for the CPU profile of each process at saturation.
	Profile string
	JSON    bool
	Out     io.Writer // default: nothing is printed
}

// saturated says how the proposals in flight are divided: clients enough for every shard and for three processes.
const (
	saturatedClients = 48
	saturatedBurst   = 32
	groupPeers       = 3
)

// RaftstoreRow is what was measured with one number of shards.
type RaftstoreRow struct {
	Shards       int        `json:"shards"`
	PayloadBytes int        `json:"payload_bytes"`
	InFlight     int        `json:"in_flight"`
	Saturated    LoadReport `json:"saturated"`
	OneAtATime   LoadReport `json:"one_at_a_time"`
}

func (c RaftstoreConfig) withDefaults() (RaftstoreConfig, error) {
	if len(c.Command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("bench: %w", err)
		}
		c.Command = []string{self, "bench", "raftstore-node"}
	}
	if len(c.Shards) == 0 {
		c.Shards = []int{1, 48}
	}
	if c.PayloadBytes == 0 {
		c.PayloadBytes = 128
	}
	if c.InFlight == 0 {
		c.InFlight = 12288
	}
	if c.Duration == 0 {
		c.Duration = 10 * time.Second
	}
	if c.WarmUp == 0 {
		c.WarmUp = 2 * time.Second
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	return c, nil
}

// Raftstore measures proposals through replication alone: three processes on loopback, fsync on a quorum before every
// answer, the generator in the process that leads. For each number of shards: proposals a second with many in flight,
// then one at a time.
func Raftstore(ctx context.Context, cfg RaftstoreConfig) ([]RaftstoreRow, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var rows []RaftstoreRow
	for _, shards := range cfg.Shards {
		row, err := measureGroup(ctx, cfg, shards)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if cfg.JSON {
		enc := json.NewEncoder(cfg.Out)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return rows, fmt.Errorf("bench: %w", err)
			}
		}
		return rows, nil
	}
	return rows, printRaftstore(cfg.Out, rows)
}

func measureGroup(ctx context.Context, cfg RaftstoreConfig, shards int) (RaftstoreRow, error) {
	row := RaftstoreRow{Shards: shards, PayloadBytes: cfg.PayloadBytes, InFlight: cfg.InFlight}
	g, err := StartGroup(ctx, GroupConfig{Command: cfg.Command, Peers: groupPeers, Shards: shards})
	if err != nil {
		return row, err
	}
	defer g.Close()
	depth := max(cfg.InFlight/saturatedClients, 1)
	spec := LoadSpec{Clients: saturatedClients, Depth: depth, Burst: min(depth, saturatedBurst), PayloadBytes: cfg.PayloadBytes, FollowUpBytes: cfg.FollowUpBytes,
		WarmUp: cfg.WarmUp, Duration: cfg.Duration, Profile: cfg.Profile}
	if row.Saturated, err = g.Load(ctx, spec); err != nil {
		return row, err
	}
	spec.Clients, spec.Depth, spec.Burst, spec.Profile = min(shards, groupPeers), 1, 1, ""
	row.OneAtATime, err = g.Load(ctx, spec)
	return row, err
}

func printRaftstore(out io.Writer, rows []RaftstoreRow) error {
	fmt.Fprintf(out, "replication alone: %d processes, fsync on a quorum before every answer, generator in the leader's process\n", groupPeers)
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "shards\tload\tproposals/s\tp50 ms\tp99 ms\tp99.9 ms\tcore-µs each, all processes")
	for _, r := range rows {
		one := "one at a time"
		if r.Shards > 1 {
			one = "one at a time in each process"
		}
		for _, l := range []struct {
			name string
			rep  LoadReport
		}{{fmt.Sprintf("%d in flight", r.InFlight), r.Saturated}, {one, r.OneAtATime}} {
			fmt.Fprintf(t, "%d\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\n", r.Shards, l.name, l.rep.PerSecond,
				l.rep.Latency.P50Millis, l.rep.Latency.P99Millis, l.rep.Latency.P999Millis, l.rep.CoreMicro)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// RaftstoreNode is a process of the group that [Raftstore] measures.
func RaftstoreNode(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	a, err := ParseGroupArgs(args)
	if err != nil {
		return err
	}
	p, err := bare.Open(bare.Config{Dir: a.Dir, Addrs: a.Addrs, Index: a.Index, Shards: uint32(a.Shards),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		OnFatal: func(err error) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}})
	if err != nil {
		return err
	}
	err = ServeProposer(ctx, in, out, a.Index, len(a.Addrs), bareProposer{p})
	return errors.Join(err, p.Close())
}

type bareProposer struct{ *bare.Peer }

func (b bareProposer) Pipeline(shard uint32) (func([][]byte, func(error)), func()) {
	propose := func(commands [][]byte, done func(error)) {
		answer := func(r raftstore.Result) { done(r.Err) }
		ps := make([]raftstore.Proposal, len(commands))
		for i, c := range commands {
			ps[i] = raftstore.Proposal{Command: c, Done: answer}
		}
		b.Propose(shard, ps)
	}
	return propose, func() {}
}
