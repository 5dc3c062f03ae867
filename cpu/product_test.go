package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// recipe describes a random matrix.
type recipe struct {
	name    string
	coding  format.Coding
	scale   format.Scale
	min     bool // DMin (and SubMin where there are sub-scales)
	columns bool // ColScale
	sigma   float64
	wild    float64 // share of weights far outside the alphabet
	plain   bool    // SubMin without sub-scales
	every   int     // columns must be a multiple; 0 = any
	order   bool
}

var recipes = []recipe{
	{name: "row", coding: format.Coding{Levels: 16, Zero: -8}, scale: format.Scale{Kind: format.ScaleRow, Scale: 0.01}, sigma: 2, order: true},
	{name: "row, low bits, outliers, columns", coding: format.Coding{Levels: 16, LowBits: 2, Zero: -32}, scale: format.Scale{Kind: format.ScaleRow, Scale: 0.01}, sigma: 4, wild: 0.004, columns: true, order: true},
	{name: "row, 32 levels, outliers", coding: format.Coding{Levels: 32, Zero: -16}, scale: format.Scale{Kind: format.ScaleRow, Scale: 1}, sigma: 3, wild: 0.002},
	{name: "tensor, 8 bits, minimum", coding: format.Coding{Levels: 32, LowBits: 3}, scale: format.Scale{Kind: format.ScaleTensor, Scale: 0.004, Min: -0.4}, sigma: 30},
	{name: "wide integers", coding: format.Coding{Levels: 32, LowBits: 5, Zero: -512}, scale: format.Scale{Kind: format.ScaleTensor, Scale: 0.001}, sigma: 150, wild: 0.001},
	{name: "blocks of 32", coding: format.Coding{Levels: 16}, scale: format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 32}, min: true, sigma: 5, every: 32},
	{name: "sub-scales of 16", coding: format.Coding{Levels: 32, LowBits: 1, Zero: -32}, scale: format.Scale{Kind: format.ScaleBlock, Block: 16, Super: 64, SubBits: 8}, sigma: 9, every: 64},
	{name: "sub-scales of 32, minima, outliers", coding: format.Coding{Levels: 16, Zero: 1}, scale: format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 64, SubBits: 6}, min: true, sigma: 2, wild: 0.01, every: 64},
	{name: "blocks of 128, sub-minima alone", coding: format.Coding{Levels: 16, Zero: -1}, scale: format.Scale{Kind: format.ScaleBlock, Block: 128, Super: 128, SubBits: 4}, min: true, plain: true, sigma: 2, every: 128},
	{name: "blocks of 64", coding: format.Coding{Levels: 16, Zero: -8}, scale: format.Scale{Kind: format.ScaleBlock, Block: 64, Super: 64}, sigma: 2, every: 64},
	{name: "blocks of 24", coding: format.Coding{Levels: 16, Zero: -8}, scale: format.Scale{Kind: format.ScaleBlock, Block: 24, Super: 24}, sigma: 2, every: 24},
	{name: "values", coding: format.Coding{Levels: 16, Values: []int16{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}}, scale: format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 32}, sigma: 3, every: 32},
	{name: "bf16", coding: format.Coding{Levels: 32, LowBits: 8, Zero: 100, Float: format.FloatBF16}, scale: format.Scale{Kind: format.ScaleNone}},
	{name: "bf16, columns", coding: format.Coding{Levels: 32, LowBits: 8, Zero: 100, Float: format.FloatBF16}, scale: format.Scale{Kind: format.ScaleNone}, columns: true},
	{name: "row, 6 low bits of 8 levels", coding: format.Coding{Levels: 8, LowBits: 6, Zero: -256}, scale: format.Scale{Kind: format.ScaleRow, Scale: 0.001}, sigma: 60, wild: 0.002, columns: true, order: true},
	{name: "f16", coding: format.Coding{Levels: 32, LowBits: 11, Float: format.FloatF16}, scale: format.Scale{Kind: format.ScaleNone}, wild: 0},
}

