package eval

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMoments(t *testing.T) {
	var m, a, b moments
	for i, v := range []float64{1, 2, 3, 4} {
		m.add(v)
		if i < 3 {
			a.add(v)
		} else {
			b.add(v)
		}
	}
	e := m.estimate()
	assert.Equal(t, 2.5, e.Value)
	assert.InDelta(t, math.Sqrt(1.25/3), e.StdErr, 1e-12)
	a.merge(b)
	assert.Equal(t, m, a)
}

func TestDistribution(t *testing.T) {
	var v []float32
	for i := range 1001 {
		v = append(v, float32(i*5%1001)) // 0 … 1000 in disorder
	}
	d := distribution(v)
	assert.InDeltaMapValues(t, map[string]float64{"min": 0, "1": 10, "10": 100, "50": 500, "90": 900, "95": 950, "99": 990,
		"99.9": 999, "max": 1000},
		map[string]float64{"min": d.Min, "1": d.P1, "10": d.P10, "50": d.Median, "90": d.P90, "95": d.P95, "99": d.P99,
			"99.9": d.P999, "max": d.Max}, 1e-9)
	assert.Equal(t, 2.5, distribution([]float32{4, 1, 3, 2}).Median)
	assert.Equal(t, 7.0, distribution([]float32{7}).P999)
	assert.Zero(t, distribution(nil))
}

func TestShare(t *testing.T) {
	assert.Equal(t, Estimate{0.5, 0.5 / math.Sqrt(99)}, share(50, 100))
	assert.Equal(t, Estimate{1, 0}, share(3, 3))
	assert.Zero(t, share(0, 0))
}

func TestResultOfIdenticalPredictions(t *testing.T) {
	rows := kldRows{NLL: []float32{1, 2, 3}, RefNLL: []float32{1, 2, 3}, KLD: []float32{0, 0, 0}, SameTop: 3}
	r := rows.result()
	assert.Equal(t, Estimate{1, 0}, r.Ratio)
	assert.InDelta(t, 1, r.Correlation, 1e-9)
	assert.Equal(t, r.Perplexity, r.ReferencePerplexity)
	assert.Zero(t, r.DeltaPRMS)
	assert.Equal(t, 1.0, r.SameTop.Value)
}
