package dot

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
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

func pack(isa ISA, width, rows, steps int, codes []byte) *Rows {
	w := &Rows{Width: width, NibbleStride: steps * NibbleBytes(width), BitsStride: steps * BitBytes(width), Count: rows, Steps: steps}
	w.Nibble, w.Bits = make([]byte, rows*w.NibbleStride), make([]byte, rows*w.BitsStride)
	for r := range rows {
		isa.Pack(width, w.Nibble[r*w.NibbleStride:], w.Bits[r*w.BitsStride:], codes[r*steps*StepCols:], steps)
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
		scale, sum := Generic.Quantize(want, x)
		total := int64(0)
		for c, f := range x {
			require.InDelta(t, f, float64(scale)*float64(value(want, c)), float64(scale)*0.51)
			total += value(want, c)
		}
		require.Equal(t, total, sum)
		got := make([]int8, len(want))
		for _, isa := range Available() {
			s2, sum2 := isa.Quantize(got, x)
			require.Equal(t, scale, s2)
			require.Equal(t, sum, sum2)
			require.Equal(t, want, got)
		}
	}
	for _, isa := range Available() {
		q := make([]int8, 128)
		scale, sum := isa.Quantize(q, make([]float32, 64))
		require.Zero(t, scale)
		require.Zero(t, sum)
	}
}

