// Package cputest has the random matrices and the instruction sets that tests of the CPU backend run through.
package cputest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// Recipe describes a random matrix.
type Recipe struct {
	Name    string
	Coding  format.Coding
	scale   format.Scale
	min     bool // DMin (and SubMin where there are sub-scales)
	columns bool // ColScale
	sigma   float64
	wild    float64 // share of weights far outside the alphabet
	plain   bool    // SubMin without sub-scales
	Every   int     // columns must be a multiple; 0 = any
	order   bool
}

// Recipes cover all codings, scales and forms.
var Recipes = []Recipe{
	{Name: "row", Coding: format.Coding{Levels: 16, Zero: -8}, scale: format.Scale{Kind: format.ScaleRow, Scale: 0.01},
		sigma: 2, order: true},
	{Name: "row, low bits, outliers, columns", Coding: format.Coding{Levels: 16, LowBits: 2, Zero: -32},
		scale: format.Scale{Kind: format.ScaleRow, Scale: 0.01}, sigma: 4, wild: 0.004, columns: true, order: true},
	{Name: "row, 32 levels, outliers", Coding: format.Coding{Levels: 32, Zero: -16},
		scale: format.Scale{Kind: format.ScaleRow, Scale: 1}, sigma: 3, wild: 0.002},
	{Name: "tensor, 8 bits, minimum", Coding: format.Coding{Levels: 32, LowBits: 3},
		scale: format.Scale{Kind: format.ScaleTensor, Scale: 0.004, Min: -0.4}, sigma: 30},
	{Name: "wide integers", Coding: format.Coding{Levels: 32, LowBits: 5, Zero: -512},
		scale: format.Scale{Kind: format.ScaleTensor, Scale: 0.001}, sigma: 150, wild: 0.001},
	{Name: "blocks of 32", Coding: format.Coding{Levels: 16}, scale: format.Scale{Kind: format.ScaleBlock, Block: 32,
		Super: 32}, min: true, sigma: 5, Every: 32},
	{Name: "sub-scales of 16", Coding: format.Coding{Levels: 32, LowBits: 1, Zero: -32},
		scale: format.Scale{Kind: format.ScaleBlock, Block: 16, Super: 64, SubBits: 8}, sigma: 9, Every: 64},
	{Name: "sub-scales of 32, minima, outliers", Coding: format.Coding{Levels: 16, Zero: 1},
		scale: format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 64, SubBits: 6}, min: true, sigma: 2, wild: 0.01, Every: 64},
	{Name: "blocks of 128, sub-minima alone", Coding: format.Coding{Levels: 16, Zero: -1},
		scale: format.Scale{Kind: format.ScaleBlock, Block: 128, Super: 128, SubBits: 4}, min: true, plain: true, sigma: 2, Every: 128},
	{Name: "blocks of 64", Coding: format.Coding{Levels: 16, Zero: -8}, scale: format.Scale{Kind: format.ScaleBlock, Block: 64,
		Super: 64}, sigma: 2, Every: 64},
	{Name: "blocks of 24", Coding: format.Coding{Levels: 16, Zero: -8}, scale: format.Scale{Kind: format.ScaleBlock, Block: 24,
		Super: 24}, sigma: 2, Every: 24},
	{Name: "values", Coding: format.Coding{Levels: 16, Values: []int16{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38,
		53, 69, 89, 113}}, scale: format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 32}, sigma: 3, Every: 32},
	{Name: "bf16", Coding: format.Coding{Levels: 32, LowBits: 8, Zero: 100, Float: format.FloatBF16},
		scale: format.Scale{Kind: format.ScaleNone}},
	{Name: "bf16, columns", Coding: format.Coding{Levels: 32, LowBits: 8, Zero: 100, Float: format.FloatBF16},
		scale: format.Scale{Kind: format.ScaleNone}, columns: true},
	{Name: "row, 6 low bits of 8 levels", Coding: format.Coding{Levels: 8, LowBits: 6, Zero: -256},
		scale: format.Scale{Kind: format.ScaleRow, Scale: 0.001}, sigma: 60, wild: 0.002, columns: true, order: true},
	{Name: "f16", Coding: format.Coding{Levels: 32, LowBits: 11, Float: format.FloatF16},
		scale: format.Scale{Kind: format.ScaleNone}, wild: 0},
}

