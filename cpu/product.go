package cpu

import (
	"fmt"
)

const (
	// tileRows is how many rows a product takes at a time: what kernels.dot4 multiplies.
	tileRows = 4
	// tileCols is how many columns are converted at a time, so that tileRows of them and some activations fit the first-level cache. Sums of such
	// pieces are added in order: the constant is part of the result's definition.
	tileCols = 1024
)

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// worker is the scratch memory of one thread.
type worker struct {
	k       *kernels
	tile    []float32 // tileRows × tileCols weights
	acc     []float32 // 4 per token
	buf     rows      // a decoded group, for the largest fused matrix of every form
	scratch groupScratch
	err     error // of the current job
	attention
}

// product is Dst = Weight · A (+ Bias) for some tokens.
type product struct {
	m       *matrix
	bias    []float32 // or nil
	x       []float32 // tokens × xStride, zero behind m.cols
	xStride int
	y       []float32 // tokens × yStride
	yStride int
	tokens  int
}

// rowsOf returns unit u of m, decoding it if m is not resident.
func (w *worker) rowsOf(m *matrix, u int) (rows, error) {
	first, n := m.unit(u)
	switch {
	case m.resident != nil:
		return m.resident.slice(first, n, m.form), nil
	case m.raw != nil:
		return m.rawRows(first, n), nil
	}
	r := w.buf.fit(m, n)
	if err := m.decodeGroup(u, &r, &w.scratch); err != nil {
		return r, fmt.Errorf("cpu: tensor %s, group %d: %w", m.name, u, err)
	}
	w.buf.patches = r.patches[:0]
	return r, nil
}

// fit returns the part of the buffers that n rows of m take.
func (r *rows) fit(m *matrix, n int) rows {
	stride := m.stride()
	s := rows{stride: stride, patches: r.patches[:0]}
	switch m.form {
	case formByte:
		s.u8 = r.u8[:n*stride]
	case formBF16, formF16:
		s.u16 = r.u16[:n*stride]
	case formF32:
		s.f32 = r.f32[:n*stride]
	}
	if m.block > 0 {
		s.blocks = blocks{scale: r.scale[:n*(m.cols/m.block)], n: m.cols / m.block}
		if m.coded.DMin != nil {
			s.add = r.add[:n*s.blocks.n]
		}
	}
	return s
}

// unit computes unit u of p.
func (w *worker) unit(p *product, u int) error {
	m := p.m
	r, err := w.rowsOf(m, u)
	if err != nil {
		return err
	}
	first, n := m.unit(u)
	acc := w.acc[:tileRows*p.tokens]
	cols := roundUp(m.cols, lanes)
	for i := 0; i < n; i += tileRows {
		clear(acc)
		for c := 0; c < cols; c += tileCols {
			width := min(tileCols, cols-c)
			for j := range min(tileRows, n-i) {
				w.weights(m, &r, i+j, first+i+j, c, w.tile[j*tileCols:][:width])
			}
			// Where fewer rows are left, the others' sums are not used.
			w.k.dot4(acc, w.tile, tileCols, p.x[c:], p.xStride, p.tokens, width)
		}
		for j := range min(tileRows, n-i) {
			p.store(acc[j:], first+i+j)
		}
	}
	return nil
}

// store writes the sums of the row stored at position pos, one in four of acc.
func (p *product) store(acc []float32, pos int) {
	row, bias := pos, float32(0)
	if p.m.order != nil {
		row = int(p.m.order[pos])
	}
	if p.bias != nil {
		bias = p.bias[row]
	}
	for t := range p.tokens {
		p.y[t*p.yStride+row] = acc[tileRows*t] + bias
	}
}

