package huffman

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// gaussianPairs returns rows × cols levels of a discretized normal distribution, and the histogram of their pairs.
func gaussianPairs(rng *rand.Rand, rows, cols, levels int, sigma float64) ([]uint8, []uint64) {
	m := make([]uint8, rows*cols)
	for i := range m {
		a := math.Round(rng.NormFloat64()*sigma) + float64(levels/2)
		m[i] = uint8(min(max(a, 0), float64(levels-1)))
	}
	hist := make([]uint64, levels*levels)
	for i := 0; i < len(m); i += 2 {
		hist[int(m[i])*levels+int(m[i+1])]++
	}
	return m, hist
}

func entropy(hist []uint64) float64 {
	n, h := 0.0, 0.0
	for _, c := range hist {
		n += float64(c)
	}
	for _, c := range hist {
		if c > 0 {
			h -= float64(c) * math.Log2(float64(c)/n)
		}
	}
	return h
}

func TestChunkRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		levels, maxLen, steps, rows int
		sigma                       float64
	}{{16, 12, 9, 31, 2.6}, {16, 10, 32, 16, 1}, {32, 12, 24, 33, 4.3}, {2, 3, 1, 1, 0.3}, {5, 12, 3, 128, 0.4}, {32, 11, 1, 2, 9}} {
		stride := c.steps*2*Lanes + 6
		m, _ := gaussianPairs(rng, c.rows, stride, c.levels, c.sigma)
		hist := make([]uint64, c.levels*c.levels)
		for r := range c.rows {
			for i := 0; i < c.steps*2*Lanes; i += 2 {
				hist[int(m[r*stride+i])*c.levels+int(m[r*stride+i+1])]++
			}
		}
		tab, err := Build(hist, c.levels, c.maxLen)
		require.NoError(t, err)
		require.NoError(t, tab.Validate())
		words, main, tail, err := tab.EncodeChunk(nil, m, stride, c.steps, c.rows)
		require.NoError(t, err)
		got := make([]uint8, len(m))
		copy(got, m) // bytes outside the chunk's columns stay as they are
		for r := range c.rows {
			clear(got[r*stride:][:c.steps*2*Lanes])
		}
		require.NoError(t, DecodeChunk(tab.Lookup(), tab.MaxLen, words, main, tail[:], c.steps, c.rows, got, stride))
		require.Equal(t, m, got)

		coded, ok := tab.Bits(hist)
		require.True(t, ok)
		require.GreaterOrEqual(t, float64(coded), entropy(hist)-1e-6, "a code below the entropy cannot be right")
		require.GreaterOrEqual(t, 32*len(words), int(coded))
		require.Less(t, 32*len(words), int(coded)+32*Lanes, "lanes are padded to whole words only")
	}
}

func TestCorruptStreamIsReported(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	m, hist := gaussianPairs(rng, 16, 64, 16, 2)
	tab, err := Build(hist, 16, 12)
	require.NoError(t, err)
	words, main, tail, err := tab.EncodeChunk(nil, m, 64, 1, 16)
	require.NoError(t, err)
	dst := make([]uint8, len(m))
	require.ErrorIs(t, DecodeChunk(tab.Lookup(), 12, words[:len(words)-40], main, tail[:], 1, 16, dst, 64), ErrCorrupt)
	require.ErrorIs(t, DecodeChunk(tab.Lookup(), 12, words, main-1, make([]uint8, Lanes), 1, 16, dst, 64), ErrCorrupt)
}

// TestBuildIsOptimal compares with Huffman's algorithm where no limit binds, and with exhaustive search where one does.
func TestBuildIsOptimal(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		hist := make([]uint64, 4)
		for i := range hist {
			hist[i] = 1 + rng.Uint64N(1<<uint(1+rng.IntN(12)))
		}
		for _, limit := range []int{2, 3, 12} {
			tab, err := Build(hist, 2, limit)
			require.NoError(t, err)
			got, _ := tab.Bits(hist)
			require.Equal(t, exhaustive(hist, limit), got, "%v limit %d", hist, limit)
		}
	}
}

// exhaustive tries all length assignments of four symbols that satisfy Kraft's inequality.
func exhaustive(hist []uint64, limit int) uint64 {
	best := uint64(math.MaxUint64)
	limit = min(limit, 4)
	var l [4]int
	for l[0] = 1; l[0] <= limit; l[0]++ {
		for l[1] = 1; l[1] <= limit; l[1]++ {
			for l[2] = 1; l[2] <= limit; l[2]++ {
				for l[3] = 1; l[3] <= limit; l[3]++ {
					kraft, cost := 0.0, uint64(0)
					for i, n := range l {
						kraft += math.Ldexp(1, -n)
						cost += hist[i] * uint64(n)
					}
					if kraft <= 1 {
						best = min(best, cost)
					}
				}
			}
		}
	}
	return best
}

// TestPairRedundancy bounds what a pair of Gaussian weights costs over its entropy.
func TestPairRedundancy(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, c := range []struct {
		levels       int
		sigma, bound float64 // bits per weight
	}{{16, 0.9, 0.030}, {16, 1.94, 0.030}, {16, 2.6, 0.030}, {32, 3, 0.055}} {
		_, hist := gaussianPairs(rng, 1024, 1024, c.levels, c.sigma)
		tab, err := Build(hist, c.levels, MaxCodeLen)
		require.NoError(t, err)
		coded, _ := tab.Bits(hist)
		perWeight := (float64(coded) - entropy(hist)) / (1024 * 1024)
		require.Less(t, perWeight, c.bound, "sigma %g", c.sigma)
	}
}

func TestBuildRejects(t *testing.T) {
	_, err := Build(make([]uint64, 4), 1, 12)
	require.Error(t, err)
	_, err = Build(make([]uint64, 5), 2, 12)
	require.Error(t, err)
	_, err = Build([]uint64{1, 1, 1, 1}, 2, 1)
	require.ErrorContains(t, err, "do not fit")
	tab, err := Build(make([]uint64, 4), 2, 12)
	require.NoError(t, err)
	require.NoError(t, tab.Validate(), "an empty histogram still gives a complete code")
	tab.Lens[3] = 1
	require.ErrorContains(t, tab.Validate(), "not complete")
}

// FuzzDecodeChunk feeds arbitrary words to the reference decoder: it may fail, it must not panic or write a level outside the
// alphabet.
func FuzzDecodeChunk(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 10))
	_, hist := gaussianPairs(rng, 8, 64, 7, 1.5)
	tab, err := Build(hist, 7, 11)
	require.NoError(f, err)
	lut := tab.Lookup()
	f.Add([]byte("some bytes that are no stream of this table"), uint8(1), uint8(3), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, main, tail0, rows uint8) {
		words := make([]uint32, len(b)/4)
		for i := range words {
			words[i] = uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24
		}
		var tail [Lanes]uint8
		tail[0] = tail0
		n := int(rows%8) + 1
		dst := make([]uint8, n*64)
		if DecodeChunk(lut, tab.MaxLen, words, int(main), tail[:], 1, n, dst, 64) == nil {
			for _, a := range dst {
				require.Less(t, int(a), 7)
			}
		}
	})
}
