package dot

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// sample returns random codes of a width, rows × steps·64, and activations with their quantized form.
func sample(rng *rand.Rand, width, rows, steps int) (codes []byte, x []float32, q []int8) {
	codes = make([]byte, rows*steps*StepCols)
	for i := range codes {
		codes[i] = byte(rng.IntN(1 << width))
	}
	x = make([]float32, steps*StepCols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	q = make([]int8, 2*StepCols*steps)
	return codes, x, q
}

func pack(k Kernels, width, rows, steps int, codes []byte) *Rows {
	w := &Rows{Width: width, NibbleStride: steps * NibbleBytes(width), BitsStride: steps * BitBytes(width), Count: rows,
		Steps: steps}
	w.Nibble, w.Bits = make([]byte, rows*w.NibbleStride), make([]byte, rows*w.BitsStride)
	for r := range rows {
		k.Pack(width, w.Nibble[r*w.NibbleStride:], w.Bits[r*w.BitsStride:], codes[r*steps*StepCols:], steps)
	}
	return w
}

func value(q []int8, c int) int64 {
	at := c/StepCols*2*StepCols + c%StepCols
	return int64(q[at])*256 + int64(q[at+StepCols])
}

// product joins the two parts of a result.
func product(hi, lo int32) int64 { return 256*int64(hi) + int64(lo) }

func TestQuantize(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 63, 64, 65, 576, 2048} {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * 3)
		}
		steps := (n + StepCols - 1) / StepCols
		want := make([]int8, 2*StepCols*steps)
		scale, sum := With(isa.Generic).Quantize(want, x)
		total := int64(0)
		for c, f := range x {
			require.InDelta(t, f, float64(scale)*float64(value(want, c)), float64(scale)*0.51)
			total += value(want, c)
		}
		require.Equal(t, total, sum)
		got := make([]int8, len(want))
		for _, k := range Available() {
			s2, sum2 := k.Quantize(got, x)
			require.Equal(t, scale, s2)
			require.Equal(t, sum, sum2)
			require.Equal(t, want, got)
		}
	}
	for _, k := range Available() {
		q := make([]int8, 128)
		scale, sum := k.Quantize(q, make([]float32, 64))
		require.Zero(t, scale)
		require.Zero(t, sum)
	}
}

// TestExact checks packing, unpacking, the dot product and the panel product of every instruction set against sums of whole
// numbers.
func TestExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, width := range widths {
		for _, steps := range []int{1, 2, 3, 4, 5, 9, 32} {
			for _, rows := range []int{1, 7, 32} {
				codes, x, q := sample(rng, width, rows, steps)
				With(isa.Generic).Quantize(q, x)
				want := make([]int64, rows)
				for r := range rows {
					for c := range steps * StepCols {
						want[r] += int64(codes[r*steps*StepCols+c]) * value(q, c)
					}
				}
				for _, k := range Available() {
					name := fmt.Sprintf("%s width %d steps %d rows %d", k, width, steps, rows)
					w := pack(k, width, rows, steps, codes)
					if k.ISA != isa.AVX512 && !k.pairsBits(width) { // these have another order
						require.Equal(t, pack(With(isa.Generic), width, rows, steps, codes), w, name)
					}
					if width < 8 {
						nibble, bits := make([]byte, NibbleBytes(width)*steps), make([]byte, BitBytes(width)*steps)
						k.packGeneric(width, nibble, bits, codes, steps)
						require.Equal(t, nibble, w.Nibble[:len(nibble)], name)
						require.Equal(t, bits, w.Bits[:len(bits)], name)
					}
					back := make([]byte, steps*StepCols)
					k.Unpack(width, back, w.Nibble, w.Bits, steps)
					require.Equal(t, codes[:len(back)], back, name)
					all := make([]byte, len(codes))
					k.UnpackRows(w, all, 0)
					require.Equal(t, codes, all, name)
					if width < 8 {
						k.UnpackRows(w, all, 16)
						for i, u := range codes {
							require.Equal(t, u+16, all[i], name)
						}
					}
					out := make([]int32, 2*rows)
					k.Dot(out, w, q)
					for r := range rows {
						require.Equal(t, want[r], product(out[2*r], out[2*r+1]), name)
					}
					if width < 8 {
						for below := width; below <= 8; below++ {
							small := &Rows{Width: 7, Below: below % 8, Nibble: codes, NibbleStride: steps * StepCols, Count: rows, Steps: steps}
							again := make([]int32, 2*rows)
							k.Dot(again, small, q)
							for r := range rows {
								require.Equal(t, want[r], product(again[2*r], again[2*r+1]), name)
							}
						}
					}
				}
			}
		}
	}
}

