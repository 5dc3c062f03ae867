package gpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/gpu/driver/emu"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

var (
	tensorScale = format.Scale{Kind: format.ScaleTensor, Scale: 0.01, Min: -0.03}
	rowScale    = format.Scale{Kind: format.ScaleRow, Scale: 0.02}
	noScale     = format.Scale{Kind: format.ScaleNone}
	q4k         = format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 256, SubBits: 6}
	q6k         = format.Scale{Kind: format.ScaleBlock, Block: 16, Super: 256, SubBits: 8}
	q8          = format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 32}
	gptq        = format.Scale{Kind: format.ScaleBlock, Block: 128, Super: 128, SubBits: 4}
	q4_0        = format.Scale{Kind: format.ScaleBlock, Block: 32, Super: 32}
	q2k         = format.Scale{Kind: format.ScaleBlock, Block: 16, Super: 256, SubBits: 4}
	q3k         = format.Scale{Kind: format.ScaleBlock, Block: 16, Super: 256, SubBits: 6, SubBias: -32}
)

// specs cover every scale kind and kernel, and shapes that fill no unit: rows, columns, tiles, groups.
var specs = map[string]spec{
	"tensor, 1 row":          {rows: 1, cols: 64, rowsPerGroup: 1, levels: 16, scale: tensorScale},
	"tensor, odd columns":    {rows: 31, cols: 577, rowsPerGroup: 8, levels: 16, scale: tensorScale},
	"tensor, short codes":    {rows: 33, cols: 100, rowsPerGroup: 16, levels: 4, maxLen: 7, scale: tensorScale},
	"tensor, codes up to 10": {rows: 33, cols: 576, rowsPerGroup: 5, levels: 8, maxLen: 10, scale: tensorScale},
	"tensor, 32 levels":      {rows: 33, cols: 576, rowsPerGroup: 16, levels: 32, scale: tensorScale},
	"tensor, 8 bits":         {rows: 33, cols: 130, rowsPerGroup: 16, levels: 16, lowBits: 4, scale: tensorScale},
	"row, symmetric":         {rows: 65, cols: 576, rowsPerGroup: 32, levels: 15, zero: -7, scale: rowScale},
	"row, low bits, permuted": {rows: 33, cols: 192, rowsPerGroup: 4, levels: 17, lowBits: 2, zero: -34, scale: rowScale,
		rowOrder: true},
	"row, 2 tiles":            {rows: 31, cols: 2112, rowsPerGroup: 16, levels: 9, zero: -4, scale: rowScale},
	"row, 3 tiles, low":       {rows: 33, cols: 4160, rowsPerGroup: 7, levels: 16, lowBits: 1, zero: -16, scale: rowScale},
	"row, 2 tiles, 20 groups": {rows: 39, cols: 2112, rowsPerGroup: 2, levels: 9, zero: -4, scale: rowScale},
	"row, 9 tiles":            {rows: 5, cols: 18400, rowsPerGroup: 2, levels: 5, zero: -2, scale: rowScale},
	"row, outliers":           {rows: 33, cols: 320, rowsPerGroup: 8, levels: 9, zero: -4, scale: rowScale, outliers: 6},
	"row, outliers, low": {rows: 33, cols: 320, rowsPerGroup: 8, levels: 9, lowBits: 2, zero: -18, scale: rowScale, outliers: 6,
		rowOrder: true},
	"row, wide codes": {rows: 33, cols: 320, rowsPerGroup: 8, levels: 32, lowBits: 5, zero: -512, scale: rowScale},
	"row, far outliers": {rows: 33, cols: 330, rowsPerGroup: 8, levels: 16, lowBits: 4, zero: -128, scale: rowScale,
		outliers: 6, far: true},
	"block, far outliers": {rows: 33, cols: 320, rowsPerGroup: 8, levels: 16, zero: -8, scale: q8, outliers: 6, far: true},
	"row, column scales":  {rows: 33, cols: 320, rowsPerGroup: 8, levels: 9, zero: -4, scale: rowScale, colScale: true},
	"row, clipped": {rows: 31, cols: 1184, rowsPerGroup: 5, levels: 32, zero: -16, scale: rowScale, narrow: true,
		outliers: 3},
	"row, clipped, low": {rows: 131, cols: 330, rowsPerGroup: 8, levels: 32, lowBits: 1, zero: -32, scale: rowScale,
		narrow: true, outliers: 3, rowOrder: true},
	"block, clipped": {rows: 35, cols: 704, rowsPerGroup: 6, levels: 32, zero: -14, scale: q4_0, narrow: true},
	"row, 3 bits":    {rows: 6, cols: 1100, rowsPerGroup: 4, levels: 8, zero: -4, scale: rowScale},
	"row, 6 bits":    {rows: 34, cols: 1090, rowsPerGroup: 4, levels: 16, lowBits: 2, zero: -32, scale: rowScale},
	"Q2_K":           {rows: 33, cols: 512, rowsPerGroup: 16, levels: 4, scale: q2k, dMin: true, subMin: true},
	"Q5_K":           {rows: 33, cols: 512, rowsPerGroup: 16, levels: 16, lowBits: 1, scale: q4k, dMin: true, subMin: true},
	"Q5_0":           {rows: 33, cols: 96, rowsPerGroup: 16, levels: 32, zero: -16, scale: q8},
	"blocks of 64": {rows: 9, cols: 640, rowsPerGroup: 4, levels: 16, zero: -8,
		scale: format.Scale{Kind: format.ScaleBlock, Block: 64, Super: 64}},
	"blocks of 8": {rows: 9, cols: 88, rowsPerGroup: 4, levels: 16, zero: -8,
		scale: format.Scale{Kind: format.ScaleBlock, Block: 8, Super: 8}},
	"values": {rows: 33, cols: 320, rowsPerGroup: 8, levels: 16, values: true, scale: q8},
	"Q4_K":   {rows: 33, cols: 512, rowsPerGroup: 16, levels: 16, scale: q4k, dMin: true, subMin: true},
	"Q4_1":   {rows: 31, cols: 576, rowsPerGroup: 16, levels: 16, scale: q8, dMin: true},
	"Q8_0":   {rows: 33, cols: 96, rowsPerGroup: 16, levels: 16, lowBits: 4, zero: -128, scale: q8},
	"Q6_K": {rows: 33, cols: 2304, rowsPerGroup: 16, levels: 16, lowBits: 2, zero: -32, scale: q6k,
		rowOrder: true},
	"Q3_K, column scales": {rows: 33, cols: 256, rowsPerGroup: 3, levels: 8, zero: -4, scale: q3k, colScale: true},
	"Q4_0, outliers":      {rows: 33, cols: 256, rowsPerGroup: 16, levels: 16, zero: -8, scale: q8, outliers: 5},
	"GPTQ": {rows: 33, cols: 512, rowsPerGroup: 16, levels: 16, zero: -1, scale: gptq, dMin: true, subMin: true,
		noSub: true},
	"bf16": {rows: 33, cols: 130, rowsPerGroup: 8, levels: 24, lowBits: 8, zero: 110, float: format.FloatBF16,
		scale: noScale},
	"f16, outliers": {rows: 33, cols: 130, rowsPerGroup: 8, levels: 3, lowBits: 11, zero: 14, float: format.FloatF16,
		scale: noScale, outliers: 3},
}

