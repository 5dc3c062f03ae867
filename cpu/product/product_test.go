package product

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/internal/cputest"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/codec"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// multiplyMatrix multiplies m with x (tokens × cols) as a backend would, in one batch or token by token.
func multiplyMatrix(mc cputest.Machine, m *weights.Matrix, x []float32, tokens, batch int) []float32 {
	stride := m.Stride()
	padded := make([]float32, tokens*stride)
	for t := range tokens {
		copy(padded[t*stride:], x[t*m.Cols:(t+1)*m.Cols])
	}
	s := Sizes{Sizes: weights.NewSizes(), Batch: batch}
	m.Multiplied = true
	s.Add(m, m.IsResident())
	w, _ := s.Worker(mc.K, mc.Dot, false)
	y := make([]float32, tokens*m.Rows)
	a, scratch := Activations{}, make([]float32, stride)
	if !m.IsFloat() {
		l := TilingOf(m, mc.Dot)
		a.Alloc([]Tiling{l}, tokens, false)
		a.Use(&l, tokens)
		for t := range tokens {
			a.Quantize(t, padded[t*stride:(t+1)*stride], scratch)
		}
	}
	for t := 0; t < tokens; t += batch {
		n := min(batch, tokens-t)
		p := &Product{M: m, X: padded[t*stride:], XStride: stride, Q: &a, QFirst: t, Y: y[t*m.Rows:], YStride: m.Rows, Tokens: n}
		for u := range m.RowBlocks() {
			w.Multiply(p, u)
		}
	}
	return y
}

// makeResident decodes m on two threads.
func makeResident(mc cputest.Machine, m *weights.Matrix) {
	m.MakeResident(mc.K, mc.Dot, new(buffer.Arena), func(n int, start func() func(i int)) {
		var next atomic.Int64
		var threads sync.WaitGroup
		for range 2 {
			threads.Go(func() {
				pack := start()
				for i := next.Add(1); int(i) <= n; i = next.Add(1) {
					pack(int(i) - 1)
				}
			})
		}
		threads.Wait()
	})
}

// countCorrections returns how many corrections a resident matrix has.
func countCorrections(mc cputest.Machine, m *weights.Matrix) (n int) {
	s := weights.NewSizes()
	s.Add(m, true)
	r, _ := s.Reader(mc.K, mc.Dot, false)
	for i := range m.RowBlocks() {
		b := r.Block(m, i)
		for k := range m.Coded.Tiles() {
			var t weights.Tile
			r.Tile(&t, b, k)
			for row := range b.N {
				n += len(t.Rows.Corrections(row))
			}
		}
	}
	return n
}

func TestProducts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const tokens = 7
	corrected := map[dot.Kernels]int{}
	for i := range cputest.Recipes {
		r := &cputest.Recipes[i]
		for _, shape := range [][2]int{{1, 1}, {31, 63}, {33, 64}, {5, 65}, {40, 576}, {33, 2112}} {
			rows, cols := shape[0], shape[1]
			if r.Every > 0 {
				cols = buffer.RoundUp(cols, r.Every)
			}
			c, tables := r.Encode(t, rng, rows, cols)
			values, err := codec.Decode(c, tables)
			require.NoError(t, err)
			x := make([]float32, tokens*cols)
			for j := range x {
				x[j] = float32(rng.NormFloat64())
			}
			x[rng.IntN(len(x))] *= 20
			for _, mc := range cputest.Machines() {
				corrected[mc.Dot] += checkProduct(t, fmt.Sprintf("%s, %d × %d, %s", r.Name, rows, cols, mc.Dot), mc, c, tables, values,
					x, tokens)
			}
		}
	}
	for isa, n := range corrected {
		require.Equal(t, !isa.HasEscapes(), n > 0, "%s: %d corrections", isa, n)
	}
}

