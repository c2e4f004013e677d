package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Spread gives the least, the median and the greatest of what was measured,
// which must not be empty.
func Spread(values []float64) (lo, median, hi float64) {
	v := slices.Sorted(slices.Values(values))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return v[0], mid, v[len(v)-1]
}

// resamples is how often a bootstrap draws: the ends of a 95 % interval then rest on 250 draws each.
const resamples = 10_000

// Interval is the 95 % percentile-bootstrap interval (Efron 1979) of what
// statistic makes of the medians of series: it is called with the medians of as
// many draws with replacement. The seed is fixed: the same figures give the same
// answer. With three figures it is little more than the extremes.
func Interval(series [][]float64, statistic func(medians []float64) float64) (lo, hi float64) {
	r := rand.New(rand.NewPCG(1, 2))
	draws, medians := make([]float64, resamples), make([]float64, len(series))
	for i := range draws {
		for k, values := range series {
			drawn := make([]float64, len(values))
			for j := range drawn {
				drawn[j] = values[r.IntN(len(values))]
			}
			_, medians[k], _ = Spread(drawn)
		}
		draws[i] = statistic(medians)
	}
	slices.Sort(draws)
	return draws[resamples*25/1000], draws[resamples*975/1000-1]
}

// Verdict says whether a change whose interval of after / before is [lo, hi]
// is more than noise. An end that is not a number (nothing was done in a run,
// before and after) shows nothing.
func Verdict(lo, hi float64, lowerIsBetter bool) string {
	less, more := hi < 1, lo > 1
	switch {
	case less && lowerIsBetter, more && !lowerIsBetter:
		return "better"
	case less, more:
		return "worse"
	}
	return "not beyond the noise"
}

// Figure prints three or more significant digits and no more than two after the point.
func Figure(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