// open writes a matrix to a container.
func (b *builder) open(m *randomMatrix) *format.Reader {
	return writeModel(b.t, nil, b.tables, map[string]*format.Coded{"w": m.coded}, nil)
}

func TestDecodeBitForBit(t *testing.T) {
	for name, s := range specs {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t, 1)
			m := b.build(s)
			r := newRig(t)
			f := b.open(m)
			for _, as := range []form{formPlane, formPacked} {
				w := r.loadOne(f, "w", as, model.UseProduct)
				stride := int(w.desc.Stride)
				code := planeReader(r, w, stride)
				for i, row := range m.codes {
					for j, want := range row {
						require.Equal(t, want, code(i*stride+j), "form %d, row %d, column %d", w.form, i, j)
					}
				}
			}
		})
	}
}

// Large tensors are decoded, and their scales expanded, in pieces; so are small ones when the pieces are tiny. Pieces take turns
// in two slots: events say what waits for what, so that the result is the same in every order of streams that they allow.
func TestLoadInPieces(t *testing.T) {
	for _, name := range []string{"row, 3 tiles, low", "row, outliers, low", "row, far outliers", "Q6_K", "Q4_K",
		"Q3_K, column scales", "bf16", "row, clipped, low", "row, clipped"} {
		t.Run(name, func(t *testing.T) {
			s := specs[name]
			s.rows = 140
			s.rowsPerGroup = min(s.rowsPerGroup, 8)
			b := newBuilder(t, 6)
			m := b.build(s)
			f := b.open(m)
			whole := newRig(t)
			piece := 4 * int64(max(len(m.coded.Stream), len(m.coded.Low))) / 4
			groups := m.coded.Groups()
			end, err := stretchEnd(m.coded, 0, groups, 4, piece)
			require.NoError(t, err)
			require.Less(t, 2*end, groups, "the test needs several pieces")
			for _, order := range []emu.Order{emu.AtOnce, emu.NewestFirst, emu.OldestFirst} {
				pieces := newRigOrder(t, order)
				pieces.stretch = piece
				for _, as := range []form{formPlane, formPacked} {
					comparePieces(t, whole, pieces, whole.loadOne(f, "w", as, model.UseProduct), pieces.loadOne(f, "w", as, model.UseProduct))
				}
			}
			_, err = stretchEnd(m.coded, 0, groups, 1, 64)
			assert.ErrorContains(t, err, "group 0")
		})
	}
}

