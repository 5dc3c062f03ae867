package weights

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
)

// planes are the resident form of integer weights: planes, escapes and corrections of package dot. A stored number is u −
// PlaneForm.offset for a decoded byte u, clipped to what these can hold; the clipped differences and the outliers are exception
// entries, a list for every row block. Where blocks have scales, sums are not exact: there the list is what foldOutliers leaves,
// as in a fused product.
type planes struct {
	PlaneForm
	nibble, bits []byte
	escape       []byte
	escapeStart  []uint32 // [row block][tile][row]
	mostEscapes  []uint16 // [row block][tile]: of a row
	correct      []uint16 // corrections
	correctStart []uint32 // [row block][tile][row], and their end
	scales       BlockScales
	exceptions   []uint32 // entries: format.PackOutlier(row in the row block, column, difference)
	start        []uint32 // per row block, and the end of the list
	shift        uint     // of the differences
	low          *planes  // of the low bits that are decoded separately, or nil
}

// tile returns tile k of row block i, whose rows follow each other tile by tile: a product reads memory from front to back.
func (p *planes) tile(m *Matrix, i, k int) dot.Rows {
	first := i * RowBlockRows
	n, steps, before := min(RowBlockRows, m.Rows-first), m.Coded.TileSteps(k), k*m.Coded.StepsPerTile()
	r := dot.Rows{Width: p.width, Escaped: p.escapes, Count: n, Steps: steps}
	nb, bb := dot.NibbleBytes(r.Width), dot.BitBytes(r.Width)
	r.NibbleStride, r.BitsStride = steps*nb, steps*bb
	from := first*m.Steps() + before*n
	r.Nibble, r.Bits = p.nibble[from*nb:], p.bits[from*bb:]
	if p.escapes {
		r.Escape, r.StartStride, r.Most = p.escape, 1, int(p.mostEscapes[i*m.Coded.Tiles()+k])
		r.Start = p.escapeStart[first*m.Coded.Tiles()+k*n:]
	}
	if p.correctStart != nil { // while packing there are none yet
		at := first*m.Coded.Tiles() + k*n
		r.Correct, r.CorrectStart = p.correct, p.correctStart[at:at+n+1]
	}
	return r
}
