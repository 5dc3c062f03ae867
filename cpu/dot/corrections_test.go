package dot

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// TestCorrections checks products of rows with corrections, the most extreme and several of one code among them.
func TestCorrections(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, steps := range []int{1, 5, MaxSteps} {
		for _, every := range []int{1, 20, 1000, 1 << 20} {
			const rows, width = 9, 5
			codes, x, q := sample(rng, width, rows, steps)
			for i := range x {
				x[i] = max(-1, min(1, 3*x[i])) // many of the largest numbers
			}
			With(isa.Generic).Quantize(q, x)
			want, start := make([]int64, rows), []uint32{5}
			list := make([]uint16, 5)
			for r := range rows {
				for c := range steps * StepCols {
					code := int64(codes[r*steps*StepCols+c])
					for rng.IntN(every) == 0 && len(list) < 1<<16 {
						delta := [...]int{MinCorrection, MaxCorrection, 1, -1}[rng.IntN(4)]
						list = append(list, PackCorrection(c, delta))
						code += int64(delta)
						if every == 1 {
							break
						}
					}
					want[r] += code * value(q, c)
				}
				start = append(start, uint32(len(list)))
			}
			for _, k := range Available() {
				w := pack(k, width, rows, steps, codes)
				w.Correct, w.CorrectStart = list, start
				out := make([]int32, 2*rows)
				k.Dot(out, w, q)
				// As backends do for few tokens; 100 sums are less than some rows have.
				w.Values, w.Sums, w.Ahead = make([]int16, steps*StepCols), make([]int32, 100), make([]byte, 9000)
				k.Values(w.Values, q, steps)
				again := make([]int32, 2*rows)
				k.Dot(again, w, q)
				for r := range rows {
					require.Equal(t, want[r], int64(out[2*r])*256+int64(out[2*r+1]), "%s, %d steps, one in %d", k, steps, every)
				}
				require.Equal(t, out, again, "%s, %d steps, one in %d, with memory", k, steps, every)
			}
		}
	}
	for _, delta := range []int{MinCorrection, -1, 0, MaxCorrection} {
		col, got := UnpackCorrection(PackCorrection(2047, delta))
		require.Equal(t, 2047, col)
		require.Equal(t, delta, got)
	}
}

func BenchmarkDotCorrections(b *testing.B) {
	rng := rand.New(rand.NewPCG(8, 8))
	const rows, steps = 32, 24
	for _, every := range []int{200, 50, 25} {
		codes, x, q := sample(rng, 4, rows, steps)
		With(isa.Generic).Quantize(q, x)
		for _, k := range Available()[1:] {
			w := pack(k, 4, rows, steps, codes)
			w.CorrectStart = []uint32{0}
			for range rows {
				for c := rng.IntN(every); c < steps*StepCols; c += 1 + rng.IntN(2*every) {
					w.Correct = append(w.Correct, PackCorrection(c, 1+rng.IntN(5)))
				}
				w.CorrectStart = append(w.CorrectStart, uint32(len(w.Correct)))
			}
			w.Values, w.Sums = make([]int16, steps*StepCols), make([]int32, CorrectionSums) // as backends do for few tokens
			k.Values(w.Values, q, steps)
			out := make([]int32, 2*rows)
			b.Run(fmt.Sprintf("%s/width=4/one in %d", k, every), func(b *testing.B) {
				for b.Loop() {
					k.Dot(out, w, q)
				}
				b.ReportMetric(float64(len(codes))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
			})
		}
	}
}