// comparePieces compares what two rigs have made of a matrix.
func comparePieces(t *testing.T, whole, pieces *rig, a, c *weight) {
	pa, pc := a.blocks(a.form), c.blocks(c.form)
	for i := range pa {
		n := int(pa[i].size)
		if pa[i].dst == &a.desc.Exceptions {
			n = wordBytes * int(down[uint32](whole, a.desc.ExceptionStart, ceilDiv(a.Rows, quadRows)+1)[ceilDiv(a.Rows, quadRows)])
		}
		assert.Equal(t, down[uint8](whole, *pa[i].dst, n), down[uint8](pieces, *pc[i].dst, n), "form %d, part %d", a.form, i)
	}
}

// The width is that of most codes; a matrix of which more has to be clipped than the code tables promise stays coded.
func TestPackedWidth(t *testing.T) {
	for name, want := range map[string]int32{"row, symmetric": 4, "tensor, 32 levels": 5, "row, clipped": 4, "row, clipped, low": 5,
		"block, clipped": 4, "row, 3 bits": 3,
		"Q6_K": 6, "Q4_K": 4, "Q8_0": 8, "Q2_K": 3, "Q5_0": 5, "values": 8, "row, wide codes": 0, "blocks of 8": 0, "bf16": 0} {
		b := newBuilder(t, 8)
		m := b.build(specs[name])
		w := &weight{Tensor: &format.Tensor{Name: "w", Rows: m.coded.Rows, Cols: m.coded.Cols, Coded: m.coded}}
		require.NoError(t, w.describe(b.tables))
		assert.Equal(t, want, w.desc.PackedBits, name)
		assert.Equal(t, specs[name].narrow, w.packed.clipped, name)
	}
}

func TestWrongEstimateKeepsMatrixCoded(t *testing.T) {
	b := newBuilder(t, 12)
	m := b.build(specs["row, clipped"])
	r, coded := newRig(t), newRig(t)
	f := b.open(m)
	coded.loadOne(f, "w", formCoded, model.UseProduct)
	w := r.loadOne(f, "w", formPacked, model.UseProduct, func(w *weight) { w.packed.room = 2 })
	assert.Equal(t, formCoded, w.form)
	assert.Equal(t, coded.used, r.used)
	multiplyAndCompare(t, r, b.rng, w, m.values, 1, false, "coded again")
	multiplyAndCompare(t, r, b.rng, w, m.values, 9, false, "coded again")
}

