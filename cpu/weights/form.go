package weights

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// PlaneForm is how resident planes keep decoded bytes: in planes of some width, what these do not hold as escapes or corrections,
// and what is left as exception entries.
type PlaneForm struct {
	width       int // of the planes, in bits
	escapes     bool
	offset      int     // stored number = decoded byte − offset
	escaped     float64 // share of codes that are escapes
	longEscaped float64 // share of codes that are escapes of a byte more
	corrections bool
	corrected   float64 // share of codes that have a correction
	entries     float64 // share of codes that are exception entries
}

const (
	// maxEntries is the share of exception entries that a narrower form may have.
	maxEntries = 0.003
	// entryBits is what an exception entry costs, in bits read in the same time.
	entryBits = 128
	// correctionBits is what a correction costs in the same unit; narrowCorrectionBits where 8-bit activations make products fast.
	correctionBits       = 60
	narrowCorrectionBits = 56
	// thinEscapeBits is what planes of 3 bits with escapes cost besides: they have the most instructions per weight.
	thinEscapeBits = 0.2
	// sampledGroups is how many groups are decoded to choose the form.
	sampledGroups = 8
)

// top returns the largest code that planes and escapes can hold.
func (f *PlaneForm) top() int {
	if f.escapes {
		return 255
	}
	return 1<<f.width - 1
}

// escapeBits returns the bits of escapes per code.
func (f *PlaneForm) escapeBits() float64 { return 4*f.escaped + 8*f.longEscaped }

// cost returns what a product takes per weight, in bits read in the same time.
func (f *PlaneForm) cost(d dot.Kernels) float64 {
	correction := float64(correctionBits)
	if d.Factored() {
		correction = narrowCorrectionBits
	}
	bits := float64(f.width) + f.escapeBits()
	if f.escapes && f.width == 3 {
		bits += thinEscapeBits
	}
	return bits + correction*f.corrected + entryBits*f.entries
}

// chooseWidth decodes a sample of m's groups and returns the form that is fastest to multiply. Codes with block scales, which use
// all values about equally, are kept in planes of their width.
func (m *Matrix) chooseWidth(d dot.Kernels) PlaneForm {
	best := PlaneForm{width: dot.WidthFor(m.Width)}
	if d.ISA == isa.Generic {
		return PlaneForm{width: 8} // without instructions for it, unpacking costs more than reading
	}
	if m.block > 0 {
		return best
	}
	for _, f := range m.Forms(d) {
		if f.entries <= maxEntries && f.cost(d) < best.cost(d) {
			best = f
		}
	}
	return best
}

// Forms returns what m's codes could be kept in besides planes that hold all of them.
func (m *Matrix) Forms(d dot.Kernels) []PlaneForm {
	hist, total := m.sample()
	outside := func(size int) (low int, share float64) {
		low, inside := bestWindow(hist, size)
		return low, 1 - float64(inside)/float64(total)
	}
	var all []PlaneForm
	for _, bits := range []int{4, 5, 6} {
		f := PlaneForm{width: bits}
		f.offset, f.entries = outside(1 << bits)
		if f.corrections = !d.HasEscapes(); f.corrections {
			rest := 1 - float64(count(hist, f.offset+dot.MinCorrection, f.offset+f.top()+dot.MaxCorrection))/float64(total)
			f.corrected, f.entries = f.entries-rest, rest
		}
		all = append(all, f)
	}
	if !d.HasEscapes() || int64(m.Rows)*int64(m.Coded.Tiles()*dot.MaxEscapeBytes(m.Coded.StepsPerTile())) > maxEscapes {
		return all
	}
	for _, bits := range []int{3, 4, 5, 6} {
		f := PlaneForm{width: bits, escapes: true}
		f.offset, f.escaped = outside(1<<bits - 1)
		f.offset -= dot.RegularCode
		first, last := dot.NibbleEscapes(bits)
		f.longEscaped = 1 - float64(count(hist, f.offset+first, f.offset+last))/float64(total)
		f.entries = 1 - float64(count(hist, f.offset, f.offset+f.top()))/float64(total)
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
func (m *Matrix) sample() (hist [256]int, total int) {
	n := min(sampledGroups, m.Coded.Groups())
	buf := make([]byte, m.blockRows*m.Stride())
	for i := range n {
		g := i * m.Coded.Groups() / n
		m.decodeGroup(g, buf, m.Stride())
		for r := range m.Coded.GroupRows(g) {
			for _, u := range buf[r*m.Stride():][:m.Cols] {
				hist[u]++
			}
			total += m.Cols
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

// planeBytes returns what the resident form takes, escapes and exception entries estimated.
func (m *Matrix) planeBytes(f PlaneForm) int64 {
	codes := float64(m.Rows) * float64(m.Stride())
	n := int64(m.Rows) * int64(m.Steps()*(dot.NibbleBytes(f.width)+dot.BitBytes(f.width)))
	if f.escapes {
		n += int64(codes*f.escapeBits()/8) + 6*int64(m.Rows*m.Coded.Tiles()) // and the number of a row's, and where they start
	}
	if f.corrections {
		n += 2*int64(codes*f.corrected) + 4*int64(m.Rows*m.Coded.Tiles()+1)
	}
	if m.LowBits > 0 {
		w := dot.WidthFor(m.LowBits)
		n += int64(m.Rows) * int64(m.Steps()*(dot.NibbleBytes(w)+dot.BitBytes(w)))
	}
	entries := f.entries*codes + float64(len(m.Coded.Outliers))
	return n + scaleBytes(m, m.Rows) + 4*int64(entries) + 4*int64(m.Rows/RowBlockRows+2)
}
