package eval

import (
	"math"
	"slices"
)

// Estimate is a mean with its standard error.
type Estimate struct {
	Value  float64 `json:"value"`
	StdErr float64 `json:"stderr"`
}

// moments accumulates a mean and its standard error. It is also what an evaluation's state keeps of a chunk.
type moments struct {
	N   int     `json:"n"`
	Sum float64 `json:"sum"`
	Sq  float64 `json:"sq"`
}

func (m *moments) add(v float64) {
	m.N++
	m.Sum += v
	m.Sq += v * v
}

func (m *moments) merge(o moments) {
	m.N += o.N
	m.Sum += o.Sum
	m.Sq += o.Sq
}

func (m moments) estimate() Estimate {
	if m.N < 2 {
		return Estimate{Value: m.Sum}
	}
	mean := m.Sum / float64(m.N)
	variance := m.Sq/float64(m.N) - mean*mean
	return Estimate{mean, math.Sqrt(max(variance, 0) / float64(m.N-1))}
}

// share is the estimate of a probability from hits among n trials.
func share(hits, n int) Estimate {
	if n == 0 {
		return Estimate{}
	}
	p := float64(hits) / float64(n)
	return Estimate{p, math.Sqrt(p * (1 - p) / float64(max(n-1, 1)))}
}

func momentsOf(values []float32, f func(float64) float64) moments {
	var m moments
	for _, v := range values {
		m.add(f(float64(v)))
	}
	return m
}

// covariance returns the covariance of the means of a and b.
func covariance(a, b []float32) float64 {
	if len(a) < 2 {
		return 0
	}
	n := float64(len(a))
	var sa, sb, sab float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		sa, sb, sab = sa+x, sb+y, sab+x*y
	}
	return (sab/n - sa/n*(sb/n)) / (n - 1)
}

// Distribution describes a sample by its order statistics; percentiles between two values are interpolated.
type Distribution struct {
	Min    float64 `json:"min"`
	P1     float64 `json:"p1"`
	P10    float64 `json:"p10"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P95    float64 `json:"p95"`
	P99    float64 `json:"p99"`
	P999   float64 `json:"p99.9"`
	Max    float64 `json:"max"`
}

func distribution(values []float32) Distribution {
	if len(values) == 0 {
		return Distribution{}
	}
	v := slices.Sorted(slices.Values(values))
	at := func(fraction float64) float64 {
		p := fraction * float64(len(v)-1)
		i := int(p)
		p -= float64(i)
		return (1-p)*float64(v[i]) + p*float64(v[min(i+1, len(v)-1)])
	}
	return Distribution{at(0), at(.01), at(.1), at(.5), at(.9), at(.95), at(.99), at(.999), at(1)}
}
