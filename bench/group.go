package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/quorate/quorate/chaos/proc"
)

// GroupConfig says how to start the processes of a group. All fields are required.
type GroupConfig struct {
	// Command starts a process that calls [ServeProposer]: Command, then the arguments of [GroupArgs].
	Command []string
	Peers   int
	Shards  int
}

// GroupArgs are the arguments every process of a group is given.
type GroupArgs struct {
	Dir    string
	Addrs  []string
	Index  int
	Shards int
}

// ParseGroupArgs is the inverse of what a [Group] passes: directory, addresses, index, shards.
func ParseGroupArgs(args []string) (GroupArgs, error) {
	var g GroupArgs
	if len(args) != 4 {
		return g, fmt.Errorf("bench: %d arguments: want DIRECTORY ADDRESS,… INDEX SHARDS", len(args))
	}
	g.Dir, g.Addrs = args[0], strings.Split(args[1], ",")
	var err error
	if g.Index, err = strconv.Atoi(args[2]); err == nil {
		g.Shards, err = strconv.Atoi(args[3])
	}
	if err != nil || g.Dir == "" || g.Index < 0 || g.Index >= len(g.Addrs) || g.Shards < 1 {
		return g, fmt.Errorf("bench: arguments %q: want DIRECTORY ADDRESS,… INDEX SHARDS", args)
	}
	return g, nil
}

// How long a group may take.
const (
	electWait   = 60 * time.Second // until every shard is led where it should be
	groupEnd    = 20 * time.Second // to close on its own, then it is killed
	answerGrace = 60 * time.Second // beyond the time that load takes
)

// Group is a set of processes that replicate commands, on loopback and in a temporary directory.
type Group struct {
	cfg     GroupConfig
	dir     string
	members []*member
}

type member struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	log  string
}

// StartGroup starts the processes and waits until shard i is led by process i modulo their number.
func StartGroup(ctx context.Context, cfg GroupConfig) (*Group, error) {
	if len(cfg.Command) == 0 || cfg.Peers < 1 || cfg.Peers > proc.MaxNodes || cfg.Shards < 1 {
		return nil, fmt.Errorf("bench: group of %d processes with %d shards, command %q", cfg.Peers, cfg.Shards, cfg.Command)
	}
	addrs, err := proc.Addrs(cfg.Peers)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "quorate-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	g := &Group{cfg: cfg, dir: dir}
	for i := range addrs {
		m, err := startMember(cfg.Command, GroupArgs{Dir: filepath.Join(dir, strconv.Itoa(i)), Addrs: addrs, Index: i, Shards: cfg.Shards})
		if err != nil {
			g.Close()
			return nil, err
		}
		g.members = append(g.members, m)
	}
	if err := g.balance(ctx); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func startMember(command []string, a GroupArgs) (*member, error) {
	args := append(command[1:len(command):len(command)], a.Dir, strings.Join(a.Addrs, ","), strconv.Itoa(a.Index), strconv.Itoa(a.Shards))
	m := &member{name: fmt.Sprintf("process %d", a.Index), cmd: exec.Command(command[0], args...), log: a.Dir + ".log"}
	log, err := os.Create(m.log)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer log.Close() // the process has its own
	m.cmd.Stderr = log
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	m.out = bufio.NewScanner(out)
	m.out.Buffer(nil, 1<<20) // a histogram is some tens of kilobytes
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return m, nil
}

// ask gives an order and waits for the answer. When ctx ends, the process is killed: it has lost step.
func (m *member) ask(ctx context.Context, o order) (answer, error) {
	var a answer
	b, err := json.Marshal(o)
	if err != nil {
		return a, fmt.Errorf("bench: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = m.cmd.Process.Kill() })
	defer stop()
	if _, err = m.in.Write(append(b, '\n')); err == nil {
		if m.out.Scan() {
			err = json.Unmarshal(m.out.Bytes(), &a)
		} else if err = m.out.Err(); err == nil {
			err = io.ErrUnexpectedEOF
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return a, fmt.Errorf("bench: %s: %s: %w; its log ends:\n%s", m.name, o.Do, err, proc.LogTail(m.log, 2048))
	}
	return a, nil
}

// balance waits until every shard is led where it should be.
func (g *Group) balance(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, electWait)
	defer cancel()
	for {
		right := 0
		for i, m := range g.members {
			if _, err := m.ask(ctx, order{Do: "balance"}); err != nil {
				return err
			}
			a, err := m.ask(ctx, order{Do: "leads"})
			if err != nil {
				return err
			}
			for _, shard := range a.Leads {
				if int(shard)%len(g.members) == i {
					right++
				}
			}
		}
		if right == g.cfg.Shards {
			return nil
		}
		// Elections and transfers are asynchronous, and nobody tells of them here.
		if !pause(ctx, retryPause) {
			return fmt.Errorf("bench: %d of %d shards are led where they should be after %v", right, g.cfg.Shards, electWait)
		}
	}
}

// LoadReport is what a group did under load.
type LoadReport struct {
	PerSecond float64   `json:"per_second"`
	Latency   Quantiles `json:"latency"`
	CoreMicro float64   `json:"core_us_each"` // of all processes, generators included, per command
}

// Load gives the processes that lead shards load: each its part of the clients. The others only follow.
func (g *Group) Load(ctx context.Context, spec LoadSpec) (LoadReport, error) {
	var rep LoadReport
	ctx, cancel := context.WithTimeout(ctx, spec.WarmUp+spec.Duration+answerGrace)
	defer cancel()
	loaders := min(g.cfg.Shards, len(g.members))
	if spec.Clients%loaders != 0 {
		return rep, fmt.Errorf("bench: %d clients on %d processes", spec.Clients, loaders)
	}
	spec.Clients /= loaders
	answers := make([]answer, len(g.members))
	errs := make([]error, len(g.members))
	var wg sync.WaitGroup
	for i, m := range g.members {
		wg.Go(func() { answers[i], errs[i] = m.ask(ctx, order{Do: "load", Load: &spec}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return rep, err
	}
	hist := hdrhistogram.New(1, maxLatency.Microseconds(), latencyDigits)
	var acked int64
	var cpu time.Duration
	for _, a := range answers {
		if a.Load == nil {
			return rep, errors.New("bench: an answer without a result")
		}
		rep.PerSecond += float64(a.Load.Acked) / a.Load.Seconds
		acked += a.Load.Acked
		cpu += a.Load.CPU
		if len(a.Load.Hist) == 0 {
			continue
		}
		h, err := hdrhistogram.Decode(a.Load.Hist)
		if err != nil {
			return rep, fmt.Errorf("bench: histogram: %w", err)
		}
		hist.Merge(h)
	}
	if acked == 0 {
		return rep, errors.New("bench: nothing was acknowledged")
	}
	rep.Latency, rep.CoreMicro = quantilesOf(hist), float64(cpu.Microseconds())/float64(acked)
	return rep, nil
}

// Close ends the processes and removes what they wrote.
func (g *Group) Close() {
	for _, m := range g.members {
		_ = m.in.Close() // tells it to end
	}
	for _, m := range g.members {
		t := time.AfterFunc(groupEnd, func() { _ = m.cmd.Process.Kill() })
		_ = m.cmd.Wait() // what it measured is known already
		t.Stop()
	}
	_ = os.RemoveAll(g.dir) // temporary
}