// encode makes a random matrix of the recipe.
func (r *recipe) encode(t testing.TB, rng *rand.Rand, rows, cols int) (*format.Coded, []*huffman.Table) {
	m := &codec.Matrix{Rows: rows, Cols: cols, Coding: r.coding, Scale: r.scale, Codes: make([]int32, rows*cols)}
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

func (r *recipe) code(rng *rand.Rand) int32 {
	top := r.coding.Levels<<r.coding.LowBits - 1
	if r.coding.Float != format.NotFloat {
		exponent := int32(20 + rng.IntN(9))
		if r.coding.Float == format.FloatF16 {
			exponent = int32(10 + rng.IntN(6))
		}
		return exponent<<r.coding.LowBits | int32(rng.IntN(1<<r.coding.LowBits))
	}
	k := int32(min(max(math.Round(rng.NormFloat64()*r.sigma+float64(top)/2), 0), float64(top)))
	if rng.Float64() < r.wild {
		k += int32((rng.IntN(41) - 20) << r.coding.LowBits)
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

// machine is a set of implementations that work together.
type machine struct {
	k      *kernels
	dot    dot.ISA
	decode decode.ISA
}

// machines returns the portable one and those that this processor can run.
func machines() []machine {
	all := []machine{{genericKernels(), dot.Generic, decode.Generic}}
	simd, isas := simdKernels(), dot.Available()
	for i := range len(isas) - 1 {
		d, k := isas[len(isas)-1-i], genericKernels()
		if i < len(simd) {
			k = simd[i]
		}
		all = append(all, machine{k, d, min(decode.Best(), decode.ISA(d))})
	}
	return all
}

// multiplyMatrix multiplies m with x (tokens × cols) as a backend would, in one batch or token by token.
func multiplyMatrix(mc machine, m *matrix, x []float32, tokens, batch int) []float32 {
	stride := m.stride()
	padded := make([]float32, tokens*stride)
	for t := range tokens {
		copy(padded[t*stride:], x[t*m.cols:(t+1)*m.cols])
	}
	s := sizes{batch: batch, unitRows: plainUnit}
	m.multiplied = true
	s.add(m, m.isResident())
	w, _ := s.alloc(&model.Config{NHeads: 1, NKVHeads: 1, HeadDim: 16}, false)
	w.k, w.isa = mc.k, mc.dot
	y := make([]float32, tokens*m.rows)
	var a activations
	if m.floats == nil {
		l := layoutOf(m)
		a.alloc([]layout{l}, tokens, false)
		a.use(&l)
		for t := range tokens {
			a.quantize(mc.dot, t, padded[t*stride:(t+1)*stride], w.row)
		}
	}
	for t := 0; t < tokens; t += batch {
		n := min(batch, tokens-t)
		p := &product{m: m, x: padded[t*stride:], xStride: stride, q: &a, qFirst: t, y: y[t*m.rows:], yStride: m.rows, tokens: n}
		for u := range m.units() {
			w.unit(p, u)
		}
	}
	return y
}

func TestProducts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const tokens = 7
	corrected := map[dot.ISA]int{}
	for i := range recipes {
		r := &recipes[i]
		for _, shape := range [][2]int{{1, 1}, {31, 63}, {33, 64}, {5, 65}, {40, 576}, {33, 2112}} {
			rows, cols := shape[0], shape[1]
			if r.every > 0 {
				cols = roundUp(cols, r.every)
			}
			c, tables := r.encode(t, rng, rows, cols)
			weights, err := codec.Decode(c, tables)
			require.NoError(t, err)
			x := make([]float32, tokens*cols)
			for j := range x {
				x[j] = float32(rng.NormFloat64())
			}
			x[rng.IntN(len(x))] *= 20
			for _, mc := range machines() {
				corrected[mc.dot] += checkProduct(t, fmt.Sprintf("%s, %d × %d, %s", r.name, rows, cols, mc.dot), mc, c, tables, weights, x, tokens)
			}
		}
	}
	for isa, n := range corrected {
		require.Equal(t, !isa.HasEscapes(), n > 0, "%s: %d corrections", isa, n)
	}
}

// checkProduct compares both plans, all resident forms and several batch sizes with each other, bit for bit, and with sums in float64. It returns how many
// corrections the forms had.
func checkProduct(t *testing.T, name string, mc machine, c *format.Coded, tables []*huffman.Table, weights, x []float32, tokens int) (corrections int) {
	t.Helper()
	tensor := &format.Tensor{Name: name, Rows: c.Rows, Cols: c.Cols, Coded: c}
	fused, err := newMatrix(tensor, decode.NewTables(tables), mc.decode)
	require.NoError(t, err)
	resident, err := newMatrix(tensor, decode.NewTables(tables), mc.decode)
	require.NoError(t, err)
	b := &Backend{k: mc.k, dot: mc.dot, decode: mc.decode, pool: newPool(2)}
	defer b.pool.close()
	resident.chooseForm(mc.dot)
	require.NoError(t, b.decodeMatrix(resident))

	got := multiplyMatrix(mc, fused, x, tokens, tokens)
	signal, noise := 0.0, 0.0
	for k := range tokens {
		for r := range c.Rows {
			want := 0.0
			for j := range c.Cols {
				want += float64(weights[r*c.Cols+j]) * float64(x[k*c.Cols+j])
			}
			d := want - float64(got[k*c.Rows+r])
			signal += want * want
			noise += d * d
		}
	}
	require.LessOrEqual(t, noise, 1e-6*signal, "%s: normalized squared error", name)
	same := func(m *matrix, batch int, what string) {
		t.Helper()
		for i, v := range multiplyMatrix(mc, m, x, tokens, batch) {
			if v != got[i] {
				t.Fatalf("%s: %s, row %d of token %d: %g, expected %g", name, what, i%c.Rows, i/c.Rows, v, got[i])
			}
		}
	}
	same(fused, 1, "fused, token by token")
	same(resident, 5, "resident")
	same(resident, 1, "resident, token by token")
	if resident.floats != nil || resident.block > 0 {
		return 0
	}
	for _, f := range fused.forms(mc.dot) {
		resident, err := newMatrix(tensor, decode.NewTables(tables), mc.decode)
		require.NoError(t, err)
		resident.form = f
		require.NoError(t, b.decodeMatrix(resident))
		corrections += len(resident.packed.correct)
		same(resident, 1, fmt.Sprintf("%+v", f))
		same(resident, tokens, fmt.Sprintf("%+v, batch", f))
	}
	return corrections
}
