// Command peers measures Quorate and what a user would pick instead, in turn within one run, on this machine. It is a
// module of its own, so that nobody who uses Quorate inherits what it needs.
//
// A [Workload] has Quorate and its peers as contenders; adding one is a file that declares it and a line in workloads.
// Servers of peers are this program again, in a role (see roles), or programs that are installed; they listen on free
// loopback ports, keep their data in temporary directories, and end with the harness, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// roles are what this program is when the harness starts it again, by the first argument.
var roles = map[string]func(args []string) error{
	"dragonboat-node": dragonboatNode,
	"etcd-node":       etcdNode,
	"nats-node":       natsNode,
	"program":         programNode,
}

func main() {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
				os.Exit(1)
			}
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench-peers:", err)
		os.Exit(1)
	}
}

// Limits of the flags.
const (
	maxRounds   = 99
	maxDuration = time.Hour
)

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench-peers", flag.ContinueOnError)
	names := f.String("workload", "lifecycle", "comma-separated: lifecycle, embedded, raftstore, sched")
	peers := f.String("peers", "", "comma-separated; default: all of the workload that can run here")
	asJSON := f.Bool("json", false, "print one JSON object a line")
	before := f.String("compare", "", "a file that -json printed, to be compared with a second one, named as the only argument")
	rounds := f.Int("rounds", 3, "turns of each contender")
	o := Options{}
	f.StringVar(&o.Quorate, "quorate", "bin/quorate", "the quorate executable")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "what is measured of each metric, each round; figures to be quoted: 30s")
	f.DurationVar(&o.WarmUp, "warm-up", 2*time.Second, "load before anything counts")
	rates := f.String("rates", "2000,8000", "tasks a second at which lifecycle measures latency; empty: none")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *before != "" && f.NArg() == 1 {
		return compareFiles(os.Stdout, *before, f.Arg(0))
	}
	if f.NArg() > 0 || *before != "" || *rounds < 1 || *rounds > maxRounds || o.Duration <= 0 || o.Duration > maxDuration || o.WarmUp < 0 || o.WarmUp > maxDuration {
		return errors.New("want rounds from 1 to 99, a duration up to an hour, and no further arguments (with -compare OLD: one, NEW)")
	}
	var err error
	if o.Rates, err = parseRates(*rates); err != nil {
		return err
	}
	o.Logf = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	for name := range strings.SplitSeq(*names, ",") {
		w, err := findWorkload(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		chosen, err := w.choose(*peers, o.Logf)
		if err != nil {
			return err
		}
		lines, err := takeTurns(ctx, w, chosen, *rounds, o)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(os.Stdout, lines)
		} else {
			err = printTable(os.Stdout, w, chosen, lines)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxRate bounds -rates.
const maxRate = 1_000_000

func parseRates(list string) (rates []int, err error) {
	if list == "" {
		return nil, nil
	}
	for s := range strings.SplitSeq(list, ",") {
		r, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || r < 1 || r > maxRate {
			return nil, fmt.Errorf("rate %q: want 1 to %d", s, maxRate)
		}
		rates = append(rates, r)
	}
	return rates, nil
}