// randomActivations returns n bytes of quantized numbers up to the largest ones.
func randomActivations(rng *rand.Rand, n int) []int8 {
	x := make([]int8, n)
	for i := range x {
		x[i] = int8(rng.IntN(256) - 128)
		if i/StepCols%2 == 0 {
			x[i] = max(x[i], -MaxValue/256+1)
			x[i] = min(x[i], MaxValue/256-1)
		}
	}
	return x
}

func TestGemmIsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, steps := range []int{1, 9, 32} {
		for n := range 3 * 13 {
			tokens, width := 1+n/3, 6+n%3
			codes, _, _ := sample(rng, width, PanelRows, steps)
			stride := 2*StepCols*steps + 128
			x := randomActivations(rng, tokens*stride)
			for _, k := range Available() {
				panel := make([]byte, PanelBytes(steps))
				k.Panel(panel, codes, steps*StepCols, steps)
				out := make([]int32, 2*PanelRows*tokens)
				k.Gemm(out, panel, width, steps, Tokens{x, stride, tokens})
				for tok := range tokens {
					one := make([]int32, 2*PanelRows)
					With(isa.Generic).Dot(one, &Rows{Width: 8, Nibble: codes, NibbleStride: steps * StepCols, Count: PanelRows,
						Steps: steps}, x[tok*stride:])
					for r := range PanelRows {
						require.Equal(t, product(one[2*r], one[2*r+1]), product(out[tok*2*PanelRows+r], out[tok*2*PanelRows+PanelRows+r]), "%s", k)
					}
				}
			}
		}
	}
}

func TestDotBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for _, width := range widths {
		for _, block := range []int{16, 32, 64} {
			steps, rows := 9, 5
			codes, x, q := sample(rng, width, rows, steps)
			With(isa.Generic).Quantize(q, x)
			scale := make([]float32, rows*steps*StepCols/block)
			for i := range scale {
				scale[i] = rng.Float32()
			}
			for _, k := range Available() {
				w := pack(k, width, rows, steps, codes)
				w.Scale, w.ScaleStride = scale, steps*StepCols/block
				out := make([]float32, rows)
				k.DotBlocks(out, w, block, q)
				for r := range rows {
					want, mag := 0.0, 0.0
					for c := range steps * StepCols {
						p := float64(w.Scale[r*w.ScaleStride+c/block]) * float64(codes[r*steps*StepCols+c]) * float64(value(q, c))
						want += p
						mag += math.Abs(p)
					}
					require.InDelta(t, want, out[r], mag*1e-6, "%s width %d block %d", k, width, block)
				}
			}
		}
	}
}

func TestGemmBlocksEqualDotBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	floats := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	for _, width := range []int{4, 6, 7, 8} {
		for _, block := range []int{16, 32, 64} {
			for _, steps := range []int{1, 9} {
				for tokens := 1; tokens <= 9; tokens++ {
					codes, _, _ := sample(rng, width, BlockRows, steps)
					w := &Rows{Width: width, Nibble: codes, NibbleStride: steps * StepCols, ScaleStride: steps*StepCols/block + 1,
						Count: BlockRows, Steps: steps}
					w.Scale = floats(BlockRows * w.ScaleStride)
					xStride := 2*StepCols*steps + 128
					x := randomActivations(rng, tokens*xStride)
					rest, scale, start := floats(BlockRows*tokens), floats(tokens), floats(BlockRows*tokens)
					for _, k := range Available() {
						acc := append([]float32{}, start...)
						k.GemmBlocks(acc, rest, scale, w, block, Tokens{x, xStride, tokens})
						one := *w
						one.Width = 8
						sums := make([]float32, BlockRows)
						for tok := range tokens {
							k.DotBlocks(sums, &one, block, x[tok*xStride:])
							for r, v := range sums {
								i := BlockRows*tok + r
								v += rest[i]
								require.Equal(t, start[i]+float32(scale[tok]*v), acc[i], "%s, width %d, blocks of %d, %d steps, token %d of %d", k,
									width, block, steps, tok, tokens)
							}
						}
					}
				}
			}
		}
	}
}

