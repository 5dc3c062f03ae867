package decode

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// isas returns the portable decoder and those that this processor can run.
func isas() []isa.ISA {
	all := []isa.ISA{isa.Generic}
	for i := isa.AVX2; i <= Best(); i++ {
		all = append(all, i)
	}
	return all
}

// coded codes random levels as one matrix and returns it with the integers (a<<s | lo) it stands for.
func coded(t testing.TB, rng *rand.Rand, rows, cols, levels, lowBits, maxLen int, sigma float64) (*format.Coded,
	[]*huffman.Table, []uint16) {
	return grouped(t, rng, 13, rows, cols, levels, lowBits, maxLen, sigma)
}

// grouped is coded for groups of any height.
func grouped(t testing.TB, rng *rand.Rand, perGroup, rows, cols, levels, lowBits, maxLen int, sigma float64) (*format.Coded,
	[]*huffman.Table, []uint16) {
	c := &format.Coded{Rows: rows, Cols: cols, Coding: format.Coding{Levels: levels, LowBits: lowBits, Zero: -5}}
	c.Coding.RowsPerGroup = min(rows, perGroup)
	stride := c.Steps() * format.StepCols
	m := make([]uint8, rows*stride)
	hist := make([]uint64, levels*levels)
	for i := range m {
		m[i] = uint8(min(max(math.Round(rng.NormFloat64()*sigma)+float64(levels/2), 0), float64(levels-1)))
		if i%2 == 1 {
			hist[int(m[i-1])*levels+int(m[i])]++
		}
	}
	var tables []*huffman.Table
	for range 2 { // neighbouring chunks have different tables
		tab, err := huffman.Build(hist, levels, maxLen)
		require.NoError(t, err)
		tables = append(tables, tab)
		for i := range hist {
			if hist[i] > 0 {
				hist[i] += hist[len(hist)-1-i]
			}
		}
	}
	for g := range c.Groups() {
		for k := range c.Tiles() {
			c.ChunkTable = append(c.ChunkTable, uint8((g+k)%2))
			c.ChunkOffset = append(c.ChunkOffset, uint32(len(c.Stream)))
			words, main, tail, err := tables[(g+k)%2].EncodeChunk(c.Stream,
				m[g*c.Coding.RowsPerGroup*stride+k*c.StepsPerTile()*format.StepCols:], stride, c.TileSteps(k), c.GroupRows(g))
			require.NoError(t, err)
			for len(words)%8 != 0 {
				words = append(words, 0)
			}
			c.Stream, c.MainWords, c.LaneTail = words, append(c.MainWords, uint16(main)), append(c.LaneTail, tail[:]...)
		}
	}
	c.ChunkOffset = append(c.ChunkOffset, uint32(len(c.Stream)))
	c.Stream = append(c.Stream, make([]uint32, c.GuardWords())...)
	want := make([]uint16, len(m))
	for i, a := range m {
		want[i] = uint16(a) << lowBits
	}
	addLow(rng, c, want, stride)
	return c, tables, want
}

// addLow fills the low-bit plane with random bits and adds them to the integers, bit by bit as docs/format.md 6.4 says.
func addLow(rng *rand.Rand, c *format.Coded, want []uint16, stride int) {
	s := c.Coding.LowBits
	if s == 0 {
		return
	}
	c.Low = make([]uint32, c.LowOffset(c.Groups(), 0))
	for i := range c.Low {
		c.Low[i] = rng.Uint32()
	}
	for g := range c.Groups() {
		for k := range c.Tiles() {
			for lane := range huffman.Lanes {
				bit := 0
				for r := range c.GroupRows(g) {
					for st := range c.TileSteps(k) {
						for i := range 2 * s {
							w := c.Low[c.LowOffset(g, k)+bit/32*32+lane]
							at := (g*c.Coding.RowsPerGroup+r)*stride + (k*c.StepsPerTile()+st)*format.StepCols + 2*lane + i/s
							want[at] |= uint16(w >> (bit % 32) & 1 << (i % s))
							bit++
						}
					}
				}
			}
		}
	}
}

func TestDecodersAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, cols := range []int{1, 64, 130, 576, 2112} {
		for _, rows := range []int{1, 13, 31} {
			for _, lv := range []int{2, 16, 32} {
				for s := range 9 {
					for _, sigma := range []float64{0.2, 1, 5} {
						check(t, rng, rows, cols, lv, s, sigma)
					}
				}
			}
		}
	}
	for s := 4; s <= 11; s++ {
		check(t, rng, 20, 200, 32, s, 3) // from 9 bits on, wide
	}
}

