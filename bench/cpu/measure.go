package main

import (
	"math"
	"runtime"
	"slices"
	"time"
)

// work is something to measure: run does `amount` of it (weights, bytes, tokens).
type work struct {
	amount float64
	run    func() error
}

// rates measures all works in turn, `rounds` times, and returns amounts per second, [work][round]. Each measurement repeats its
// work for at least the given time, after one that does not count.
func rates(works []work, rounds int, each time.Duration) ([][]float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := make([][]float64, len(works))
	for round := range rounds + 1 {
		for i, w := range works {
			n, start := 0.0, time.Now()
			for time.Since(start) < each || n == 0 {
				if err := w.run(); err != nil {
					return nil, err
				}
				n += w.amount
			}
			if round > 0 {
				out[i] = append(out[i], n/time.Since(start).Seconds())
			}
		}
	}
	return out, nil
}

// median returns the middle of v, or of the two in the middle the mean; NaN of nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// medianRatio returns the median of a[i]/b[i].
func medianRatio(a, b []float64) float64 {
	var q []float64
	for i := range min(len(a), len(b)) {
		q = append(q, a[i]/b[i])
	}
	return median(q)
}