// planeReader downloads a plane, or packed codes taken apart, and returns a function that gives the code at an index.
func planeReader(r *rig, w *weight, stride int) func(i int) int32 {
	n, data := w.Rows*stride, w.desc.Data
	if w.form == formPacked {
		data = room[uint8](r, int(w.planeBytes(w.Rows)))
		r.ok(unpack(r.Launcher, w, rowRange{0, w.Rows}, 2, data))
	}
	switch w.desc.Type {
	case kernels.TypeU8:
		p := down[uint8](r, data, n)
		return func(i int) int32 { return int32(p[i]) + int32(w.desc.DataZero) }
	case kernels.TypeI32:
		p := down[int32](r, data, n)
		return func(i int) int32 { return p[i] + int32(w.desc.DataZero) }
	}
	p := down[uint16](r, data, n)
	return func(i int) int32 { return int32(p[i]) }
}

// product returns W·x + bias in float64.
func referenceProduct(w [][]float32, x, bias []float32) []float32 {
	y := make([]float32, len(w))
	for i, row := range w {
		sum := float64(bias[i])
		for j, v := range row {
			sum += float64(v) * float64(x[j])
		}
		y[i] = float32(sum)
	}
	return y
}

// Exact: small integers and powers of two, so that every order of summation gives the same number.
func TestProductsOfSmallIntegersAreExact(t *testing.T) {
	for name, s := range specs {
		if s.float != format.NotFloat || s.scale.SubBits > 0 {
			continue // not small integers
		}
		s.exact = true
		s.scale.Scale, s.scale.Min = 0.5, 0
		t.Run(name, func(t *testing.T) { checkProducts(t, s, true, 1, 9, 2, 8) })
	}
}

func TestProducts(t *testing.T) {
	for name, s := range specs {
		t.Run(name, func(t *testing.T) { checkProducts(t, s, false, 1, 3, 9, 66) })
	}
}

// checkProducts multiplies as coded matrix and as plane, with each of some numbers of tokens.
func checkProducts(t *testing.T, s spec, exact bool, tokens ...int) {
	b := newBuilder(t, 3)
	m := b.build(s)
	f := b.open(m)
	r := newRig(t)
	for _, as := range []form{formCoded, formPlane, formPacked} {
		w := r.loadOne(f, "w", as, model.UseProduct)
		for _, n := range tokens {
			if n > 64 && s.cols > 600 || n > 3 && s.cols > 10000 {
				continue // the emulator needs long for large products
			}
			for _, on := range []processor{{sms: 2}, {sms: 2, mma: true}, {sms: 2, mma: true, async: true}} {
				if on.async && n <= gemmTokens || on.mma && n <= gemvBatch {
					break // the same kernels as before
				}
				w.settle(w.form, on)
				multiplyAndCompare(t, r, b.rng, w, m.values, n, exact, fmt.Sprintf("form %d, %d tokens, %+v", as, n, on))
			}
		}
	}
}

// A vector's product has the same bits alone and with others, whatever kernel takes how many of them.
func TestVectorsDoNotDependOnEachOther(t *testing.T) {
	for name, s := range specs {
		if s.cols > 10000 {
			continue // the emulator needs long for large products
		}
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t, 16)
			m := b.build(s)
			f := b.open(m)
			r := newRig(t)
			x, bias := normals(b.rng, gemvBatch*s.cols), up(r, normals(b.rng, s.rows))
			for _, as := range []form{formCoded, formPacked} {
				w := r.loadOne(f, "w", as, model.UseProduct)
				product := func(x []float32) []float32 {
					n := len(x) / w.Cols
					p := r.multiplier(w, x, bias, n)
					r.ok(r.Launcher.Dev.Do(func() error { return p.runActions(tokenRange{0, n}) }))
					return down[float32](r, p.buffers[model.BufProj], n*w.Rows)
				}
				var want []float32
				for i := range gemvBatch {
					want = append(want, product(x[i*w.Cols:(i+1)*w.Cols])...)
				}
				for n := 2; n <= gemvBatch; n++ {
					require.Equal(t, want[:n*w.Rows], product(x[:n*w.Cols]), "form %d, %d vectors", as, n)
				}
			}
		})
	}
}

