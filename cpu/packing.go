package cpu

import (
	"encoding/binary"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// packing makes the resident form of a matrix, group by group.
type packing struct {
	m        *matrix
	k        *kernels
	isa      dot.ISA
	memory   *arena
	out      *packed
	overflow [][]uint32 // per group: sparse entries, rows counted in the group
	escape   [][]byte   // per group
}

func newPacking(m *matrix, f form, k *kernels, isa dot.ISA, memory *arena) *packing {
	p := &packed{form: f, blocks: newBlocks(m, m.rows)}
	if m.block > 0 || m.split > 0 {
		p.shift = m.sparseShift
	}
	p.nibble = memory.take(m.rows * m.steps() * dot.NibbleBytes(f.width))
	p.bits = memory.take(m.rows * m.steps() * dot.BitBytes(f.width))
	if m.split > 0 {
		w := dot.WidthFor(m.split)
		p.fine = &packed{form: form{width: w}, nibble: memory.take(m.rows * m.steps() * dot.NibbleBytes(w)), bits: memory.take(m.rows * m.steps() * dot.BitBytes(w))}
	}
	if f.escapes {
		p.escapeStart = make([]uint32, m.rows*m.coded.Tiles())
		p.mostEscapes = make([]uint16, (m.rows+plainUnit-1)/plainUnit*m.coded.Tiles())
	}
	return &packing{m: m, k: k, isa: isa, memory: memory, out: p, overflow: make([][]uint32, m.coded.Groups()), escape: make([][]byte, m.coded.Groups())}
}

// scratch is what packing a group needs.
type packScratch struct{ codes, escape, row []byte }

func (p *packing) scratch() *packScratch {
	c := p.m.coded
	s := &packScratch{codes: make([]byte, p.m.unitRows*p.m.stride())}
	if p.out.escapes {
		s.escape = make([]byte, p.m.unitRows*c.Tiles()*dot.MaxEscapeBytes(c.StepsPerTile()))
		s.row = make([]byte, dot.ScratchBytes(c.StepsPerTile()))
	}
	return s
}

// group decodes and packs group g. Different groups may be packed at the same time.
func (p *packing) group(g int, s *packScratch) {
	m, out := p.m, p.out
	stride := m.stride()
	m.decodeGroup(g, s.codes, stride)
	list := m.outliers(g)
	first, n := g*m.coded.Coding.RowsPerGroup, m.coded.GroupRows(g)
	low := out.low // what packing subtracts
	switch {
	case m.block > 0:
		p.overflow[g] = m.foldOutliers(list, s.codes, stride, 0, stride, nil)
		out.blocks.fill(p.k, m, first, n, first)
	case out.escapes && low <= 0 && 1<<m.width-1-low <= out.top():
		p.addOutliers(g, s.codes, list)
	case len(list) > 0 || low != 0 || 1<<m.width-1 > out.top():
		p.clip(g, s.codes[:n*stride], list)
		low = 0
	}
	end := 0
	for k := range m.coded.Tiles() {
		from := k * m.coded.StepsPerTile() * format.StepCols
		for r := range n {
			end += p.row(first+r, k, s.codes[r*stride+from:], low, s, end)
		}
	}
	p.escape[g] = slices.Clone(s.escape[:end])
	if out.fine != nil {
		p.fine(g, first, n, s)
	}
}

// fine packs the low bits of group g that are decoded apart.
func (p *packing) fine(g, first, n int, s *packScratch) {
	m, stride := p.m, p.m.stride()
	for k := range m.coded.Tiles() {
		m.decodeLow(g, k, s.codes, stride)
		for r := range n {
			w, i := p.out.fine.tile(m, (first+r)/plainUnit, k), (first+r)%plainUnit
			p.isa.Pack(w.Width, w.Nibble[i*w.NibbleStride:], w.Bits[min(len(w.Bits), i*w.BitsStride):], s.codes[r*stride:], w.Steps)
		}
	}
}

// deltaShift is how far the differences of outliers are shifted in units of stored codes.
func (p *packing) deltaShift() uint { return p.m.sparseShift - uint(p.m.split) }

// row packs tile k of the row at stored position pos and returns the number of its escapes' bytes. These go `end` bytes behind the start of the group's; finish
// knows where that is.
func (p *packing) row(pos, k int, codes []byte, low int, s *packScratch, end int) int {
	w, r := p.out.tile(p.m, pos/plainUnit, k), pos%plainUnit
	nibble, bits := w.Nibble[r*w.NibbleStride:], w.Bits[r*w.BitsStride:]
	if !w.Escaped {
		p.isa.Pack(w.Width, nibble, bits, codes, w.Steps)
		return 0
	}
	w.Start[r], w.Scratch = uint32(end), s.row
	return p.isa.PackEscapes(&w, low, nibble, bits, s.escape[end:], codes)
}

// addOutliers adds group g's outliers to its codes as far as bytes can hold that.
func (p *packing) addOutliers(g int, buf []byte, list []uint32) {
	for _, v := range list {
		o := format.UnpackOutlier(v)
		u := &buf[o.Row*p.m.stride()+o.Col]
		sum := int(*u) + o.Delta<<p.deltaShift()
		stored := min(max(sum, 0), 255+min(p.out.low, 0))
		*u = byte(stored)
		p.overflow[g] = appendSparse(p.overflow[g], o.Row, o.Col, sum-stored)
	}
}

// clip moves codes to where planes and escapes can hold them and records what does not fit. list holds the group's outliers.
func (p *packing) clip(g int, buf []byte, list []uint32) {
	m, stride, low := p.m, p.m.stride(), p.out.low
	top := p.out.top()
	inside := newInside(low, low+top, low, m.width)
	for r := 0; r*stride < len(buf); r++ {
		row := buf[r*stride : (r+1)*stride]
		for c := 0; c < len(row); c++ {
			if c%8 == 0 && !touches(list, r, c, c+8) && inside.move(row[c:c+8]) {
				c += 7
				continue
			}
			u, delta := row[c], 0
			for len(list) > 0 {
				o := format.UnpackOutlier(list[0])
				if o.Row != r || o.Col != c {
					break
				}
				delta += o.Delta << p.deltaShift()
				list = list[1:]
			}
			v := int(u) - low + delta
			stored := min(max(v, 0), top)
			row[c] = byte(stored)
			if v != stored && c < m.cols {
				p.overflow[g] = appendSparse(p.overflow[g], r, c, v-stored)
			}
		}
	}
}

// touches reports whether the first outlier of the list lies in columns from … to−1 of row r.
func touches(list []uint32, r, from, to int) bool {
	if len(list) == 0 {
		return false
	}
	o := format.UnpackOutlier(list[0])
	return o.Row == r && o.Col >= from && o.Col < to
}

// inside moves eight codes at once that lie in the window, as most do.
type inside struct {
	usable           bool // all codes are below 128
	below, over, low uint64
}

// newInside is for codes first … last, from which low is subtracted, among codes of width bits.
func newInside(first, last, low, width int) inside {
	const ones = 0x0101010101010101
	if width > 7 {
		return inside{}
	}
	first, last = max(first, 0), min(last, 127)
	// Added to a code, below sets the highest bit from first on, over behind last. A negative low is added by the same subtraction.
	return inside{usable: true, below: uint64(128-first) * ones, over: uint64(127-last) * ones, low: uint64(low) * ones}
}

// move subtracts low from eight codes and reports true, or leaves them alone if one lies outside of the window.
func (w *inside) move(b []byte) bool {
	const high = 0x8080808080808080
	v := binary.LittleEndian.Uint64(b)
	if !w.usable || (v+w.below)&high != high || (v+w.over)&high != 0 {
		return false
	}
	binary.LittleEndian.PutUint64(b, v-w.low)
	return true
}

// appendSparse adds entries whose differences add up to delta.
func appendSparse(list []uint32, row, col, delta int) []uint32 {
	for delta != 0 {
		d := min(max(delta, -128), 127)
		list = append(list, format.PackOutlier(format.Outlier{Row: row, Col: col, Delta: d}))
		delta -= d
	}
	return list
}

// finish joins what the groups have made.
func (p *packing) finish() *packed {
	p.joinEscapes()
	p.joinCorrections()
	p.joinSparse()
	return p.out
}

func (p *packing) joinEscapes() {
	out, tiles := p.out, p.m.coded.Tiles()
	if !out.escapes {
		return
	}
	total := dot.EscapeSlack
	for _, e := range p.escape {
		total += len(e)
	}
	out.escape = p.memory.take(total)
	end := 0
	for g, e := range p.escape {
		first := g * p.m.coded.Coding.RowsPerGroup
		for pos := first; pos < first+p.m.coded.GroupRows(g); pos++ {
			for k := range tiles {
				start := &out.tile(p.m, pos/plainUnit, k).Start[pos%plainUnit]
				most := &out.mostEscapes[pos/plainUnit*tiles+k]
				*most = max(*most, uint16(dot.EscapeCount(e[*start:])))
				*start += uint32(end)
			}
		}
		end += copy(out.escape[end:], e)
	}
}

// joinCorrections turns the small differences of the sparse lists to corrections, in the order of the planes.
func (p *packing) joinCorrections() {
	out, m := p.out, p.m
	if !out.corrections {
		return
	}
	tiles, cols := m.coded.Tiles(), m.coded.StepsPerTile()*format.StepCols
	slot := func(g int, o format.Outlier) int {
		row := g*m.coded.Coding.RowsPerGroup + o.Row
		first := row / plainUnit * plainUnit
		return first*tiles + o.Col/cols*min(plainUnit, m.rows-first) + row - first
	}
	small := func(o format.Outlier) bool { return o.Delta >= dot.MinCorrection && o.Delta <= dot.MaxCorrection }
	start := make([]uint32, m.rows*tiles+1)
	for g, l := range p.overflow {
		for _, v := range l {
			if o := format.UnpackOutlier(v); small(o) {
				start[slot(g, o)+1]++
			}
		}
	}
	for i := range start[1:] {
		start[i+1] += start[i]
	}
	out.correct, out.correctStart = make([]uint16, start[len(start)-1]), slices.Clone(start)
	for g, l := range p.overflow {
		rest := l[:0]
		for _, v := range l {
			o := format.UnpackOutlier(v)
			if !small(o) {
				rest = append(rest, v)
				continue
			}
			at := &start[slot(g, o)]
			out.correct[*at] = dot.PackCorrection(o.Col%cols, o.Delta)
			*at++
		}
		p.overflow[g] = rest
	}
}

// joinSparse renumbers the rows of the sparse lists by units of plainUnit rows.
func (p *packing) joinSparse() {
	total := 0
	for _, l := range p.overflow {
		total += len(l)
	}
	out := p.out
	units := (p.m.rows + plainUnit - 1) / plainUnit
	out.start = make([]uint32, units+1)
	out.sparse = make([]uint32, 0, total)
	unit := 0
	for g, l := range p.overflow {
		for _, v := range l {
			o := format.UnpackOutlier(v)
			row := g*p.m.coded.Coding.RowsPerGroup + o.Row
			for ; unit <= row/plainUnit; unit++ {
				out.start[unit] = uint32(len(out.sparse))
			}
			o.Row = row % plainUnit
			out.sparse = append(out.sparse, format.PackOutlier(o))
		}
	}
	for ; unit <= units; unit++ {
		out.start[unit] = uint32(len(out.sparse))
	}
}
