package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
)

// packed is the resident form of integer codes: planes, escapes and corrections of package dot. A stored code is u − form.low for a decoded byte u, clipped to what
// these can hold; what clipping took away, and outliers, are in a sparse list for every unit of rows. Where blocks have scales, sums are not exact:
// there the list is what foldOutliers leaves, as in a fused product.
type packed struct {
	form
	nibble, bits []byte
	escape       []byte
	escapeStart  []uint32 // [unit][tile][row]
	mostEscapes  []uint16 // [unit][tile]: of a row
	correct      []uint16 // corrections
	correctStart []uint32 // [unit][tile][row], and their end
	blocks       blocks
	sparse       []uint32 // format.PackOutlier(row in the unit, column, difference)
	start        []uint32 // per unit, and the end of the list
	shift        uint     // of the differences
	fine         *packed  // planes of the low bits that are decoded apart, or nil
}

// tile returns tile k of unit u, whose rows follow each other tile by tile: a product reads memory from front to back.
func (p *packed) tile(m *matrix, u, k int) dot.Rows {
	first := u * plainUnit
	n, steps, before := min(plainUnit, m.rows-first), m.coded.TileSteps(k), k*m.coded.StepsPerTile()
	r := dot.Rows{Width: p.width, Escaped: p.escapes, Count: n, Steps: steps}
	nb, bb := dot.NibbleBytes(r.Width), dot.BitBytes(r.Width)
	r.NibbleStride, r.BitsStride = steps*nb, steps*bb
	from := first*m.steps() + before*n
	r.Nibble, r.Bits = p.nibble[from*nb:], p.bits[from*bb:]
	if p.escapes {
		r.Escape, r.StartStride, r.Most = p.escape, 1, int(p.mostEscapes[u*m.coded.Tiles()+k])
		r.Start = p.escapeStart[first*m.coded.Tiles()+k*n:]
	}
	if p.correctStart != nil { // while packing there are none yet
		at := first*m.coded.Tiles() + k*n
		r.Correct, r.CorrectStart = p.correct, p.correctStart[at:at+n+1]
	}
	return r
}