// TestTallGroups decodes chunks whose lanes are longer than what the portable decoder collects at a time, with codes of all
// lengths.
func TestTallGroups(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, cols := range []int{2048, 1984, 576} {
		for _, sigma := range []float64{0.2, 3, 9} {
			c, tables, want := grouped(t, rng, format.MaxRowsPerGroup, 130, cols, 32, 0, 12, sigma)
			for _, isa := range isas() {
				require.True(t, slices.Equal(want, decodeAll(t, c, tables, isa)), "%s, %d columns", isa, cols)
			}
		}
	}
}

// decodeAll decodes c to integers a<<s | lo.
func decodeAll(t testing.TB, c *format.Coded, tables []*huffman.Table, isa isa.ISA) []uint16 {
	m, err := New(c, NewTables(tables), isa)
	require.NoError(t, err)
	stride := c.Steps() * format.StepCols
	out, bytes := make([]uint16, c.Rows*stride), make([]byte, c.Rows*stride)
	if m.Wide() {
		for g := range c.Groups() {
			m.GroupWide(g, out[g*c.Coding.RowsPerGroup*stride:], stride)
		}
		return out
	}
	for g := range c.Groups() {
		m.Group(g, bytes[g*c.Coding.RowsPerGroup*stride:], stride)
	}
	for i, u := range bytes {
		out[i] = uint16(u)
	}
	if !m.Split() {
		return out
	}
	for g := range c.Groups() {
		for k := range c.Tiles() {
			m.Low(g, k, bytes[g*c.Coding.RowsPerGroup*stride+k*c.StepsPerTile()*format.StepCols:], stride)
		}
	}
	for i, u := range bytes {
		out[i] = out[i]<<c.Coding.LowBits | uint16(u)
	}
	return out
}

func check(t *testing.T, rng *rand.Rand, rows, cols, levels, lowBits int, sigma float64) {
	t.Helper()
	c, tables, want := coded(t, rng, rows, cols, levels, lowBits, 12, sigma)
	for _, isa := range isas() {
		for i, v := range decodeAll(t, c, tables, isa) {
			if v != want[i] {
				t.Fatalf("%s, %d × %d, %d levels, %d low bits: code %d is %d, expected %d", isa, rows, cols, levels, lowBits, i, v, want[i])
			}
		}
	}
}

func TestValues(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	c, tables, want := coded(t, rng, 9, 64, 16, 0, 12, 2)
	for a := range 16 {
		c.Coding.Values = append(c.Coding.Values, int16(a*a-127))
	}
	for _, isa := range isas() {
		m, err := New(c, NewTables(tables), isa)
		require.NoError(t, err)
		got := make([]byte, 9*64)
		m.Group(0, got, 64)
		for i, u := range got {
			require.Equal(t, int(c.Coding.Values[want[i]]), m.Base+int(u))
		}
	}
	c.Coding.Values[0] = 1000
	_, err := New(c, NewTables(tables), isa.Generic)
	require.ErrorContains(t, err, "do not fit a byte")
}

// TestCorruptStreamStaysInside decodes random words in place of a stream: the result is meaningless, but all decoders read the
// same words and none leaves the slice.
func TestCorruptStreamStaysInside(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 50 {
		c, tables, _ := coded(t, rng, 13, 576, 16, 1, 12, 2)
		stream := make([]uint32, len(c.Stream)) // exactly the part: reading further would be caught in the portable decoder
		for i := range stream {
			stream[i] = rng.Uint32()
		}
		c.Stream = stream
		var first []byte
		for _, isa := range isas() {
			m, err := New(c, NewTables(tables), isa)
			require.NoError(t, err)
			got := make([]byte, 13*576)
			m.Group(0, got, 576)
			if first == nil {
				first = got
			}
			require.Equal(t, first, got, "%s", isa)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	for _, s := range []int{0, 1, 4} {
		for _, sigma := range []float64{1, 2, 3} {
			rng := rand.New(rand.NewPCG(4, 4))
			c, tables, _ := coded(b, rng, 13, 2048, 16, s, 12, sigma)
			for _, isa := range isas() {
				b.Run(fmt.Sprintf("%s/low=%d/sigma=%g", isa, s, sigma), func(b *testing.B) {
					m, err := New(c, NewTables(tables), isa)
					require.NoError(b, err)
					dst := make([]byte, 13*2048)
					for b.Loop() {
						m.Chunk(0, 0, dst, 2048)
					}
					b.ReportMetric(float64(len(dst))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
				})
			}
		}
	}
}

// TestInstructionsAreUsed checks that codings of models do not fall back to portable code.
func TestInstructionsAreUsed(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, isa := range isas() {
		for low := range 9 {
			c, tables, _ := coded(t, rng, 5, 128, 16, low, 12, 2)
			m, err := New(c, NewTables(tables), isa)
			require.NoError(t, err)
			require.Equal(t, isa, m.isa, "%d low bits", low)
			require.Equal(t, low > maxFastLow, m.Split())
		}
	}
}
