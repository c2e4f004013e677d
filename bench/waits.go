package bench

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// ApplyWaits is how often applying entries waited for a step of a checkpoint or a reader, on all nodes, and for how long.
type ApplyWaits struct {
	Count       uint64  `json:"count"`
	Seconds     float64 `json:"seconds"` // together
	Over20ms    uint64  `json:"over_20ms"`
	LongestMost float64 `json:"longest_most"` // seconds: none was longer; -1: longer than the metric's last bound
	bounds      []float64
	within      []uint64 // by bound, those of smaller ones included
}

const applyWaitMetric = "quorate_l5_apply_wait_seconds"

// scrape reads one metric of a node, which has no labels.
func scrape(ctx context.Context, client *http.Client, base, name string) (*dto.Metric, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("bench: metrics of %s: %w", base, err)
	}
	family := all[name]
	if family == nil || len(family.Metric) != 1 {
		return nil, fmt.Errorf("bench: metrics of %s have no %s", base, name)
	}
	return family.Metric[0], nil
}

// add reads a node's metric.
func (w *ApplyWaits) add(ctx context.Context, client *http.Client, base string) error {
	metric, err := scrape(ctx, client, base, applyWaitMetric)
	if err != nil {
		return err
	}
	h := metric.Histogram
	if h == nil {
		return fmt.Errorf("bench: metrics of %s: %s is no histogram", base, applyWaitMetric)
	}
	w.Count += h.GetSampleCount()
	w.Seconds += h.GetSampleSum()
	if w.within == nil {
		w.within = make([]uint64, len(h.Bucket))
		for _, b := range h.Bucket {
			w.bounds = append(w.bounds, b.GetUpperBound())
		}
	}
	for i, b := range h.Bucket {
		w.within[i] += b.GetCumulativeCount()
	}
	return nil
}

// since takes off what was before.
func (w ApplyWaits) since(before ApplyWaits) ApplyWaits {
	w.within = slices.Clone(w.within)
	w.Count, w.Seconds = w.Count-before.Count, w.Seconds-before.Seconds
	for i := range before.within {
		w.within[i] -= before.within[i]
	}
	if w.Count == 0 {
		return w
	}
	w.LongestMost = -1
	for i, n := range w.within {
		if w.bounds[i] == .02 {
			w.Over20ms = w.Count - n
		}
		if w.LongestMost < 0 && n == w.Count && w.bounds[i] < 1e9 { // the last bound may be infinite
			w.LongestMost = w.bounds[i]
		}
	}
	return w
}

func (w ApplyWaits) String() string {
	longest := fmt.Sprintf("the longest at most %g ms", 1000*w.LongestMost)
	if w.LongestMost < 0 {
		longest = "the longest beyond the metric's last bound"
	}
	return fmt.Sprintf("%d times by checkpoints and readers, %.0f ms together, %d times over 20 ms, %s", w.Count, 1000*w.Seconds, w.Over20ms, longest)
}
