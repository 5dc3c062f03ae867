package gguf

import (
	"math"
	"math/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func openBlocks(t *testing.T) (*File, map[string]*Tensor) {
	f, err := Open("testdata/blocks.gguf")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	byName := map[string]*Tensor{}
	for i := range f.Tensors {
		byName[f.Tensors[i].Name] = &f.Tensors[i]
	}
	return f, byName
}

func rowsOf(t *testing.T, f *File, ten *Tensor) []float32 {
	b, err := f.Rows(ten, 0, ten.Rows())
	require.NoError(t, err)
	x := make([]float32, ten.Rows()*ten.Cols())
	require.NoError(t, Dequantize(ten.Type, b, x))
	return x
}

func requireSameBits(t *testing.T, want, got []float32) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, math.Float32bits(want[i]), math.Float32bits(got[i]), "weight %d: want %g, got %g", i, want[i], got[i])
	}
}

// Every type against the gguf package's dequantizer (testdata/make.py), bit for bit.
func TestDequantizeGolden(t *testing.T) {
	f, byName := openBlocks(t)
	checked := map[Type]bool{F32: true}
	for name, ten := range byName {
		if strings.HasSuffix(name, ".f32") {
			continue
		}
		require.Equal(t, name, ten.Type.String())
		t.Run(name, func(t *testing.T) {
			requireSameBits(t, rowsOf(t, f, byName[name+".f32"]), rowsOf(t, f, ten))
		})
		checked[ten.Type] = true
	}
	require.Len(t, checked, len(allTraits))
}

// weightAt evaluates the formula in Layout's comment for one weight, straight from the definition.
func weightAt(l *Layout, b *Blocks, i int) float32 {
	q := float32(int32(b.Codes[i]) + l.Zero)
	if l.Values != nil {
		q = float32(l.Values[b.Codes[i]])
	}
	w := F16ToFloat(b.D[i/l.Super])
	switch l.SubBits {
	case 0:
	case 8:
		w *= float32(int8(b.SubScale[i/l.Block]))
	default:
		w *= float32(int(b.SubScale[i/l.Block]) + l.SubBias)
	}
	w *= q
	if l.HasMin {
		m := F16ToFloat(b.DMin[i/l.Super])
		if l.SubMin {
			m *= float32(b.SubMin[i/l.Block])
		}
		w += m
	}
	return w
}

// randomBlocks returns n random blocks with finite scales.
func randomBlocks(rng *rand.Rand, tr *traits, n int) []byte {
	b := make([]byte, n*tr.bytes)
	var c [256]uint8
	var s, m [maxSub]uint8
	for i := 0; i < n; {
		block := b[i*tr.bytes:][:tr.bytes]
		rng.Read(block)
		d, dmin := tr.unpack(block, c[:], s[:], m[:])
		if d&0x7c00 != 0x7c00 && dmin&0x7c00 != 0x7c00 {
			i++
		}
	}
	return b
}

// Integers and scales must mean the same weights as the floats, and stay within the layout's bounds.
func TestUnpackAgreesWithDequantize(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	var b Blocks // reused, so that leftovers of another type would show
	for kind, tr := range allTraits {
		l := kind.Layout()
		if l == nil {
			continue
		}
		n := 40 * tr.weights
		src := randomBlocks(rng, tr, 40)
		want := make([]float32, n)
		require.NoError(t, Dequantize(kind, src, want))
		require.NoError(t, Unpack(kind, src, n, &b))
		require.Len(t, b.Codes, n)
		require.Len(t, b.D, n/l.Super)
		require.Equal(t, l.HasMin, len(b.DMin) == n/l.Super)
		require.Equal(t, l.SubBits > 0, len(b.SubScale) == n/l.Block)
		require.Equal(t, l.SubMin, len(b.SubMin) == n/l.Block)
		got := make([]float32, n)
		for i := range got {
			require.Less(t, int(b.Codes[i]), l.Codes)
			got[i] = weightAt(l, &b, i)
		}
		for i := range b.SubScale {
			require.Less(t, int(b.SubScale[i]), 1<<l.SubBits)
		}
		requireSameBits(t, want, got)
	}
}

// A scale of MXFP4 may be any power of two, one that is kept as a float16 may not.
func TestScalesOfMXFP4AreFloat16(t *testing.T) {
	for exponent := range 256 {
		block := make([]byte, 17)
		block[0], block[1] = byte(exponent), 0xf2 // 1 and −6
		want := make([]float32, 32)
		require.NoError(t, Dequantize(MXFP4, block, want))
		if exponent < 255 {
			require.Equal(t, math.Ldexp(1, exponent-127), float64(want[0]))
			require.Equal(t, float32(-6*math.Ldexp(1, exponent-127)), want[16])
		} else {
			require.True(t, want[0] != want[0])
		}
		var b Blocks
		if err := Unpack(MXFP4, block, 32, &b); exponent < 104 || exponent > 143 {
			require.ErrorContains(t, err, "2^-24 to 2^15")
		} else {
			require.NoError(t, err)
			require.Equal(t, want[16], weightAt(MXFP4.Layout(), &b, 16))
		}
		block[1] = 0x80 // zeros only
		if err := Unpack(MXFP4, block, 32, &b); exponent == 255 {
			require.Error(t, err)
		} else {
			require.NoError(t, err)
			require.Zero(t, weightAt(MXFP4.Layout(), &b, 16))
		}
	}
}

func TestSizesAreChecked(t *testing.T) {
	require.Error(t, Dequantize(Q4_K, make([]byte, 143), make([]float32, 256)))
	require.Error(t, Dequantize(Q4_K, make([]byte, 144), make([]float32, 255)))
	require.ErrorContains(t, Dequantize(34, nil, nil), "TQ1_0 is not supported")
	require.Error(t, Unpack(F16, make([]byte, 2), 1, &Blocks{}))
	require.Error(t, Unpack(Q8_0, make([]byte, 33), 32, &Blocks{}))
	require.Error(t, Unpack(Q8_0, nil, -32, &Blocks{}))
	_, ok := Q4_K.Bytes(math.MaxUint64 &^ 255)
	require.False(t, ok)
}

func TestFloatToBF16(t *testing.T) {
	for bits, want := range map[uint32]uint16{
		0x3f800000: 0x3f80, 0x3f808000: 0x3f80, 0x3f818000: 0x3f82, 0x3f808001: 0x3f81, 0x7f7fffff: 0x7f80, 0x7f800001: 0x7fc0,
		0x80000001: 0x8000,
	} {
		require.Equal(t, want, FloatToBF16(math.Float32frombits(bits)), "%08x", bits)
	}
}

func BenchmarkDequantize(b *testing.B) {
	for _, kind := range []Type{F16, BF16, Q4_0, Q4_1, Q5_0, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS, IQ1_S, IQ1_M, IQ2_XXS,
		IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, MXFP4} {
		b.Run(kind.String(), func(b *testing.B) {
			tr := allTraits[kind]
			const n = 1 << 16
			src := make([]byte, n/tr.weights*tr.bytes)
			for i := range src {
				src[i] = byte(i*7) & 0x7b // no NaN scales
			}
			dst := make([]float32, n)
			for b.Loop() {
				if err := Dequantize(kind, src, dst); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
		})
	}
}