// Encode makes a random matrix of the recipe.
func (r *Recipe) Encode(t testing.TB, rng *rand.Rand, rows, cols int) (*format.Coded, []*huffman.Table) {
	m := &codec.Matrix{Rows: rows, Cols: cols, Coding: r.Coding, Scale: r.scale, Codes: make([]int32, rows*cols)}
	for i := range m.Codes {
		m.Codes[i] = r.code(rng)
	}
	halves := func(n int, scale float64) []uint16 {
		v := make([]uint16, n)
		for i := range v {
			v[i] = float16.Fromfloat32(float32((0.1 + rng.Float64()) * scale)).Bits()
		}
		return v
	}
	if r.order {
		for _, v := range rng.Perm(rows) {
			m.RowOrder = append(m.RowOrder, uint32(v))
		}
	}
	switch r.scale.Kind {
	case format.ScaleRow:
		m.RowScale = halves(rows, 1)
	case format.ScaleBlock:
		n := rows * cols / r.scale.Super
		m.D = halves(n, 0.01)
		if r.min {
			m.DMin = halves(n, -0.02)
		}
		if r.scale.SubBits > 0 {
			if !r.plain {
				m.SubScale = randomBytes(rng, rows*cols/r.scale.Block, 1<<r.scale.SubBits)
			}
			if r.min {
				m.SubMin = randomBytes(rng, rows*cols/r.scale.Block, 1<<r.scale.SubBits)
			}
		}
	}
	if r.columns {
		for range cols {
			m.ColScale = append(m.ColScale, 0.2+rng.Float32())
		}
	}
	c, tables, err := codec.EncodeMatrix(m)
	require.NoError(t, err)
	return c, tables
}

func (r *Recipe) code(rng *rand.Rand) int32 {
	top := r.Coding.Levels<<r.Coding.LowBits - 1
	if r.Coding.Float != format.NotFloat {
		exponent := int32(20 + rng.IntN(9))
		if r.Coding.Float == format.FloatF16 {
			exponent = int32(10 + rng.IntN(6))
		}
		return exponent<<r.Coding.LowBits | int32(rng.IntN(1<<r.Coding.LowBits))
	}
	k := int32(min(max(math.Round(rng.NormFloat64()*r.sigma+float64(top)/2), 0), float64(top)))
	if rng.Float64() < r.wild {
		k += int32((rng.IntN(41) - 20) << r.Coding.LowBits)
	}
	return k
}

func randomBytes(rng *rand.Rand, n, top int) []uint8 {
	v := make([]uint8, n)
	for i := range v {
		v[i] = uint8(rng.IntN(top))
	}
	return v
}

// Machine is a set of implementations that work together.
type Machine struct {
	K      *vec.Kernels
	Dot    dot.Kernels
	Decode isa.ISA
}

// Machines returns the portable one and those that this processor can run.
func Machines() []Machine {
	all := []Machine{{vec.Generic(), dot.With(isa.Generic), isa.Generic}}
	simd, isas := vec.Available(), dot.Available()
	for i := range len(isas) - 1 {
		d, k := isas[len(isas)-1-i], vec.Generic()
		if i < len(simd) {
			k = simd[i]
		}
		all = append(all, Machine{k, d, min(decode.Best(), d.ISA)})
		if d.FastNarrow() {
			all = append(all, Machine{k, d.WithBits(8), min(decode.Best(), d.ISA)})
		}
	}
	return all
}

// Tolerance is the normalized squared error that results may have. A cell of 8-bit activations is 1/127 of the largest of 64,
// which in these tests has nearly all of the signal.
func (m *Machine) Tolerance() float64 {
	if m.Dot == m.Dot.WithBits(8) {
		return 1e-3
	}
	return 1e-6
}
