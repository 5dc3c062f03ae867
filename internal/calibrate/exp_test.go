package calibrate

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExp(t *testing.T) {
	worst := 0.0
	for x := -60.0; x < 88; x += 0.0137 {
		want := math.Exp(float64(float32(x)))
		worst = max(worst, math.Abs(float64(exp(float32(x)))-want)/want)
	}
	require.Less(t, worst, math.Exp2(-21))
	require.Less(t, exp(float32(math.Inf(-1))), float32(1e-26))
}

func BenchmarkExp(b *testing.B) {
	x := float32(-3)
	for b.Loop() {
		for range 1000 {
			x = -exp(x) - 1
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/exp")
}