// Blocks work on several groups at a time, tile by tile, and on those that share a table in a tile together: sums are the same
// for every number of blocks.
func TestProductsDoNotDependOnGrid(t *testing.T) {
	for _, name := range []string{"row, 2 tiles, 20 groups", "row, 3 tiles, low", "row, 9 tiles", "Q6_K", "row, far outliers",
		"values"} {
		s := specs[name]
		s.cols, s.rowsPerGroup = max(s.cols, 2304), 2
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t, 14)
			m := b.build(s)
			r := newRig(t)
			w := r.loadOne(b.open(m), "w", formCoded, model.UseProduct)
			w.settle(w.form, r.on)
			x, bias := normals(b.rng, w.Cols), normals(b.rng, w.Rows)
			want := referenceProduct(m.values, x, bias)
			var first []float32
			for _, w.product.gemvGrid = range []int{1, 2, 3, 5, 7, m.coded.Groups()} {
				p := r.multiplier(w, x, up(r, bias), 1)
				r.ok(r.Launcher.Dev.Do(func() error { return p.runActions(tokenRange{0, 1}) }))
				got := down[float32](r, p.buffers[model.BufProj], w.Rows)
				requireClose(t, want, got, 1e-6, "%d blocks", w.product.gemvGrid)
				if first == nil {
					first = got
				}
				assert.Equal(t, first, got, "%d blocks", w.product.gemvGrid)
			}
		})
	}
}

func multiplyAndCompare(t *testing.T, r *rig, rng *rand.Rand, w *weight, values [][]float32, n int, exact bool, msg string) {
	x, bias := make([]float32, n*w.Cols), make([]float32, w.Rows)
	// Sums of 16 products in half precision are exact up to 2048.
	largest := 2
	if w.Coded != nil && w.Coded.Coding.LowBits >= 4 {
		largest = 1
	}
	for i := range x {
		x[i] = float32(rng.IntN(2*largest+1) - largest)
		if !exact {
			x[i] = float32(rng.NormFloat64())
		}
	}
	for i := range bias {
		bias[i] = float32(rng.IntN(9) - 4)
	}
	p := r.multiplier(w, x, up(r, bias), n)
	require.NoError(t, r.Launcher.Dev.Do(func() error { return p.runActions(tokenRange{0, n}) }), msg)
	got := down[float32](r, p.buffers[model.BufProj], n*w.Rows)
	var want []float32
	for tok := range n {
		want = append(want, referenceProduct(values, x[tok*w.Cols:(tok+1)*w.Cols], bias)...)
	}
	// sums of 16 products of wide codes exceed what half precision holds
	if exact && (n <= gemvBatch || w.desc.Type != kernels.TypeI32) {
		assert.Equal(t, want, got, msg)
		return
	}
	requireClose(t, want, got, 1e-6, msg)
}

func TestProductsOfRawMatrices(t *testing.T) {
	const rows, cols = 33, 101
	rng := rand.New(rand.NewPCG(4, 4))
	for _, typ := range []format.DType{format.F32, format.F16, format.BF16} {
		flat := make([]float32, rows*cols)
		values := make([][]float32, rows)
		for i := range flat {
			flat[i] = float32(rng.IntN(65)-32) / 64
		}
		for i := range values {
			values[i] = flat[i*cols : (i+1)*cols]
		}
		f := writeModel(t, nil, nil, nil, map[string]*format.Raw{"w": rawOf(rows, cols, typ, flat)})
		r := newRig(t)
		w := r.loadOne(f, "w", formRaw, model.UseProduct)
		for _, n := range []int{1, 2, 65} {
			multiplyAndCompare(t, r, rng, w, values, n, false, fmt.Sprintf("%s, %d tokens", typ, n))
		}
	}
}

func TestFusedKernelChoice(t *testing.T) {
	prepared := func(s spec) bool {
		b := newBuilder(t, 5)
		m := b.build(s)
		w := &weight{Tensor: &format.Tensor{Name: "w", Rows: s.rows, Cols: s.cols, Coded: m.coded}}
		require.NoError(t, w.describe(b.tables))
		_, p := w.fusedGemv()
		return p
	}
	for _, name := range []string{"tensor, odd columns", "row, low bits, permuted", "Q4_K", "Q8_0", "Q6_K", "Q3_K, column scales"} {
		assert.True(t, prepared(specs[name]), "%s: expected a half-precision kernel", name)
	}
	for _, name := range []string{"values", "bf16", "row, wide codes"} {
		assert.False(t, prepared(specs[name]), "%s: expected the float32 kernel", name)
	}
}
