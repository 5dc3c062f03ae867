package cpu

import (
	"encoding/binary"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// product is Dst = Weight · A (+ Bias) for some tokens.
type product struct {
	m       *matrix
	bias    []float32    // or nil
	x       []float32    // tokens × xStride, zero behind m.cols
	q       *activations // the same, quantized, for integer products; token 0 is q's token qFirst
	qFirst  int
	xStride int
	y       []float32 // tokens × yStride
	yStride int
	tokens  int
}

// codes are a unit's rows as integer products see them: code = base + stored number.
type codes struct {
	first, n int // stored rows
	packed   *packed
	base     int64
	blocks   blocks
	sparse   []uint32 // entries of these rows
	shift    uint     // of their differences
}

// store writes the result of the row at stored position pos.
func (p *product) store(t, pos int, v float32) {
	row := pos
	if p.m.order != nil {
		row = int(p.m.order[pos])
	}
	if p.bias != nil {
		v += p.bias[row]
	}
	p.y[t*p.yStride+row] = v
}

// unit computes unit u of p.
func (w *worker) unit(p *product, u int) {
	if p.m.floats != nil {
		w.floatUnit(p, u)
		return
	}
	c := w.codesOf(p.m, u)
	if p.q.block > 0 && p.tokens >= gemmTokens {
		w.blockUnit(p, &c, u)
		return
	}
	acc := w.acc[:p.tokens*c.n]
	clear(acc)
	for k := range p.q.tiles {
		rows := w.tileRows(p, &c, u, k)
		switch {
		case p.q.block > 0:
			w.blockTile(p, &c, &rows, k, acc)
		case p.tokens >= gemmTokens:
			w.gemmTile(p, &c, &rows, u, k, acc)
		default:
			w.dotTile(p, &c, &rows, u, k, acc)
		}
	}
	for t := range p.tokens {
		add := float32(0)
		if p.m.add != 0 {
			add = p.m.add * p.q.total(p.qFirst+t)
		}
		p.storeRows(t, c.first, acc[t*c.n:(t+1)*c.n], add)
	}
}

// storeRows scales and stores the results of the rows from stored position pos on.
func (p *product) storeRows(t, pos int, acc []float32, add float32) {
	m, y := p.m, p.y[t*p.yStride:]
	for i, v := range acc {
		scale := m.scale
		if m.rowScale != nil {
			scale *= m.rowScale[pos+i]
		}
		row := pos + i
		if m.order != nil {
			row = int(m.order[row])
		}
		v = v*scale + add
		if p.bias != nil {
			v += p.bias[row]
		}
		y[row] = v
	}
}

// gemmTokens is from how many tokens on rows are reordered for package dot's product with several tokens.
const gemmTokens = 4

// total returns Σ x of a token as the products see it.
func (a *activations) total(t int) float32 {
	s := float32(0)
	for k := t * a.tiles; k < (t+1)*a.tiles; k++ {
		s += a.scale[k] * float32(a.sum[k])
	}
	return s
}

// codesOf describes unit u of m.
func (w *worker) codesOf(m *matrix, u int) codes {
	first, n := m.unit(u)
	c := codes{first: first, n: n, packed: m.packed, base: int64(m.base)}
	if p := m.packed; p != nil {
		c.base += int64(p.low) << m.split
		c.blocks = p.blocks.slice(first)
		c.sparse, c.shift = p.sparse[p.start[u]:p.start[u+1]], p.shift
		return c
	}
	c.shift, c.sparse = m.sparseShift, m.outliers(u)
	if m.productBlock() > 0 {
		c.blocks = blockShape(m)
		c.blocks.scale = w.blocks.scale
		if m.coded.DMin != nil {
			c.blocks.add = w.blocks.add
		}
		c.blocks.fill(w.k, m, first, n, 0)
	}
	return c
}

// tileRows returns tile k of a unit, decoding it if the matrix is not resident.
func (w *worker) tileRows(p *product, c *codes, u, k int) dot.Rows {
	steps, first := p.q.tileSteps(k), k*p.q.tile
	var r dot.Rows
	if c.packed != nil {
		r = c.packed.tile(p.m, u, k)
		r.Scratch = w.escapes
	} else {
		r = dot.Rows{Count: c.n, Steps: steps}
		r.Width, r.Below, r.NibbleStride, r.Nibble = max(7, p.m.width), p.m.width, steps*format.StepCols, w.bytes
		p.m.decodeTile(u, k, w.bytes, r.NibbleStride)
		if p.q.block > 0 {
			w.left = p.m.foldOutliers(p.m.outliers(u), w.bytes, r.NibbleStride, first*format.StepCols, r.NibbleStride, w.left[:0])
			c.sparse = w.left
		}
	}
	if b := c.blocks.cols; b > 0 {
		r.Scale, r.ScaleStride = c.blocks.scale[first*format.StepCols/b:], c.blocks.n
	}
	return r
}

// lowRows returns the low bits of tile k of a unit, if they are decoded apart.
func (w *worker) lowRows(p *product, c *codes, u, k int) dot.Rows {
	if c.packed != nil {
		return c.packed.fine.tile(p.m, u, k)
	}
	r := dot.Rows{Width: dot.WidthFor(max(7, p.m.split)), Nibble: w.low, NibbleStride: p.q.tileSteps(k) * format.StepCols, Count: c.n, Steps: p.q.tileSteps(k)}
	p.m.decodeLow(u, k, w.low, r.NibbleStride)
	return r
}

// dotTile adds tile k of few tokens to acc, [token][row].
func (w *worker) dotTile(p *product, c *codes, rows *dot.Rows, u, k int, acc []float32) {
	q, split := p.q, p.m.split
	var low dot.Rows
	if split > 0 {
		low = w.lowRows(p, c, u, k)
	}
	for t := range p.tokens {
		x := q.token(p.qFirst + t)
		at := (p.qFirst+t)*q.tiles + k
		w.isa.Dot(w.sums, rows, x[k*q.tile*2*format.StepCols:])
		if split > 0 {
			w.isa.Dot(w.lowSums, &low, x[k*q.tile*2*format.StepCols:])
		}
		offset, scale := c.base*q.sum[at], q.scale[at]
		out, sums := acc[t*c.n:][:c.n], w.sums[:2*c.n]
		rest := w.sparseSums(c, q, k, x)
		if rest == nil && split == 0 {
			for r := range out {
				out[r] += scale * float32(int64(sums[2*r])<<8+int64(sums[2*r+1])+offset)
			}
			continue
		}
		for r := range out {
			v := int64(sums[2*r])<<8 + int64(sums[2*r+1])
			if split > 0 {
				v = v<<split + int64(w.lowSums[2*r])<<8 + int64(w.lowSums[2*r+1])
			}
			if rest != nil {
				v += rest[r]
			}
			out[r] += scale * float32(v+offset)
		}
	}
}

// sparseSums returns what the sparse entries add to each row's sum in tile k, or nil if there are none.
func (w *worker) sparseSums(c *codes, q *activations, k int, x []int8) []int64 {
	if len(c.sparse) == 0 {
		return nil
	}
	rest := w.rest[:c.n]
	clear(rest)
	first := k * q.tile * format.StepCols
	end := first + q.tileSteps(k)*format.StepCols
	for _, e := range c.sparse {
		if o := format.UnpackOutlier(e); o.Col >= first && o.Col < end {
			rest[o.Row] += int64(o.Delta) * at(x, o.Col)
		}
	}
	for r := range rest {
		rest[r] <<= c.shift
	}
	return rest
}

// gemmTile adds tile k of many tokens to acc.
func (w *worker) gemmTile(p *product, c *codes, rows *dot.Rows, u, k int, acc []float32) {
	q, steps := p.q, rows.Steps
	stride, xStride := steps*format.StepCols, q.steps*2*format.StepCols
	bytes, width, base, left := w.gemmBytes(p, c, rows, k)
	var low []byte
	if p.m.split > 0 {
		low = w.lowBytes(p, c, u, k)
	}
	x := q.q[p.qFirst*xStride+k*q.tile*2*format.StepCols:]
	for first := 0; first < c.n; first += dot.TileRows {
		n := min(dot.TileRows, c.n-first)
		w.isa.Tile(w.tile, bytes[first*stride:], stride, steps)
		w.isa.Gemm(w.sums, w.tile, width, x, xStride, steps, p.tokens)
		if low != nil {
			w.isa.Tile(w.tile, low[first*stride:], stride, steps)
			w.isa.Gemm(w.lowSums, w.tile, p.m.split, x, xStride, steps, p.tokens)
		}
		for t := range p.tokens {
			at := (p.qFirst+t)*q.tiles + k
			offset, scale := base*q.sum[at], q.scale[at]
			hi, lo := w.sums[2*t*dot.TileRows:][:n], w.sums[(2*t+1)*dot.TileRows:][:n]
			out := acc[t*c.n+first:][:n]
			if low != nil {
				fineHi, fineLo := w.lowSums[2*t*dot.TileRows:][:n], w.lowSums[(2*t+1)*dot.TileRows:][:n]
				w.addRest(c, left, q, k, p.qFirst+t, first, fineHi, fineLo)
				for r := range out {
					v := (int64(hi[r])<<8+int64(lo[r]))<<p.m.split + int64(fineHi[r])<<8 + int64(fineLo[r])
					out[r] += scale * float32(v+offset)
				}
				continue
			}
			if len(left) > 0 {
				w.addRest(c, left, q, k, p.qFirst+t, first, hi, lo)
			}
			for r := range out {
				out[r] += scale * float32(int64(hi[r])<<8+int64(lo[r])+offset)
			}
		}
	}
}

// lowBytes returns a unit's low bits that are decoded apart, one byte each.
func (w *worker) lowBytes(p *product, c *codes, u, k int) []byte {
	rows := w.lowRows(p, c, u, k)
	if c.packed != nil {
		for r := range c.n {
			w.isa.UnpackRow(&rows, r, w.low[r*rows.Steps*format.StepCols:])
		}
	}
	return w.low
}

// gemmBytes returns a unit's rows as bytes below 1<<width, base included in what they lack, and the sparse entries that are not in them. Behind the rows
// there is memory for whole tiles of them.
func (w *worker) gemmBytes(p *product, c *codes, rows *dot.Rows, k int) (bytes []byte, width int, base int64, left []uint32) {
	stride := rows.Steps * format.StepCols
	bytes, width = w.bytes, rows.CodeBits()
	if c.packed != nil {
		bytes = w.plain
		for r := range c.n {
			w.isa.UnpackRow(rows, r, bytes[r*stride:])
		}
	} else {
		width = p.m.width
	}
	fold := len(c.sparse) > 0 && p.m.split == 0
	if rows.CorrectStart == nil && !fold || width > 6 {
		return bytes, width, c.base, c.sparse
	}
	// A bit more than the numbers have leaves room for differences below and above them; up to 7 bits every instruction set multiplies fast.
	const room = -dot.MinCorrection
	width = max(6, width+1)
	raise(bytes[:c.n*stride], room)
	for r := range c.n {
		for _, e := range rows.Corrections(r) {
			col, delta := dot.UnpackCorrection(e)
			bytes[r*stride+col] += byte(delta)
		}
	}
	base = c.base - room<<p.m.split
	if !fold {
		return bytes, width, base, c.sparse
	}
	left = w.left[:0]
	first := k * p.q.tile * format.StepCols
	for _, e := range c.sparse {
		o := format.UnpackOutlier(e)
		if o.Col < first || o.Col >= first+stride {
			continue
		}
		b := &bytes[o.Row*stride+o.Col-first]
		if v := int(*b) + o.Delta<<c.shift; v >= 0 && v < 1<<width {
			*b = byte(v)
		} else {
			left = append(left, e)
		}
	}
	w.left = left
	return bytes, width, base, left
}

// raise adds n to every byte, eight at a time; no byte may overflow.
func raise(b []byte, n uint8) {
	all := uint64(n) * 0x0101010101010101
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])+all)
	}
}

