package weights

import (
	"encoding/binary"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// packing makes the resident form of a matrix, group by group.
type packing struct {
	m       *Matrix
	k       *vec.Kernels
	dot     dot.Kernels
	memory  *buffer.Arena
	out     *planes
	entries [][]uint32 // per group: exception entries, rows counted in the group
	escape  [][]byte   // per group
}

// MakeResident decodes m and keeps it in m.Form, or as floats. each calls what start returns, for every thread, with the numbers
// 0 … n−1, each once.
func (m *Matrix) MakeResident(k *vec.Kernels, d dot.Kernels, memory *buffer.Arena,
	each func(n int, start func() func(i int))) {
	if m.floats != nil {
		f := m.floats.alloc(m.Rows)
		each(m.Coded.Groups(), func() func(g int) {
			s := newFloatScratch(m)
			return func(g int) { m.decodeFloats(g, f, g*m.Coded.Coding.RowsPerGroup, &s) }
		})
		m.floats, m.blockRows = f, RowBlockRows
		return
	}
	p := newPacking(m, m.Form, k, d, memory)
	each(m.Coded.Groups(), func() func(g int) {
		s := p.scratch()
		return func(g int) { p.group(g, s) }
	})
	m.planes, m.blockRows = p.finish(), RowBlockRows
}

func newPacking(m *Matrix, f PlaneForm, k *vec.Kernels, d dot.Kernels, memory *buffer.Arena) *packing {
	p := &planes{PlaneForm: f, scales: newScales(m, m.Rows)}
	if m.block > 0 || m.LowBits > 0 {
		p.shift = m.outlierShift
	}
	p.nibble = memory.Take(m.Rows * m.Steps() * dot.NibbleBytes(f.width))
	p.bits = memory.Take(m.Rows * m.Steps() * dot.BitBytes(f.width))
	if m.LowBits > 0 {
		w := dot.WidthFor(m.LowBits)
		p.low = &planes{PlaneForm: PlaneForm{width: w}, nibble: memory.Take(m.Rows * m.Steps() * dot.NibbleBytes(w)),
			bits: memory.Take(m.Rows * m.Steps() * dot.BitBytes(w))}
	}
	if f.escapes {
		p.escapeStart = make([]uint32, m.Rows*m.Coded.Tiles())
		p.mostEscapes = make([]uint16, (m.Rows+RowBlockRows-1)/RowBlockRows*m.Coded.Tiles())
	}
	return &packing{m: m, k: k, dot: d, memory: memory, out: p, entries: make([][]uint32, m.Coded.Groups()),
		escape: make([][]byte, m.Coded.Groups())}
}

// scratch is what packing a group needs.
type packScratch struct{ codes, escape, row []byte }

func (p *packing) scratch() *packScratch {
	c := p.m.Coded
	s := &packScratch{codes: make([]byte, p.m.blockRows*p.m.Stride())}
	if p.out.escapes {
		s.escape = make([]byte, p.m.blockRows*c.Tiles()*dot.MaxEscapeBytes(c.StepsPerTile()))
		s.row = make([]byte, dot.ScratchBytes(c.StepsPerTile()))
	}
	return s
}

// group decodes and packs group g. Different groups may be packed at the same time.
func (p *packing) group(g int, s *packScratch) {
	m, out := p.m, p.out
	stride := m.Stride()
	m.decodeGroup(g, s.codes, stride)
	list := m.outliers(g)
	first, n := g*m.Coded.Coding.RowsPerGroup, m.Coded.GroupRows(g)
	low := out.offset // what packing subtracts
	switch {
	case m.block > 0:
		p.entries[g] = m.foldOutliers(list, byteTile{bytes: s.codes, stride: stride, end: stride}, nil)
		out.scales.fill(p.k, m, first, n, first)
	case out.escapes && low <= 0 && 1<<m.Width-1-low <= out.top():
		p.addOutliers(g, s.codes, list)
	case len(list) > 0 || low != 0 || 1<<m.Width-1 > out.top():
		p.clip(g, s.codes[:n*stride], list)
		low = 0
	}
	end := 0
	for k := range m.Coded.Tiles() {
		from := k * m.Coded.StepsPerTile() * format.StepCols
		for r := range n {
			end += p.row(first+r, k, s.codes[r*stride+from:], low, s, end)
		}
	}
	p.escape[g] = slices.Clone(s.escape[:end])
	if out.low != nil {
		p.packLow(g, first, n, s)
	}
}

// packLow packs the low bits of group g that are decoded separately.
func (p *packing) packLow(g, first, n int, s *packScratch) {
	m, stride := p.m, p.m.Stride()
	for k := range m.Coded.Tiles() {
		m.decodeLow(g, k, s.codes, stride)
		for r := range n {
			w, i := p.out.low.tile(m, (first+r)/RowBlockRows, k), (first+r)%RowBlockRows
			p.dot.Pack(w.Width, w.Nibble[i*w.NibbleStride:], w.Bits[min(len(w.Bits), i*w.BitsStride):], s.codes[r*stride:], w.Steps)
		}
	}
}

// deltaShift is how far the differences of outliers are shifted in units of stored codes.
func (p *packing) deltaShift() uint { return p.m.outlierShift - uint(p.m.LowBits) }

// row packs tile k of a stored row and returns the number of bytes of its escapes, which start at byte `end` of the group's;
// finish knows where these go.
func (p *packing) row(stored, k int, codes []byte, low int, s *packScratch, end int) int {
	w, r := p.out.tile(p.m, stored/RowBlockRows, k), stored%RowBlockRows
	nibble, bits := w.Nibble[r*w.NibbleStride:], w.Bits[r*w.BitsStride:]
	if !w.Escaped {
		p.dot.Pack(w.Width, nibble, bits, codes, w.Steps)
		return 0
	}
	w.Start[r], w.Scratch = uint32(end), s.row
	return p.dot.PackEscapes(&w, low, nibble, bits, s.escape[end:], codes)
}

// addOutliers adds group g's outliers to its codes as far as bytes can hold that.
func (p *packing) addOutliers(g int, buf []byte, list []uint32) {
	for _, v := range list {
		o := format.UnpackOutlier(v)
		u := &buf[o.Row*p.m.Stride()+o.Col]
		sum := int(*u) + o.Delta<<p.deltaShift()
		stored := min(max(sum, 0), 255+min(p.out.offset, 0))
		*u = byte(stored)
		p.entries[g] = appendEntries(p.entries[g], o.Row, o.Col, sum-stored)
	}
}

// clip moves decoded bytes to where planes and escapes can hold them and records what does not fit. list holds the group's
// outliers.
func (p *packing) clip(g int, buf []byte, list []uint32) {
	m, stride, low := p.m, p.m.Stride(), p.out.offset
	top := p.out.top()
	inside := newInside(low, low+top, low, m.Width)
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
			if v != stored && c < m.Cols {
				p.entries[g] = appendEntries(p.entries[g], r, c, v-stored)
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
	// Added to a code, below sets the highest bit from first on, through to what follows last. A negative low is added by the same
	// subtraction.
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

// appendEntries adds entries whose differences add up to delta.
func appendEntries(list []uint32, row, col, delta int) []uint32 {
	for delta != 0 {
		d := min(max(delta, -128), 127)
		list = append(list, format.PackOutlier(format.Outlier{Row: row, Col: col, Delta: d}))
		delta -= d
	}
	return list
}

// finish joins what the groups have made.
func (p *packing) finish() *planes {
	p.joinEscapes()
	p.joinCorrections()
	p.joinEntries()
	return p.out
}

func (p *packing) joinEscapes() {
	out, tiles := p.out, p.m.Coded.Tiles()
	if !out.escapes {
		return
	}
	total := dot.EscapeSlack
	for _, e := range p.escape {
		total += len(e)
	}
	out.escape = p.memory.Take(total)
	end := 0
	for g, e := range p.escape {
		first := g * p.m.Coded.Coding.RowsPerGroup
		for stored := first; stored < first+p.m.Coded.GroupRows(g); stored++ {
			for k := range tiles {
				start := &out.tile(p.m, stored/RowBlockRows, k).Start[stored%RowBlockRows]
				most := &out.mostEscapes[stored/RowBlockRows*tiles+k]
				*most = max(*most, uint16(dot.EscapeCount(e[*start:])))
				*start += uint32(end)
			}
		}
		end += copy(out.escape[end:], e)
	}
}

// joinCorrections turns the exception entries with small differences into corrections, in the order of the planes.
func (p *packing) joinCorrections() {
	out, m := p.out, p.m
	if !out.corrections {
		return
	}
	tiles, cols := m.Coded.Tiles(), m.Coded.StepsPerTile()*format.StepCols
	slot := func(g int, o format.Outlier) int {
		row := g*m.Coded.Coding.RowsPerGroup + o.Row
		first := row / RowBlockRows * RowBlockRows
		return first*tiles + o.Col/cols*min(RowBlockRows, m.Rows-first) + row - first
	}
	small := func(o format.Outlier) bool { return o.Delta >= dot.MinCorrection && o.Delta <= dot.MaxCorrection }
	start := make([]uint32, m.Rows*tiles+1)
	for g, l := range p.entries {
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
	for g, l := range p.entries {
		entries := l[:0]
		for _, v := range l {
			o := format.UnpackOutlier(v)
			if !small(o) {
				entries = append(entries, v)
				continue
			}
			at := &start[slot(g, o)]
			out.correct[*at] = dot.PackCorrection(o.Col%cols, o.Delta)
			*at++
		}
		p.entries[g] = entries
	}
}

// joinEntries renumbers the rows of the exception entries by row blocks.
func (p *packing) joinEntries() {
	total := 0
	for _, l := range p.entries {
		total += len(l)
	}
	out := p.out
	blocks := (p.m.Rows + RowBlockRows - 1) / RowBlockRows
	out.start = make([]uint32, blocks+1)
	out.exceptions = make([]uint32, 0, total)
	block := 0
	for g, l := range p.entries {
		for _, v := range l {
			o := format.UnpackOutlier(v)
			row := g*p.m.Coded.Coding.RowsPerGroup + o.Row
			for ; block <= row/RowBlockRows; block++ {
				out.start[block] = uint32(len(out.exceptions))
			}
			o.Row = row % RowBlockRows
			out.exceptions = append(out.exceptions, format.PackOutlier(o))
		}
	}
	for ; block <= blocks; block++ {
		out.start[block] = uint32(len(out.exceptions))
	}
}