func BenchmarkGemmBlocks(b *testing.B) {
	rng := rand.New(rand.NewPCG(8, 8))
	const steps, tokens = 24, 48
	for _, block := range []int{16, 32} {
		codes, _, _ := sample(rng, 6, BlockRows, steps)
		w := &Rows{Width: 6, Nibble: codes, NibbleStride: steps * StepCols, ScaleStride: steps * StepCols / block,
			Count: BlockRows, Steps: steps}
		w.Scale = make([]float32, BlockRows*w.ScaleStride)
		x := make([]int8, tokens*2*StepCols*steps)
		acc, rest, scale := make([]float32, BlockRows*tokens), make([]float32, BlockRows*tokens), make([]float32, tokens)
		for _, k := range Available() {
			b.Run(fmt.Sprintf("%s/block=%d", k, block), func(b *testing.B) {
				for b.Loop() {
					k.GemmBlocks(acc, rest, scale, w, block, Tokens{x, 2 * StepCols * steps, tokens})
				}
				b.ReportMetric(float64(len(codes)*tokens)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
			})
		}
	}
}

func BenchmarkDot(b *testing.B) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, width := range widths {
		for _, rows := range []int{16, 32768} { // in cache, and from memory
			codes, x, q := sample(rng, width, rows, 32)
			for _, k := range Available() {
				b.Run(fmt.Sprintf("%s/width=%d/rows=%d", k, width, rows), func(b *testing.B) {
					k.Quantize(q, x)
					w := pack(k, width, rows, 32, codes)
					out := make([]int32, 2*rows)
					for b.Loop() {
						k.Dot(out, w, q)
					}
					rate := float64(len(codes)) * float64(b.N) / b.Elapsed().Seconds() / 1e9
					b.ReportMetric(rate, "Gweights/s")
					b.ReportMetric(rate*float64(width)/8, "GB/s")
				})
			}
		}
	}
}

// TestExtremes multiplies the largest codes with the largest activations of either sign, where narrow sums would overflow first.
func TestExtremes(t *testing.T) {
	const rows, steps, tokens = PanelRows, 9, 4
	for _, v := range []int8{-128, 127} {
		hi := max(v, -MaxValue/256) // more has no activation, and would not fit the 16 bits that both bytes are joined to
		x := make([]int8, tokens*2*StepCols*steps)
		for i := range x {
			x[i] = v
			if i/StepCols%2 == 0 {
				x[i] = hi
			}
		}
		for width := 4; width <= 8; width++ {
			codes := make([]byte, rows*steps*StepCols)
			for i := range codes {
				codes[i] = byte(1<<width - 1)
			}
			want := int64(steps*StepCols) * (1<<width - 1) * (int64(hi)*256 + int64(v))
			for _, k := range Available() {
				all := []*Rows{{Width: max(7, width), Below: width % 8, Nibble: codes, NibbleStride: steps * StepCols, Count: rows,
					Steps: steps}}
				if width != 7 {
					all = append(all, pack(k, width, rows, steps, codes))
				}
				for _, w := range all {
					out := make([]int32, 2*rows)
					k.Dot(out, w, x)
					for r := range rows {
						require.Equal(t, want, product(out[2*r], out[2*r+1]), "%s, width %d", k, width)
					}
				}
				panel, out := make([]byte, PanelBytes(steps)), make([]int32, 2*PanelRows*tokens)
				k.Panel(panel, codes, steps*StepCols, steps)
				k.Gemm(out, panel, width, steps, Tokens{x, 2 * StepCols * steps, tokens})
				for i := range PanelRows {
					require.Equal(t, want, product(out[i], out[PanelRows+i]), "%s, width %d", k, width)
				}
			}
		}
	}
}