// addRest adds what sparse entries contribute to the sums of one token's rows first … first+len(hi)−1.
func (w *worker) addRest(c *codes, list []uint32, q *activations, k, t, first int, hi, lo []int32) {
	x := q.token(t)
	start := k * q.tile * format.StepCols
	end := start + q.tileSteps(k)*format.StepCols
	for _, e := range list {
		o := format.UnpackOutlier(e)
		r := o.Row - first
		if r < 0 || r >= len(hi) || o.Col < start || o.Col >= end {
			continue
		}
		v := at(x, o.Col)
		hi[r] += int32(o.Delta<<c.shift) * int32(v>>8)
		lo[r] += int32(o.Delta<<c.shift) * int32(v&0xff)
	}
}

// blockTile adds tile k of codes with block scales to acc, for few tokens.
func (w *worker) blockTile(p *product, c *codes, rows *dot.Rows, k int, acc []float32) {
	q := p.q
	for t := range p.tokens {
		at := (p.qFirst+t)*q.tiles + k
		w.isa.DotBlocks(w.results, rows, c.blocks.cols, q.token(p.qFirst + t)[k*q.tile*2*format.StepCols:])
		for r := 0; r < c.n; r += dot.BlockRows {
			rest := w.blockRest[:dot.BlockRows]
			w.restOf(rest, p, c, k, r, t, 1)
			for i := range min(dot.BlockRows, c.n-r) {
				acc[t*c.n+r+i] += float32(q.scale[at] * (w.results[r+i] + rest[i])) // rounded before it is added, as in GemmBlocks
			}
		}
	}
}