// TestExact checks packing, unpacking, the dot product and the tile product of every instruction set against sums of whole numbers.
func TestExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, width := range widths {
		for _, steps := range []int{1, 2, 3, 4, 5, 9, 32} {
			for _, rows := range []int{1, 7, 32} {
				codes, x, q := sample(rng, width, rows, steps)
				Generic.Quantize(q, x)
				want := make([]int64, rows)
				for r := range rows {
					for c := range steps * StepCols {
						want[r] += int64(codes[r*steps*StepCols+c]) * value(q, c)
					}
				}
				for _, isa := range Available() {
					name := fmt.Sprintf("%s width %d steps %d rows %d", isa, width, steps, rows)
					w := pack(isa, width, rows, steps, codes)
					if isa != AVX512 {
						require.Equal(t, pack(Generic, width, rows, steps, codes), w, name)
					}
					back := make([]byte, steps*StepCols)
					isa.Unpack(width, back, w.Nibble, w.Bits, steps)
					require.Equal(t, codes[:len(back)], back, name)
					out := make([]int32, 2*rows)
					isa.Dot(out, w, q)
					for r := range rows {
						require.Equal(t, want[r], product(out[2*r], out[2*r+1]), name)
					}
					if width < 8 {
						for below := width; below <= 8; below++ {
							small := &Rows{Width: 7, Below: below % 8, Nibble: codes, NibbleStride: steps * StepCols, Count: rows, Steps: steps}
							again := make([]int32, 2*rows)
							isa.Dot(again, small, q)
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
			codes, _, _ := sample(rng, width, TileRows, steps)
			stride := 2*StepCols*steps + 128
			x := randomActivations(rng, tokens*stride)
			for _, isa := range Available() {
				tile := make([]byte, TileBytes(steps))
				isa.Tile(tile, codes, steps*StepCols, steps)
				out := make([]int32, 2*TileRows*tokens)
				isa.Gemm(out, tile, width, x, stride, steps, tokens)
				for tok := range tokens {
					one := make([]int32, 2*TileRows)
					Generic.Dot(one, &Rows{Width: 8, Nibble: codes, NibbleStride: steps * StepCols, Count: TileRows, Steps: steps}, x[tok*stride:])
					for r := range TileRows {
						require.Equal(t, product(one[2*r], one[2*r+1]), product(out[tok*2*TileRows+r], out[tok*2*TileRows+TileRows+r]), "%s", isa)
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
			Generic.Quantize(q, x)
			scale := make([]float32, rows*steps*StepCols/block)
			for i := range scale {
				scale[i] = rng.Float32()
			}
			for _, isa := range Available() {
				w := pack(isa, width, rows, steps, codes)
				w.Scale, w.ScaleStride = scale, steps*StepCols/block
				out := make([]float32, rows)
				isa.DotBlocks(out, w, block, q)
				for r := range rows {
					want, mag := 0.0, 0.0
					for c := range steps * StepCols {
						p := float64(w.Scale[r*w.ScaleStride+c/block]) * float64(codes[r*steps*StepCols+c]) * float64(value(q, c))
						want += p
						mag += math.Abs(p)
					}
					require.InDelta(t, want, out[r], mag*1e-6, "%s width %d block %d", isa, width, block)
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
					w := &Rows{Width: width, Nibble: codes, NibbleStride: steps * StepCols, ScaleStride: steps*StepCols/block + 1, Count: BlockRows, Steps: steps}
					w.Scale = floats(BlockRows * w.ScaleStride)
					xStride := 2*StepCols*steps + 128
					x := randomActivations(rng, tokens*xStride)
					rest, scale, start := floats(BlockRows*tokens), floats(tokens), floats(BlockRows*tokens)
					for _, isa := range Available() {
						acc := append([]float32{}, start...)
						isa.GemmBlocks(acc, rest, scale, w, block, x, xStride, tokens)
						one := *w
						one.Width = 8
						sums := make([]float32, BlockRows)
						for tok := range tokens {
							isa.DotBlocks(sums, &one, block, x[tok*xStride:])
							for r, v := range sums {
								i := BlockRows*tok + r
								v += rest[i]
								require.Equal(t, start[i]+float32(scale[tok]*v), acc[i], "%s, width %d, blocks of %d, %d steps, token %d of %d", isa, width, block, steps, tok, tokens)
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
		w := &Rows{Width: 6, Nibble: codes, NibbleStride: steps * StepCols, ScaleStride: steps * StepCols / block, Count: BlockRows, Steps: steps}
		w.Scale = make([]float32, BlockRows*w.ScaleStride)
		x := make([]int8, tokens*2*StepCols*steps)
		acc, rest, scale := make([]float32, BlockRows*tokens), make([]float32, BlockRows*tokens), make([]float32, tokens)
		for _, isa := range Available() {
			b.Run(fmt.Sprintf("%s/block=%d", isa, block), func(b *testing.B) {
				for b.Loop() {
					isa.GemmBlocks(acc, rest, scale, w, block, x, 2*StepCols*steps, tokens)
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
			for _, isa := range Available() {
				b.Run(fmt.Sprintf("%s/width=%d/rows=%d", isa, width, rows), func(b *testing.B) {
					isa.Quantize(q, x)
					w := pack(isa, width, rows, 32, codes)
					out := make([]int32, 2*rows)
					for b.Loop() {
						isa.Dot(out, w, q)
					}
					rate := float64(len(codes)) * float64(b.N) / b.Elapsed().Seconds() / 1e9
					b.ReportMetric(rate, "Gweights/s")
					b.ReportMetric(rate*float64(width)/8, "GB/s")
				})
			}
		}
	}
}

func BenchmarkGemm(b *testing.B) {
	rng := rand.New(rand.NewPCG(6, 6))
	const steps, tokens = 24, 48
	codes, _, _ := sample(rng, 6, TileRows, steps)
	x := randomActivations(rng, tokens*2*StepCols*steps)
	for _, isa := range Available() {
		b.Run(isa.String(), func(b *testing.B) {
			tile, out := make([]byte, TileBytes(steps)), make([]int32, 2*TileRows*tokens)
			for b.Loop() {
				isa.Tile(tile, codes, steps*StepCols, steps)
				isa.Gemm(out, tile, 6, x, 2*StepCols*steps, steps, tokens)
			}
			b.ReportMetric(float64(TileRows*StepCols*steps*tokens)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
		})
	}
}

// TestExtremes multiplies the largest codes with the largest activations of either sign, where narrow sums would overflow first.
func TestExtremes(t *testing.T) {
	const rows, steps, tokens = TileRows, 9, 4
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
			for _, isa := range Available() {
				all := []*Rows{{Width: max(7, width), Below: width % 8, Nibble: codes, NibbleStride: steps * StepCols, Count: rows, Steps: steps}}
				if width != 7 {
					all = append(all, pack(isa, width, rows, steps, codes))
				}
				for _, w := range all {
					out := make([]int32, 2*rows)
					isa.Dot(out, w, x)
					for r := range rows {
						require.Equal(t, want, product(out[2*r], out[2*r+1]), "%s, width %d", isa, width)
					}
				}
				tile, out := make([]byte, TileBytes(steps)), make([]int32, 2*TileRows*tokens)
				isa.Tile(tile, codes, steps*StepCols, steps)
				isa.Gemm(out, tile, width, x, 2*StepCols*steps, steps, tokens)
				for i := range TileRows {
					require.Equal(t, want, product(out[i], out[TileRows+i]), "%s, width %d", isa, width)
				}
			}
		}
	}
}