// checkProduct compares both plans, all resident forms and several batch sizes with each other, bit for bit, and with sums in
// float64. It returns how many corrections the forms had.
func checkProduct(t *testing.T, name string, mc cputest.Machine, c *format.Coded, tables []*huffman.Table, values, x []float32,
	tokens int) (corrections int) {
	t.Helper()
	tensor := &format.Tensor{Name: name, Rows: c.Rows, Cols: c.Cols, Coded: c}
	fused, err := weights.NewMatrix(tensor, decode.NewTables(tables), mc.Decode)
	require.NoError(t, err)
	resident, err := weights.NewMatrix(tensor, decode.NewTables(tables), mc.Decode)
	require.NoError(t, err)
	resident.ChooseForm(mc.Dot)
	makeResident(mc, resident)

	got := multiplyMatrix(mc, fused, x, tokens, tokens)
	signal, noise := 0.0, 0.0
	for k := range tokens {
		for r := range c.Rows {
			want := 0.0
			for j := range c.Cols {
				want += float64(values[r*c.Cols+j]) * float64(x[k*c.Cols+j])
			}
			d := want - float64(got[k*c.Rows+r])
			signal += want * want
			noise += d * d
		}
	}
	require.LessOrEqual(t, noise, mc.Tolerance()*signal, "%s: normalized squared error", name)
	same := func(m *weights.Matrix, batch int, what string) {
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
	if resident.IsFloat() || resident.ScaleBlock() > 0 {
		return 0
	}
	for _, f := range fused.Forms(mc.Dot) {
		resident, err := weights.NewMatrix(tensor, decode.NewTables(tables), mc.Decode)
		require.NoError(t, err)
		resident.Form = f
		makeResident(mc, resident)
		corrections += countCorrections(mc, resident)
		same(resident, 1, fmt.Sprintf("%+v", f))
		same(resident, tokens, fmt.Sprintf("%+v, batch", f))
	}
	return corrections
}

// Rows that are nothing but exceptions, several for each weight, have sums beyond 32 bits: they are as exact, whatever the plan
// and the number of tokens.
func TestRowsOfExceptions(t *testing.T) {
	const rows, cols, tokens = 33, 2112, 5
	rng := rand.New(rand.NewPCG(5, 8))
	x := make([]float32, tokens*cols)
	for i := range x {
		x[i] = 1 + rng.Float32()/8
	}
	for _, coding := range []format.Coding{{Levels: 8, LowBits: 6, Zero: -256}, {Levels: 32, LowBits: 3, Zero: -128}, {Levels: 16}} {
		m := &codec.Matrix{Rows: rows, Cols: cols, Coding: coding, Scale: format.Scale{Kind: format.ScaleTensor, Scale: 1e-3},
			Codes: make([]int32, rows*cols)}
		for i := range m.Codes {
			if m.Codes[i] = int32(rng.IntN(coding.Levels << coding.LowBits)); i/cols%8 == 3 {
				m.Codes[i] += 1200 << coding.LowBits // 10 entries
			}
		}
		c, tables, err := codec.EncodeMatrix(m)
		require.NoError(t, err)
		values, err := codec.Decode(c, tables)
		require.NoError(t, err)
		for _, mc := range cputest.Machines() {
			checkProduct(t, fmt.Sprintf("%d low bits, %s", coding.LowBits, mc.Dot), mc, c, tables, values, x, tokens)
		}
	}
}

// TestNarrowProductsAreTheSameEverywhere compares products with 8-bit activations of all instruction sets bit for bit: AVX2
// multiplies bytes and factors, the others the same numbers in 16 bits.
func TestNarrowProductsAreTheSameEverywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	const tokens = 6
	for i := range cputest.Recipes {
		r := &cputest.Recipes[i]
		if r.Coding.Float != format.NotFloat || r.Every > 0 {
			continue // floating-point sums differ
		}
		c, tables := r.Encode(t, rng, 37, 2112)
		x := make([]float32, tokens*2112)
		for j := range x {
			x[j] = float32(rng.NormFloat64())
		}
		var want []float32
		for _, k := range dot.Available() {
			mc := cputest.Machine{K: vec.Generic(), Dot: k.WithBits(8), Decode: isa.Generic}
			tensor := &format.Tensor{Name: r.Name, Rows: c.Rows, Cols: c.Cols, Coded: c}
			m, err := weights.NewMatrix(tensor, decode.NewTables(tables), mc.Decode)
			require.NoError(t, err)
			if m.IsFloat() {
				continue
			}
			for _, batch := range []int{1, tokens} {
				got := multiplyMatrix(mc, m, x, tokens, batch)
				if want == nil {
					want = got
				}
				require.Equal(t, want, got, "%s, %s", r.Name, k)
			}
		}
	}
}
