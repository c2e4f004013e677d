package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// SearchConfig says which seeds to simulate.
type SearchConfig struct {
	Seed  uint64 // the first; 0: 1
	Seeds int    // how many; 0: 1
	Steps int    // of each; 0: DefaultSteps
	Plant Plant
	Trace bool      // write what happens; for one seed
	Out   io.Writer // progress and result
}

// ErrFound: at least one seed broke an invariant.
var ErrFound = errors.New("an invariant is broken")

// Search simulates seeds one after the other and tells of each that fails. It
// ends early, without an error, when ctx does.
func Search(ctx context.Context, cfg SearchConfig) error {
	if cfg.Plant != PlantNone && !slices.Contains(Plants, cfg.Plant) {
		return fmt.Errorf("no mistake %q can be planted; there are %v", cfg.Plant, Plants)
	}
	cfg.Seed, cfg.Seeds = max(cfg.Seed, 1), max(cfg.Seeds, 1)
	var total Stats
	began, told, failed, ran := time.Now(), time.Now(), 0, 0
	for i := range cfg.Seeds {
		if ctx.Err() != nil {
			break
		}
		run := Config{Seed: cfg.Seed + uint64(i), Steps: cfg.Steps, Plant: cfg.Plant}
		if cfg.Trace {
			run.Trace = cfg.Out
		}
		st, err := Run(run)
		total.add(st)
		ran++
		if err != nil {
			failed++
			fmt.Fprintln(cfg.Out, err)
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			fmt.Fprintf(cfg.Out, "%d of %d seeds, %d failed\n", ran, cfg.Seeds, failed)
		}
	}
	fmt.Fprintf(cfg.Out, "%d seeds from %d in %.1f s, %d failed: %d messages, %d entries, %d commands acknowledged, %d reads, %d elections, %d crashes, %d checkpoints, %d snapshots installed, %d digests compared, %d changes of members\n",
		ran, cfg.Seed, time.Since(began).Seconds(), failed, total.Messages, total.Entries, total.Acknowledged, total.Reads, total.Elections,
		total.Crashes, total.Checkpoints, total.Installs, total.Comparisons, total.Changes)
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d seeds", ErrFound, failed, ran)
	}
	return nil
}

const tellEvery = 10 * time.Second
