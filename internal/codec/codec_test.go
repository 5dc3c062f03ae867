package codec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
)

// random returns a matrix of bell-shaped codes around the middle of the alphabet, with rows of different width and a few far
// outliers.
func random(rng *rand.Rand, rows, cols int, k format.Coding, s format.Scale) *Matrix {
	m := &Matrix{Rows: rows, Cols: cols, Coding: k, Scale: s, Codes: make([]int32, rows*cols)}
	span := float64(int(k.Levels) << k.LowBits)
	for r := range rows {
		width := span / 10 * (0.3 + rng.Float64())
		for i := range cols {
			q := span/2 + width*rng.NormFloat64()
			if k.Values == nil && rng.IntN(500) == 0 {
				q += 20 * span * rng.NormFloat64()
			}
			if k.Values != nil {
				q = min(max(q, 0), span-1)
			}
			m.Codes[r*cols+i] = int32(math.Floor(q))
		}
	}
	return m
}

func halves(rng *rand.Rand, n int) []uint16 {
	v := make([]uint16, n)
	for i := range v {
		v[i] = uint16(float16.Fromfloat32(rng.Float32() + 0.01))
	}
	return v
}

func decodeCodes(t *testing.T, m *Matrix, c *format.Coded, d *Decoder) []int32 {
	out := make([]int32, m.Rows*m.Cols)
	var buf []int32
	var err error
	for g := range c.Groups() {
		buf, err = d.Codes(g, buf)
		require.NoError(t, err)
		bits, err := d.CodeBits(g)
		require.NoError(t, err)
		// Each of 32 lanes may end in the middle of a word, and a chunk in the middle of 8 words.
		words := c.ChunkOffset[(g+1)*c.Tiles()] - c.ChunkOffset[g*c.Tiles()]
		require.GreaterOrEqual(t, 32*int64(words), bits)
		require.Less(t, 32*int64(words)-bits, int64(c.Tiles()*(32*32+8*32)))
		for i := range c.GroupRows(g) {
			copy(out[c.Row(g*c.Coding.RowsPerGroup+i)*m.Cols:], buf[i*m.Cols:(i+1)*m.Cols])
		}
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	shapes := [][2]int{{1, 1}, {3, 2}, {5, 63}, {7, 64}, {130, 65}, {40, 576}, {9, 2047}, {3, 2112}, {33, 4160}}
	codings := []format.Coding{
		{Levels: 16}, {Levels: 32, Zero: -16}, {Levels: 2}, {Levels: 16, LowBits: 4, Zero: -128}, {Levels: 32, LowBits: 3},
		{Levels: 5, LowBits: 1}, {Levels: 32, LowBits: 11}, {Levels: 16, RowsPerGroup: 128},
	}
	for _, sh := range shapes {
		for n, k := range codings {
			t.Run(fmt.Sprint(sh, k), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(n), 7))
				m := random(rng, sh[0], sh[1], k, format.Scale{Kind: format.ScaleRow, Scale: 0.5})
				m.RowScale = halves(rng, m.Rows)
				if n%2 == 0 {
					for _, r := range rng.Perm(m.Rows) {
						m.RowOrder = append(m.RowOrder, uint32(r))
					}
				}
				c, tables, err := EncodeMatrix(m)
				require.NoError(t, err)
				d, err := NewDecoder(c, tables)
				require.NoError(t, err)
				require.Equal(t, m.Codes, decodeCodes(t, m, c, d))
				w, err := Decode(c, tables)
				require.NoError(t, err)
				for i, q := range m.Codes {
					want := 0.5 * float16.Frombits(m.RowScale[i/m.Cols]).Float32() * float32(k.Zero+q)
					if want != w[i] {
						require.Equal(t, want, w[i], "weight %d", i)
					}
				}
			})
		}
	}
}

func TestBlockScales(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, bits := range []int{4, 6, 8} {
		s := format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 256, SubBits: bits, SubBias: -3}
		m := random(rng, 12, 512, format.Coding{Levels: 16, RowsPerGroup: 5}, s)
		m.RowOrder = []uint32{11, 3, 5, 0, 1, 2, 4, 6, 10, 9, 8, 7}
		m.D, m.DMin = halves(rng, 12*2), halves(rng, 12*2)
		for range 12 * 16 {
			m.SubScale = append(m.SubScale, uint8(rng.IntN(1<<bits)))
			m.SubMin = append(m.SubMin, uint8(rng.IntN(1<<bits)))
		}
		c, tables, err := EncodeMatrix(m)
		require.NoError(t, err)
		w, err := Decode(c, tables)
		require.NoError(t, err)
		for i, q := range m.Codes {
			sub := int(m.SubScale[i/32])
			if bits == 8 {
				sub = int(int8(sub))
			}
			scale := half(m.D[i/256]) * float32(sub-3)
			want := float32(scale*float32(q)) + half(m.DMin[i/256])*float32(m.SubMin[i/32])
			require.Equal(t, want, w[i], "%d bits, weight %d", bits, i)
		}
	}
}

func TestFloatsAndValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	want := make([]float32, 20*100)
	codes := make([]int32, len(want))
	const zero = 100
	for i := range want {
		w := math.Float32frombits(math.Float32bits(float32(0.02*rng.NormFloat64())) &^ 0xffff)
		if i%97 == 0 {
			w = 0
		}
		b := math.Float32bits(w)
		want[i] = w
		codes[i] = (int32(b>>23&0xff)-zero)<<8 | int32(b>>31)<<7 | int32(b>>16&0x7f)
	}
	m := &Matrix{Rows: 20, Cols: 100, Codes: codes, Coding: format.Coding{Levels: 32, LowBits: 8, Zero: zero,
		Float: format.FloatBF16}, Scale: format.Scale{Kind: format.ScaleNone}}
	c, tables, err := EncodeMatrix(m)
	require.NoError(t, err)
	got, err := Decode(c, tables)
	require.NoError(t, err)
	require.Equal(t, want, got)

	values := []int16{-127, -50, 0, 3, 89}
	k := format.Coding{Levels: 5, Values: values}
	m = random(rng, 6, 70, k, format.Scale{Kind: format.ScaleTensor, Scale: 2, Min: 1})
	c, tables, err = EncodeMatrix(m)
	require.NoError(t, err)
	got, err = Decode(c, tables)
	require.NoError(t, err)
	for i, q := range m.Codes {
		require.Equal(t, 2*float32(values[q])+1, got[i])
	}
}

// The coded size of Gaussian codes, everything but scales counted, must be within 2 % of their entropy above 2 bits.
func TestCloseToEntropy(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, sigma := range []float64{1.2, 2, 4, 8, 30} {
		k := format.Coding{Levels: 16}
		for float64(k.Levels<<k.LowBits) < 8*sigma {
			k.LowBits++
		}
		k.Zero = -int32(k.Levels << k.LowBits / 2)
		const rows, cols = 1024, 2048
		m := &Matrix{Rows: rows, Cols: cols, Coding: k, Scale: format.Scale{Kind: format.ScaleTensor}, Codes: make([]int32, rows*cols)}
		hist := make([]uint64, 1<<12)
		for i := range m.Codes {
			q := int32(math.Round(sigma * rng.NormFloat64()))
			m.Codes[i] = q - k.Zero
			hist[q+1<<11]++
		}
		c, tables, err := EncodeMatrix(m)
		require.NoError(t, err)
		bytes := 4*(len(c.Stream)+len(c.Low)+len(c.ChunkOffset)+len(c.Outliers)+len(c.OutlierStart)) + 2*len(c.MainWords) +
			len(c.LaneTail) + len(c.ChunkTable)
		for _, t := range tables {
			bytes += t.Levels * t.Levels / 2
		}
		h := Entropy(hist)
		t.Logf("sigma %g: entropy %.3f, %.2f %% over it", sigma, h, 100*(float64(8*bytes)/(rows*cols*h)-1))
		require.Less(t, float64(8*bytes)/(rows*cols), 1.02*h, "sigma %g, %d low bits, entropy %g", sigma, k.LowBits, h)
	}
}

func TestPackBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	for bits := 1; bits <= 8; bits++ {
		v := make([]uint8, 77)
		for i := range v {
			v[i] = uint8(rng.IntN(1 << bits))
		}
		b := PackBits(v, bits)
		require.Len(t, b, (77*bits+7)/8)
		for i := range v {
			require.Equal(t, int(v[i]), UnpackBits(b, bits, i))
		}
	}
}

func TestTooManyBinsAreMerged(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 11))
	bins := NewBins()
	for i := range 300 {
		h := make([]uint64, symbols(4))
		for j := range h {
			h[j] = uint64(rng.IntN(1 << 20))
		}
		bins.hist[binKey{levels: 4, class: i}] = h
	}
	_, tables, err := bins.Build()
	require.NoError(t, err)
	require.LessOrEqual(t, len(tables), maxTables)
}

// GPUs know no outliers of codings with values: however rare a pair is, it has a code, even if a table is shared with another
// matrix.
func TestValuesHaveNoOutliers(t *testing.T) {
	values := &Matrix{Rows: 64, Cols: 4096, Coding: format.Coding{Levels: 16, Values: make([]int16, 16)},
		Scale: format.Scale{Kind: format.ScaleTensor, Scale: 1}}
	values.Codes = make([]int32, values.Rows*values.Cols)
	for i := range values.Codes {
		values.Codes[i] = int32(7 + i%2)
	}
	for a := range int32(16) {
		values.Codes[1000*a], values.Codes[1000*a+1] = a, 15-a
	}
	other := *values
	other.Coding.Values = nil
	bins := NewBins()
	for _, m := range []*Matrix{values, &other} {
		tr := NewTrainer(m.Cols, m.Coding, false)
		require.NoError(t, tr.Add(0, m.Codes))
		tr.AddTo(bins)
	}
	_, tables, err := bins.Build()
	require.NoError(t, err)
	c, err := values.Encode(tables)
	require.NoError(t, err)
	require.Empty(t, c.Outliers)
	c, _, err = EncodeMatrix(&other)
	require.NoError(t, err)
	require.NotEmpty(t, c.Outliers, "these are as rare that a code would cost more")
}