// weights sets dst to the weights of columns col … col+len(dst)−1 of row i of r, whose stored position is pos. Columns behind the last are 0.
func (w *worker) weights(m *matrix, r *rows, i, pos, col int, dst []float32) {
	scale := m.scale
	if m.rowScale != nil {
		scale *= m.rowScale[pos]
	}
	n := min(len(dst), m.cols-col)
	at := i*r.stride + col
	plain := m.block == 0 || m.form == formByte && m.block%lanes == 0 && col%m.block == 0
	switch m.form {
	case formByte:
		src := r.u8[at : at+len(dst)]
		switch {
		case m.block == 0:
			w.k.dequant(dst, src, m.bias, scale, m.add)
		case plain:
			b := i*r.blocks.n + col/m.block
			var add []float32
			if r.add != nil {
				add = r.add[b:]
			}
			w.k.dequantBlocks(dst, src, m.bias, m.block, r.scale[b:], add)
		default:
			w.k.dequant(dst, src, m.bias, 1, 0)
		}
	case formBF16:
		bf16(dst, r.u16[at:at+n])
	case formF16:
		for j, h := range r.u16[at : at+n] {
			dst[j] = half(h)
		}
	case formF32:
		for j, q := range r.f32[at : at+n] {
			dst[j] = float32(q*scale) + m.add
		}
	}
	clear(dst[n:])
	if !plain {
		r.scaleBlocks(m.block, i, col, dst[:n])
	}
	for _, p := range r.patchesOf(i) {
		if c := int(p.col); c >= col && c < col+n {
			dst[c-col] = r.patched(m, i, &p, scale)
		}
	}
	if m.colScale != nil {
		w.k.mul(dst, m.colScale[col:])
	}
}

// patched returns the weight of a patch in row i.
func (r *rows) patched(m *matrix, i int, p *patch, scale float32) float32 {
	add := m.add
	if m.block > 0 {
		b := i*r.blocks.n + int(p.col)/m.block
		scale, add = r.scale[b], 0
		if r.add != nil {
			add = r.add[b]
		}
	}
	return float32(float32(p.code)*scale) + add
}

// scaleBlocks applies block scales of any width to codes of row i from column col on.
func (r *rows) scaleBlocks(block, i, col int, dst []float32) {
	for j := range dst {
		b := i*r.blocks.n + (col+j)/block
		dst[j] *= r.scale[b]
		if r.add != nil {
			dst[j] += r.add[b]
		}
	}
}

// embedding sets dst to a row of m, padded with zeros to whole vectors.
func (w *worker) embedding(m *matrix, row int, dst []float32) error {
	pos := row
	if m.inverse != nil {
		pos = int(m.inverse[row])
	}
	u := pos / m.unitRows
	r, err := w.rowsOf(m, u)
	if err != nil {
		return err
	}
	for c, cols := 0, roundUp(m.cols, lanes); c < cols; c += tileCols {
		w.weights(m, &r, pos-u*m.unitRows, pos, c, dst[c:min(c+tileCols, cols)])
	}
	return nil
}

// growFor makes w's buffers large enough for fused products with m.
func (w *worker) growFor(m *matrix) {
	if m.coded == nil {
		return
	}
	n := m.unitRows * m.stride()
	switch m.form {
	case formByte:
		w.buf.u8 = grow(w.buf.u8, n)
	case formBF16, formF16:
		w.buf.u16 = grow(w.buf.u16, n)
	case formF32:
		w.buf.f32 = grow(w.buf.f32, n)
	}
	if m.form != formByte {
		w.scratch.levels = grow(w.scratch.levels, n)
		w.scratch.codes = grow(w.scratch.codes, n)
	}
	if m.block > 0 {
		b := m.unitRows * (m.cols / m.block)
		w.buf.scale = grow(w.buf.scale, b)
		w.buf.add = grow(w.buf.add, b)
	}
}

func grow[T any](s []T, n int) []T {
	if len(s) >= n {
		return s
	}
	return make([]T, n)
}

// scratchBytes returns what growFor allocates for matrices up to the size of m.
func scratchBytes(m *matrix) int64 {
	if m.coded == nil {
		return 0
	}
	perCol := int64(m.form.bytes())
	if m.form != formByte {
		perCol += 6
	}
	n := int64(m.unitRows) * int64(m.stride()) * perCol
	if m.block > 0 {
		n += int64(m.unitRows) * int64(m.cols/m.block) * 8
	}
	return n
}
