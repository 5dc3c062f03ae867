package cpu

import (
	"encoding/binary"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// packed is the resident form of integer codes: planes of package dot. A stored code is u − low for a decoded byte u, clipped to width bits; what
// clipping took away, and outliers, are in a sparse list for every unit of rows. Where blocks have scales, sums are not exact: there the list is what foldOutliers
// leaves, as in a fused product.
type packed struct {
	width, low   int
	nibble, bits []byte
	blocks       blocks
	sparse       []uint32 // format.PackOutlier(row in the unit, column, difference)
	start        []uint32 // per unit, and the end
	shift        uint     // of the differences
}

// maxOverflow is the share of codes that may be clipped for a narrower resident form.
const maxOverflow = 0.003

// sampledGroups is how many groups are decoded to choose the width.
const sampledGroups = 8

// width is the choice of the resident form.
type width struct {
	bits, low int
	overflow  float64 // share of clipped codes
}

// chooseWidth decodes a sample of m's groups and returns the narrowest form that clips at most maxOverflow of the codes. Block scales are never
// clipped: their codes use all values about equally.
func (m *matrix) chooseWidth(isa dot.ISA) width {
	full := width{bits: dot.WidthFor(m.width)}
	if isa == dot.Generic {
		return width{bits: 8} // without instructions for it, unpacking costs more than reading
	}
	if full.bits == 4 || m.block > 0 {
		return full
	}
	hist, total := m.sample()
	for _, w := range []int{4, 5, 6} {
		if w >= full.bits {
			break
		}
		low, inside := bestWindow(hist, 1<<w)
		if over := 1 - float64(inside)/float64(total); over <= maxOverflow {
			return width{bits: w, low: low, overflow: over}
		}
	}
	return full
}

// sample counts the decoded bytes of some groups.
func (m *matrix) sample() (hist [256]int, total int) {
	n := min(sampledGroups, m.coded.Groups())
	buf := make([]byte, m.unitRows*m.stride())
	for i := range n {
		g := i * m.coded.Groups() / n
		m.decodeGroup(g, buf, m.stride())
		for r := range m.coded.GroupRows(g) {
			for _, u := range buf[r*m.stride():][:m.cols] {
				hist[u]++
			}
			total += m.cols
		}
	}
	return hist, total
}

// bestWindow returns the start of the run of `size` codes that holds the most.
func bestWindow(hist [256]int, size int) (low, inside int) {
	sum := 0
	for u, n := range hist {
		sum += n
		if u >= size {
			sum -= hist[u-size]
		}
		if sum > inside {
			low, inside = max(0, u-size+1), sum
		}
	}
	return low, inside
}

// packedBytes returns what the resident form takes, the sparse list estimated.
func (m *matrix) packedBytes(w width) int64 {
	perRow := int64(m.steps() * (dot.NibbleBytes(w.bits) + dot.BitBytes(w.bits)))
	sparse := w.overflow*float64(m.rows)*float64(m.cols) + float64(len(m.coded.Outliers))
	return int64(m.rows)*perRow + blockBytes(m, m.rows) + 4*int64(sparse) + 4*int64(m.rows/plainUnit+2)
}

// packing makes the resident form of a matrix, group by group.
type packing struct {
	m        *matrix
	k        *kernels
	isa      dot.ISA
	out      *packed
	overflow [][]uint32 // per group: sparse entries, rows counted in the group
}

func newPacking(m *matrix, w width, k *kernels, isa dot.ISA) *packing {
	p := &packed{width: w.bits, low: w.low, blocks: newBlocks(m, m.rows)}
	if m.block > 0 {
		p.shift = m.sparseShift
	}
	p.nibble = make([]byte, m.rows*m.steps()*dot.NibbleBytes(w.bits))
	p.bits = make([]byte, m.rows*m.steps()*dot.BitBytes(w.bits))
	return &packing{m: m, k: k, isa: isa, out: p, overflow: make([][]uint32, m.coded.Groups())}
}

// group decodes and packs group g; buf holds a group's bytes. Different groups may be packed at the same time.
func (p *packing) group(g int, buf []byte) {
	m, out := p.m, p.out
	stride, steps := m.stride(), m.steps()
	m.decodeGroup(g, buf, stride)
	list := m.outliers(g)
	first, n := g*m.coded.Coding.RowsPerGroup, m.coded.GroupRows(g)
	switch {
	case m.block > 0:
		p.overflow[g] = m.foldOutliers(list, buf, stride, 0, stride, nil)
	case len(list) > 0 || out.low > 0 || m.width > out.width:
		p.clip(g, buf[:n*stride], list)
	}
	nb, bb := steps*dot.NibbleBytes(out.width), steps*dot.BitBytes(out.width)
	for r := range n {
		at := first + r
		p.isa.Pack(out.width, out.nibble[at*nb:(at+1)*nb], out.bits[at*bb:(at+1)*bb], buf[r*stride:(r+1)*stride], steps)
	}
	if m.block > 0 {
		out.blocks.fill(p.k, m, first, n, first)
	}
}

// clip moves codes into the window and records what does not fit. list holds the group's outliers.
func (p *packing) clip(g int, buf []byte, list []uint32) {
	m, stride := p.m, p.m.stride()
	low, top := p.out.low, 1<<p.out.width-1
	inside := newInside(low, top, m.width)
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
				delta += o.Delta << m.sparseShift
				list = list[1:]
			}
			v := int(u) - low
			stored := min(max(v+delta, 0), top)
			row[c] = byte(stored)
			if rest := v + delta - stored; rest != 0 && c < m.cols {
				p.overflow[g] = appendSparse(p.overflow[g], r, c, rest)
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

func newInside(low, top, width int) inside {
	const ones = 0x0101010101010101
	if width > 7 || low+top > 127 {
		return inside{}
	}
	// Added to a code, below sets the highest bit from low on, over behind the window.
	return inside{usable: true, below: uint64(128-low) * ones, over: uint64(127-low-top) * ones, low: uint64(low) * ones}
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

// finish joins the sparse lists and renumbers their rows by units of plainUnit rows.
func (p *packing) finish() *packed {
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
	return out
}
