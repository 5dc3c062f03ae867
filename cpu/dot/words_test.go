package dot

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// words returns the activations of some tokens as words, xStride bytes apart in x.
func words(k Kernels, x []int8, xStride, tokens, steps int) Words {
	w := Words{Stride: steps*StepCols + 32, Count: tokens}
	w.V = make([]int16, tokens*w.Stride)
	for t := range tokens {
		k.Words(w.from(t), x[t*xStride:], steps)
	}
	return w
}

func TestGemmWordsIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 3))
	for _, steps := range []int{1, 2, 9, MaxSteps} {
		for tokens := 1; tokens <= 13; tokens++ {
			codes, _, _ := sample(rng, 8, PanelRows, steps)
			xStride := 2 * StepCols * steps
			x := randomActivations(rng, tokens*xStride)
			for _, rows := range []int{1, 4, 7, PanelRows} {
				for _, k := range Available() {
					name := fmt.Sprintf("%s, %d steps, %d tokens, %d rows", k, steps, tokens, rows)
					v := words(k, x, xStride, tokens, steps)
					require.Equal(t, words(With(isa.Generic), x, xStride, tokens, steps), v, name)
					out := make([]int32, 2*PanelRows*tokens)
					k.GemmWords(out, codes, steps*StepCols, rows, steps, v)
					for tok := range tokens {
						one := make([]int32, 2*rows)
						With(isa.Generic).Dot(one, &Rows{Width: 8, Nibble: codes, NibbleStride: steps * StepCols, Count: rows, Steps: steps},
							x[tok*xStride:])
						for r := range rows {
							at := tok*2*PanelRows + r
							require.Equal(t, product(one[2*r], one[2*r+1]), product(out[at], out[at+PanelRows]), name)
						}
					}
				}
			}
		}
	}
}

// TestGemmWordsOfExtremes multiplies the largest codes with the largest activations of either sign in the longest tile, where
// sums would overflow first.
func TestGemmWordsOfExtremes(t *testing.T) {
	const steps, tokens = MaxSteps, 6
	codes := make([]byte, PanelRows*steps*StepCols)
	for i := range codes {
		codes[i] = 255
	}
	for _, v := range []int8{-128, 127} {
		hi := max(v, -MaxValue/256)
		x := make([]int8, tokens*2*StepCols*steps)
		for i := range x {
			x[i] = v
			if i/StepCols%2 == 0 {
				x[i] = hi
			}
		}
		want := int64(steps*StepCols) * 255 * (int64(hi)*256 + int64(v))
		for _, k := range Available() {
			out := make([]int32, 2*PanelRows*tokens)
			k.GemmWords(out, codes, steps*StepCols, PanelRows, steps, words(k, x, 2*StepCols*steps, tokens, steps))
			for tok := range tokens {
				for r := range PanelRows {
					at := tok*2*PanelRows + r
					require.Equal(t, want, product(out[at], out[at+PanelRows]), "%s", k)
				}
			}
		}
	}
}

func TestAddScaledRoundsExactSumsOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 5))
	for n := range PanelRows + 1 {
		hi, lo, acc := make([]int32, n), make([]int32, n), make([]float32, n)
		for i := range hi {
			hi[i], lo[i], acc[i] = int32(rng.Uint32()), int32(rng.Uint32()), float32(rng.NormFloat64())*1e9
		}
		scale, offset := rng.Float32(), rng.Int64N(1<<41)-1<<40
		for _, k := range Available() {
			got, pairs, sums := append([]float32{}, acc...), append([]float32{}, acc...), make([]int32, 0, 2*n)
			for i := range hi {
				sums = append(sums, hi[i], lo[i])
			}
			k.AddScaled(got, hi, lo, scale, offset)
			k.AddPairs(pairs, sums, scale, offset)
			for i := range got {
				want := acc[i] + float32(scale*float32(int64(hi[i])*256+int64(lo[i])+offset))
				require.Equal(t, want, got[i], "%s", k)
				require.Equal(t, want, pairs[i], "%s, side by side", k)
			}
		}
	}
}

func TestRaise(t *testing.T) {
	for steps := range 4 {
		for _, k := range Available() {
			b := make([]byte, steps*StepCols)
			for i := range b {
				b[i] = byte(i) / 2
			}
			k.Raise(b, 16)
			for i, v := range b {
				require.Equal(t, byte(i)/2+16, v)
			}
		}
	}
}

func BenchmarkGemmWords(b *testing.B) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, steps := range []int{9, 24, MaxSteps} {
		for _, tokens := range []int{1, 2, 4, 8, 48} {
			codes, _, _ := sample(rng, 6, PanelRows, steps)
			x := randomActivations(rng, tokens*2*StepCols*steps)
			for _, k := range Available() {
				v := words(k, x, 2*StepCols*steps, tokens, steps)
				out := make([]int32, 2*PanelRows*tokens)
				b.Run(fmt.Sprintf("%s/steps=%d/tokens=%d", k, steps, tokens), func(b *testing.B) {
					for b.Loop() {
						k.GemmWords(out, codes, steps*StepCols, PanelRows, steps, v)
					}
					b.ReportMetric(float64(len(codes)*tokens)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
				})
			}
		}
	}
}
