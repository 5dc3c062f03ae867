package dot

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Activations that are not finite, or too large for float32 sums, give a tile the scale NaN on every instruction set, with 8 and
// 16 bits, wherever they stand; what is only small or only large does not.
func TestActivationsThatAreNotFiniteHaveNoScale(t *testing.T) {
	const steps = 3
	for _, kernels := range Available() {
		for _, bits := range []int{8, 16} {
			k := kernels.WithBits(bits)
			for _, n := range []int{steps * StepCols, steps*StepCols - 5} {
				quantize := func(at int, value, others float32) float32 {
					x := make([]float32, n)
					for i := range x {
						x[i] = others
					}
					x[at] = value
					scale, _ := k.Quantize(make([]int8, 2*StepCols*steps), x)
					return scale
				}
				for _, at := range []int{0, 1, 15, 16, 63, 64, 100, n - 1} {
					for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 2e30, -3e38} {
						scale := quantize(at, float32(bad), 1)
						require.True(t, scale != scale, "%s, %d bits: %g at %d of %d", k, bits, bad, at, n)
					}
					require.Greater(t, quantize(at, -1e30, 1), float32(1e20))
					require.Zero(t, quantize(at, 1e-31, 0))
					require.Greater(t, quantize(at, 1e-20, 0), float32(0))
				}
			}
		}
	}
}
