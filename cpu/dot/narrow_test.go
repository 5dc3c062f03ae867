package dot

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// narrowInputs are activations of `steps` steps: some of one size, some with steps of very different sizes, zeros, and numbers
// that are none.
func narrowInputs(rng *rand.Rand, steps int) [][]float32 {
	all := make([][]float32, 6)
	for i := range all {
		all[i] = make([]float32, steps*StepCols)
		for c := range all[i] {
			size := 1.0
			switch i {
			case 1:
				size = math.Exp2(float64(c / StepCols % 20))
			case 2:
				size = 0
			case 5:
				size = 1e-20
			}
			all[i][c] = float32(size * rng.NormFloat64())
		}
	}
	all[3][rng.IntN(len(all[3]))] = float32(math.NaN())
	all[4][rng.IntN(len(all[4]))] = float32(math.Inf(1))
	return all
}

// TestNarrowQuantizeIsTheSameEverywhere compares 8-bit activations of every instruction set with those of the generic one, and
// bounds the error.
func TestNarrowQuantizeIsTheSameEverywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	generic := With(isa.Generic).WithBits(8)
	for _, steps := range []int{1, 2, 9, MaxSteps} {
		for i, x := range narrowInputs(rng, steps) {
			want := make([]int8, 2*StepCols*steps)
			scale, sum := generic.Quantize(want, x)
			for _, k := range Available() {
				k = k.WithBits(8)
				got := make([]int8, len(want))
				gotScale, gotSum := k.Quantize(got, x)
				if i == 3 || i == 4 { // not finite
					require.True(t, math.IsNaN(float64(scale)) && math.IsNaN(float64(gotScale)), "%s, input %d", k, i)
				} else {
					require.Equal(t, scale, gotScale, "%s, input %d", k, i)
				}
				require.Equal(t, sum, gotSum, "%s, input %d", k, i)
				for c := range x {
					require.Equal(t, generic.At(want, c), k.At(got, c), "%s, input %d, column %d", k, i, c)
				}
			}
			if i != 1 {
				continue
			}
			for s := range steps { // half a cell, and what its factor was rounded up by
				most := absMax(x[s*StepCols : (s+1)*StepCols])
				bound := float64(most)/maxNarrow/2 + float64(scale)/2 + 1e-6*float64(most)
				for c := s * StepCols; c < (s+1)*StepCols; c++ {
					require.InDelta(t, x[c], scale*float32(generic.At(want, c)), bound, "step %d", s)
				}
			}
		}
	}
}

// TestStepsOfLargeValuesGetMoreBits compares the error of a step that is much larger than the others with that of 8 bits.
func TestStepsOfLargeValuesGetMoreBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 15))
	x := make([]float32, 9*StepCols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
		if i/StepCols == 4 {
			x[i] *= 100
		}
	}
	for _, k := range Available() {
		k = k.WithBits(8)
		q := make([]int8, 2*len(x))
		scale, _ := k.Quantize(q, x)
		most := absMax(x[4*StepCols : 5*StepCols])
		for c := 4 * StepCols; c < 5*StepCols; c++ {
			require.InDelta(t, x[c], scale*float32(k.At(q, c)), float64(most)/maxNarrow/16, "%s", k)
		}
		if k.Factored() {
			for s := range 9 {
				require.Equal(t, s == 4, q[2*StepCols*s+nibbleFactorAt] != 0, "step %d", s)
			}
		}
	}
}

// extremeRows returns rows whose codes and activations are as large as they get, and random ones.
func extremeRows(rng *rand.Rand, width, rows, steps int, extreme bool) (codes []byte, x []float32) {
	codes, x, _ = sample(rng, width, rows, steps)
	if extreme {
		for i := range codes {
			codes[i] = byte(1<<width - 1)
		}
		for i := range x {
			x[i] = 1
		}
	} else if rows%2 == 0 {
		for i := range x[:StepCols] {
			x[i] *= 40 // gets four bits more
		}
	}
	return codes, x
}

// TestNarrowDotIsExact compares products with 8-bit activations with sums of whole numbers, for planes, decoded bytes and
// corrections.
func TestNarrowDotIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 10))
	for _, k := range Available() {
		k = k.WithBits(8)
		for _, width := range []int{4, 5, 6, 7, 8} {
			for _, steps := range []int{1, 2, 3, 8, 9, MaxSteps} {
				for rows := 1; rows <= 9; rows++ {
					codes, x := extremeRows(rng, width, rows, steps, rows == 5)
					q := make([]int8, 2*StepCols*steps)
					k.Quantize(q, x)
					w := &Rows{Width: 7, Below: min(width, 7), Nibble: codes, NibbleStride: steps * StepCols, Count: rows, Steps: steps}
					if width == 8 {
						w.Width = 8
					}
					all := []*Rows{w}
					if width != 7 {
						all = append(all, pack(k, width, rows, steps, codes))
					}
					for _, w := range all {
						out := make([]int32, 2*rows)
						k.Dot(out, w, q)
						for r := range rows {
							want := int64(0)
							for c, u := range codes[r*steps*StepCols:][:steps*StepCols] {
								want += int64(u) * k.At(q, c)
							}
							require.Equal(t, want, product(out[2*r], out[2*r+1]), "%s, width %d of %d, %d steps, row %d of %d", k, width, w.Width,
								steps, r, rows)
						}
					}
				}
			}
		}
	}
}

