package eval

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNegLogProb(t *testing.T) {
	assert.InDelta(t, math.Log(4), newSoftmax().negLogProb([]float32{7, 7, 7, 7}, 2), 1e-12)
	// softmax(0, ln 3) = 1/4, 3/4; a large common offset must not matter.
	logits := []float32{1000, 1000 + float32(math.Log(3))}
	assert.InDelta(t, math.Log(4), newSoftmax().negLogProb(logits, 0), 1e-4)
	assert.InDelta(t, math.Log(4.0/3), newSoftmax().negLogProb(logits, 1), 1e-4)
	assert.True(t, math.IsNaN(newSoftmax().negLogProb([]float32{1, float32(math.NaN())}, 0)))
}

func TestMoments(t *testing.T) {
	var m moments
	for _, v := range []float64{1, 2, 3, 4} {
		m.add(v)
	}
	e := m.estimate()
	assert.Equal(t, 2.5, e.Value)
	assert.InDelta(t, math.Sqrt(1.25/3), e.StdErr, 1e-12)
}

func TestParallelCallsEveryIndexOnce(t *testing.T) {
	for _, n := range []int{0, 1, 7, 100} {
		seen := make([]int32, n)
		parallel(n, func(i int) { seen[i]++ })
		for _, s := range seen {
			assert.EqualValues(t, 1, s)
		}
	}
}
