package vec

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"
)

// TestKernels compares every set of kernels with sums in float64, on lengths that need whole vectors and remainders of every
// kind.
func TestKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	for _, k := range append(Available(), Generic()) {
		for _, n := range []int{16, 32, 48, 64, 80, 128, 1024} {
			for tokens := 1; tokens <= 9; tokens++ {
				w, x, out := random(3*(n+5)+n), random(tokens*(n+3)), random(4*tokens)
				want := append([]float32{}, out...)
				k.Dot4(out, Rows{w, n + 5}, Rows{x, n + 3}, tokens, n)
				for i := range want {
					sum, size := float64(want[i]), 1.0
					for j := range n {
						p := float64(w[i%4*(n+5)+j]) * float64(x[i/4*(n+3)+j])
						sum += p
						size += math.Abs(p)
					}
					require.InDelta(t, sum, out[i], 1e-6*size, "%s dot4 %d", k.Name, n)
				}
			}
			acc, p, v := random(n), random(7), random(7*(n+2))
			want := append([]float32{}, acc...)
			k.Weighted(acc, p, v, n+2)
			for j := range want {
				sum := float64(want[j])
				for i := range p {
					sum += float64(p[i]) * float64(v[i*(n+2)+j])
				}
				require.InDelta(t, sum, acc[j], 1e-5, "%s weighted %d", k.Name, n)
			}
			k.Weighted(acc, nil, nil, 0)
			bytes, scale := make([]int8, 3*n), random(n)
			for i := range bytes {
				bytes[i] = int8(rng.IntN(256))
			}
			got := make([]float32, 3*n)
			k.Scaled(got, bytes, scale)
			for i, q := range bytes {
				require.Equal(t, float32(q)*scale[i%n], got[i], "%s scaled %d", k.Name, n)
			}
		}
	}
}

func TestExp(t *testing.T) {
	for _, k := range append(Available(), Generic()) {
		const n = 4096
		v, gate, up, out := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		for i := range v {
			v[i] = 3 - 100*float32(i)/n
			gate[i] = 200*float32(i)/n - 100
			up[i] = 1 + float32(i%7)
		}
		v[n-1] = float32(math.Inf(-1))
		x := append([]float32{}, v...)
		sum := k.Exp(v, 3)
		total := 0.0
		for i, f := range x {
			want := math.Exp(float64(f - 3))
			if f-3 < minExp {
				want = 0
			}
			total += want
			require.InDelta(t, want, v[i], 3e-7*want, "%s exp(%g)", k.Name, f-3)
		}
		require.InDelta(t, total, sum, 1e-5*total)
		k.SwiGLU(out, gate, up)
		for i, g := range gate {
			want := float64(g) / (1 + math.Exp(-float64(g))) * float64(up[i])
			require.InDelta(t, want, out[i], 1e-6*math.Abs(want)+1e-30, "%s swiglu(%g)", k.Name, g)
		}
	}
}

func TestHalf(t *testing.T) {
	src := make([]uint16, 1<<16)
	for i := range src {
		if i&0x7c00 != 0x7c00 {
			src[i] = uint16(i)
		}
	}
	want := make([]float32, len(src))
	for i, h := range src {
		want[i] = Half(h)
	}
	for _, k := range append(Available(), Generic()) {
		got := make([]float32, len(src))
		k.Half(got, src)
		require.Equal(t, want, got, k.Name)
	}
	require.Equal(t, float32(math.Inf(-1)), Half(0xfc00))
	require.True(t, math.IsNaN(float64(Half(0x7e00))))
	require.Equal(t, float32(1.5), Half(0x3e00))
	require.Equal(t, float32(0x1p-24), Half(1))
	require.Zero(t, ToHalf(0x1p-24))
	for _, f := range []float32{0, 1, -2.5, 0x1p-14, 65504} {
		require.Equal(t, f, Half(ToHalf(f)))
	}
	require.Equal(t, float32(65504), Half(ToHalf(1e9)))
}