// TestNarrowCorrectionsAreAdded compares rows with corrections.
func TestNarrowCorrectionsAreAdded(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	const rows, steps = 5, 9
	for _, k := range Available() {
		k = k.WithBits(8)
		codes, x, _ := sample(rng, 4, rows, steps)
		q := make([]int8, 2*StepCols*steps)
		k.Quantize(q, x)
		w := pack(k, 4, rows, steps, codes)
		w.CorrectStart = make([]uint32, rows+1)
		want := make([]int64, rows)
		for r := range rows {
			for c, u := range codes[r*steps*StepCols:][:steps*StepCols] {
				want[r] += int64(u) * k.At(q, c)
			}
			for range r {
				c, d := rng.IntN(steps*StepCols), MinCorrection+rng.IntN(MaxCorrection-MinCorrection+1)
				w.Correct = append(w.Correct, PackCorrection(c, d))
				want[r] += int64(d) * k.At(q, c)
			}
			w.CorrectStart[r+1] = uint32(len(w.Correct))
		}
		out := make([]int32, 2*rows)
		k.Dot(out, w, q)
		for r := range rows {
			require.Equal(t, want[r], product(out[2*r], out[2*r+1]), "%s, row %d", k, r)
		}
		w.Values = make([]int16, steps*StepCols)
		k.Values(w.Values, q, steps)
		for _, n := range []int{2, 3, 4, 100} { // room for running sums of one row, of some, of all
			w.Sums = make([]int32, n)
			k.Dot(out, w, q)
			for r := range rows {
				require.Equal(t, want[r], product(out[2*r], out[2*r+1]), "%s, row %d, %d sums", k, r, n)
			}
		}
	}
}

// TestNarrowGemmIsExact compares products with several tokens, of the largest numbers too.
func TestNarrowGemmIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 12))
	for _, k := range Available() {
		k = k.WithBits(8)
		for _, width := range []int{4, 6, 7, 8} {
			for _, steps := range []int{1, 5, 17, MaxSteps} {
				for tokens := 1; tokens <= 9; tokens++ {
					codes, x := extremeRows(rng, width, PanelRows, steps, tokens == 6)
					stride := 2*StepCols*steps + 128
					q := make([]int8, tokens*stride)
					for tok := range tokens {
						k.Quantize(q[tok*stride:], x)
						x[rng.IntN(len(x))] *= 0.5
					}
					panel, out := make([]byte, PanelBytes(steps)), make([]int32, 2*PanelRows*tokens)
					k.Panel(panel, codes, steps*StepCols, steps)
					k.Gemm(out, panel, width, steps, Tokens{q, stride, tokens})
					for tok := range tokens {
						for r := range PanelRows {
							want := int64(0)
							for c, u := range codes[r*steps*StepCols:][:steps*StepCols] {
								want += int64(u) * k.At(q[tok*stride:], c)
							}
							o := out[tok*2*PanelRows:]
							require.Equal(t, want, product(o[r], o[PanelRows+r]), "%s, width %d, %d steps, token %d, row %d", k, width, steps, tok, r)
						}
					}
				}
			}
		}
	}
}

func BenchmarkNarrowDot(b *testing.B) {
	rng := rand.New(rand.NewPCG(13, 13))
	const rows, steps = 32, 24
	for _, k := range Available() {
		if !k.FastNarrow() {
			continue
		}
		for _, bits := range []int{16, 8} {
			k := k.WithBits(bits)
			for _, width := range widths {
				codes, x, _ := sample(rng, width, rows, steps)
				q, out := make([]int8, 2*StepCols*steps), make([]int32, 2*rows)
				k.Quantize(q, x)
				w := pack(k, width, rows, steps, codes)
				b.Run(fmt.Sprintf("%s/%d-bit/width=%d", k, bits, width), func(b *testing.B) {
					for b.Loop() {
						k.Dot(out, w, q)
					}
					b.ReportMetric(float64(rows*steps*StepCols)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
				})
			}
		}
	}
}

func BenchmarkNarrowGemm(b *testing.B) {
	rng := rand.New(rand.NewPCG(14, 14))
	const steps, tokens = 24, 16
	for _, k := range Available() {
		if !k.FastNarrow() {
			continue
		}
		k = k.WithBits(8)
		for _, width := range []int{6, 7, 8} {
			codes, x, _ := sample(rng, width, PanelRows, steps)
			q, out := make([]int8, tokens*2*StepCols*steps), make([]int32, 2*PanelRows*tokens)
			for t := range tokens {
				k.Quantize(q[t*2*StepCols*steps:], x)
			}
			panel := make([]byte, PanelBytes(steps))
			k.Panel(panel, codes, steps*StepCols, steps)
			b.Run(fmt.Sprintf("%s/width=%d", k, width), func(b *testing.B) {
				for b.Loop() {
					k.Gemm(out, panel, width, steps, Tokens{q, 2 * StepCols * steps, tokens})
				}
				b.ReportMetric(float64(PanelRows*steps*StepCols*tokens)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gproducts/s")
			})
		}
	}
}
