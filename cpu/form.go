package cpu

import "github.com/ellm-gpu/ellm-gpu/cpu/dot"

// form is how a resident matrix keeps its codes: in planes, the planes' exceptions as escapes, and the rest in a sparse list.
type form struct {
	width   int // of the planes, in bits
	escapes dot.Escapes
	low     int     // stored code = decoded byte − low
	regular int     // EscapeBytes: smallest code in the planes
	escaped float64 // share of codes that are escapes
	sparse  float64 // share of codes in the sparse list
}

const (
	// maxOverflow is the share of codes that may be in the sparse list for a narrower form.
	maxOverflow = 0.003
	// sparseBits is what an entry of the sparse list costs, in bits read in the same time.
	sparseBits = 128
	// sampledGroups is how many groups are decoded to choose the form.
	sampledGroups = 8
)

// bounds returns the smallest and the largest code that planes and escapes can hold.
func (f *form) bounds() (low, high int) {
	switch f.escapes {
	case dot.EscapeNibbles:
		return dot.FirstNibbleCode, dot.LastNibbleCode
	case dot.EscapeBytes:
		return 0, 255
	}
	return 0, 1<<f.width - 1
}

// escapeBits returns the bits of an escape, those that align nibbles included.
func (f *form) escapeBits() float64 {
	switch f.escapes {
	case dot.EscapeNibbles:
		return 4 * f.escaped
	case dot.EscapeBytes:
		return 8 * f.escaped
	}
	return 0
}

// cost returns what a product takes per weight, in bits read in the same time.
func (f *form) cost() float64 { return float64(f.width) + f.escapeBits() + sparseBits*f.sparse }

// chooseWidth decodes a sample of m's groups and returns the form that is fastest to multiply. Codes with block scales, which use all values about
// equally, are kept in planes of their width.
func (m *matrix) chooseWidth(isa dot.ISA) form {
	best := form{width: dot.WidthFor(m.width)}
	if isa == dot.Generic {
		return form{width: 8} // without instructions for it, unpacking costs more than reading
	}
	if best.width == 4 || m.block > 0 {
		return best
	}
	for _, f := range m.forms(isa) {
		if f.sparse <= maxOverflow && f.cost() < best.cost() {
			best = f
		}
	}
	return best
}

// forms returns what m's codes could be kept in besides planes that hold all of them.
func (m *matrix) forms(isa dot.ISA) []form {
	hist, total := m.sample()
	outside := func(size int) (low int, share float64) {
		low, inside := bestWindow(hist, size)
		return low, 1 - float64(inside)/float64(total)
	}
	var all []form
	for _, bits := range []int{4, 5, 6} {
		f := form{width: bits}
		f.low, f.sparse = outside(1 << bits)
		all = append(all, f)
	}
	if !isa.HasEscapes() || int64(m.rows)*int64(m.stride()) > maxEscapes {
		return all
	}
	nibbles := form{width: 4, escapes: dot.EscapeNibbles}
	nibbles.low, nibbles.escaped = outside(15)
	nibbles.low -= dot.RegularNibbleCode
	nibbles.sparse = 1 - float64(count(hist, nibbles.low+dot.FirstNibbleCode, nibbles.low+dot.LastNibbleCode))/float64(total)
	all = append(all, nibbles)
	for _, bits := range []int{5, 6} {
		f := form{width: bits, escapes: dot.EscapeBytes}
		f.regular, f.escaped = outside(1<<bits - 1)
		all = append(all, f)
	}
	return all
}

// maxEscapes bounds the bytes of a matrix's escapes, whose places are 32-bit numbers.
const maxEscapes = 1<<32 - 1 - dot.EscapeSlack

// count returns how many codes lie in low … high.
func count(hist [256]int, low, high int) int {
	n := 0
	for u := max(low, 0); u <= min(high, len(hist)-1); u++ {
		n += hist[u]
	}
	return n
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

// packedBytes returns what the resident form takes, escapes and sparse list estimated.
func (m *matrix) packedBytes(f form) int64 {
	codes := float64(m.rows) * float64(m.stride())
	n := int64(m.rows) * int64(m.steps()*(dot.NibbleBytes(f.width)+dot.BitBytes(f.width)))
	if f.escapes != dot.NoEscapes {
		n += int64(codes*f.escapeBits()/8) + 4*int64(m.rows*m.coded.Tiles())
	}
	sparse := f.sparse*codes + float64(len(m.coded.Outliers))
	return n + blockBytes(m, m.rows) + 4*int64(sparse) + 4*int64(m.rows/plainUnit+2)
}