// TestFactors compares the unpacking of sub-scales of every width, up to the last byte.
func TestFactors(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, k := range Available() {
		for bits := 1; bits <= 8; bits++ {
			f := &SubFactors{Bytes: randomBytes(rng, 10*bits), Bits: bits, Bias: 3 - bits, Signed: bits == 8, Per: 16}
			d := []uint16{0x3555, 0xb800} // 1/3, −1/2
			for first := range 4 {
				want, got := make([]float32, 32), make([]float32, 32)
				factorsGeneric(want, d, f, first)
				k.Factors(got, d, f, first)
				require.Equal(t, want, got, "%s, %d bits from %d", k.Name, bits, first)
			}
		}
	}
}

// BenchmarkFactors unpacks the sub-scales of a matrix of Q4_K.
func BenchmarkFactors(b *testing.B) {
	const supers = 6144
	f := &SubFactors{Bytes: make([]byte, 6*supers), Bits: 6, Per: 8}
	dst, d := make([]float32, 8*supers), make([]uint16, supers)
	for i := range d {
		d[i] = 0x3555
	}
	for _, k := range append(Available(), Generic()) {
		b.Run(k.Name, func(b *testing.B) {
			for b.Loop() {
				k.Factors(dst, d, f, 0)
			}
			b.ReportMetric(float64(len(dst))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gfactors/s")
		})
	}
}

// BenchmarkKernels runs each kernel on operands that fit the first-level cache.
func BenchmarkKernels(b *testing.B) {
	rng := rand.New(rand.NewPCG(4, 4))
	x, y, z, out := make([]float32, 4096), make([]float32, 4096), make([]float32, 4096), make([]float32, 64)
	for i := range x {
		x[i], y[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
	}
	halves, bytes := make([]uint16, 4096), make([]int8, 4096)
	for i := range halves {
		halves[i], bytes[i] = ToHalf(x[i]), int8(i)
	}
	for _, k := range append(Available(), Generic()) {
		for _, c := range []struct {
			name string
			n    int // products or values
			run  func()
		}{
			{"dot4", 4 * 1024, func() { k.Dot4(out, Rows{x, 1024}, Rows{y, 1024}, 1, 1024) }},
			{"dot4x4", 16 * 1024, func() { k.Dot4(out, Rows{x, 1024}, Rows{y, 1024}, 4, 1024) }},
			{"weighted", 4096, func() { k.Weighted(out, x[:64], y, 64) }},
			{"half", 4096, func() { k.Half(z, halves) }},
			{"scaled", 4096, func() { k.Scaled(z, bytes, y[:64]) }},
			{"exp", 64, func() { copy(z[:64], x); k.Exp(z[:64], 3) }},
			{"swiglu", 4096, func() { k.SwiGLU(z, x, y) }},
		} {
			b.Run(k.Name+"/"+c.name, func(b *testing.B) {
				for b.Loop() {
					c.run()
				}
				b.ReportMetric(float64(c.n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "G/s")
			})
		}
	}
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.IntN(256))
	}
	return b
}

// TestToHalf compares with another implementation around every float16 number.
func TestToHalf(t *testing.T) {
	for h := range 1 << 16 {
		middle := math.Float32bits(Half(uint16(h)))
		for _, b := range []uint32{middle, middle + 1, middle - 1, middle + 0xfff, middle + 0x1000, middle + 0x1001} {
			f := math.Float32frombits(b)
			if f != f {
				continue
			}
			want := float16.Fromfloat32(min(max(f, -maxHalf), maxHalf)).Bits()
			if want&0x7c00 == 0 {
				want &= 0x8000
			}
			require.Equal(t, want, ToHalf(f), "%g", f)
		}
	}
}

// Mix has the same bits in every instruction set.
func TestMixIsTheSameInEveryInstructionSet(t *testing.T) {
	for _, n := range []int{16, 48, 128} {
		for _, rows := range []int{0, 1, 5, 128} {
			rng := rand.New(rand.NewPCG(uint64(n), uint64(rows)))
			random := func(n int) []float32 {
				x := make([]float32, n)
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
				return x
			}
			m, g, x := random(rows*n), random(rows), random(n)
			want := slices.Clone(m)
			Generic().Mix(want, g, x, 0.75)
			for _, k := range Available() {
				got := slices.Clone(m)
				k.Mix(got, g, x, 0.75)
				require.Equal(t, want, got, "%s, %d × %d", k.Name, rows, n)
			}
		}
	}
}
