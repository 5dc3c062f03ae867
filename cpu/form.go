package cpu

import "github.com/ellm-gpu/ellm-gpu/cpu/dot"

// form is how a resident matrix keeps its codes: in planes, the planes' exceptions as escapes or corrections, and the rest in a sparse list.
type form struct {
	width       int // of the planes, in bits
	escapes     bool
	low         int     // stored code = decoded byte − low
	escaped     float64 // share of codes that are escapes
	longEscaped float64 // share of codes that are escapes of a byte more
	corrections bool
	corrected   float64 // share of codes that have a correction
	sparse      float64 // share of codes in the sparse list
}

const (
	// maxOverflow is the share of codes that may be in the sparse list for a narrower form.
	maxOverflow = 0.003
	// sparseBits is what an entry of the sparse list costs, in bits read in the same time.
	sparseBits = 128
	// correctionBits is what a correction costs likewise.
	correctionBits = 24
	// sampledGroups is how many groups are decoded to choose the form.
	sampledGroups = 8
)

// top returns the largest code that planes and escapes can hold.
func (f *form) top() int {
	if f.escapes {
		return 255
	}
	return 1<<f.width - 1
}

// escapeBits returns the bits of escapes per code.
func (f *form) escapeBits() float64 { return 4*f.escaped + 8*f.longEscaped }

// cost returns what a product takes per weight, in bits read in the same time.
func (f *form) cost() float64 {
	return float64(f.width) + f.escapeBits() + correctionBits*f.corrected + sparseBits*f.sparse
}

// chooseWidth decodes a sample of m's groups and returns the form that is fastest to multiply. Codes with block scales, which use all values about
// equally, are kept in planes of their width.
func (m *matrix) chooseWidth(isa dot.ISA) form {
	best := form{width: dot.WidthFor(m.width)}
	if isa == dot.Generic {
		return form{width: 8} // without instructions for it, unpacking costs more than reading
	}
	if m.block > 0 {
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
		if f.corrections = !isa.HasEscapes(); f.corrections {
			rest := 1 - float64(count(hist, f.low+dot.MinCorrection, f.low+f.top()+dot.MaxCorrection))/float64(total)
			f.corrected, f.sparse = f.sparse-rest, rest
		}
		all = append(all, f)
	}
	if !isa.HasEscapes() || int64(m.rows)*int64(m.coded.Tiles()*dot.MaxEscapeBytes(m.coded.StepsPerTile())) > maxEscapes {
		return all
	}
	for _, bits := range []int{3, 4, 5, 6} {
		f := form{width: bits, escapes: true}
		f.low, f.escaped = outside(1<<bits - 1)
		f.low -= dot.RegularCode
		first, last := dot.NibbleEscapes(bits)
		f.longEscaped = 1 - float64(count(hist, f.low+first, f.low+last))/float64(total)
		f.sparse = 1 - float64(count(hist, f.low, f.low+f.top()))/float64(total)
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
	if f.escapes {
		n += int64(codes*f.escapeBits()/8) + 6*int64(m.rows*m.coded.Tiles()) // and the number of a row's, and where they start
	}
	if f.corrections {
		n += 2*int64(codes*f.corrected) + 4*int64(m.rows*m.coded.Tiles()+1)
	}
	if m.split > 0 {
		w := dot.WidthFor(m.split)
		n += int64(m.rows) * int64(m.steps()*(dot.NibbleBytes(w)+dot.BitBytes(w)))
	}
	sparse := f.sparse*codes + float64(len(m.coded.Outliers))
	return n + blockBytes(m, m.rows) + 4*int64(sparse) + 4*int64(m.rows/plainUnit+2)
}
