package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
)

// packed is the resident form of integer codes: planes and escapes of package dot. A stored code is u − form.low for a decoded byte u, clipped to what
// these can hold; what clipping took away, and outliers, are in a sparse list for every unit of rows. Where blocks have scales, sums are not exact:
// there the list is what foldOutliers leaves, as in a fused product.
type packed struct {
	form
	nibble, bits []byte
	escape       []byte
	escapeStart  []uint32 // [row][tile]
	blocks       blocks
	sparse       []uint32 // format.PackOutlier(row in the unit, column, difference)
	start        []uint32 // per unit, and the end of the list
	shift        uint     // of the differences
}

// tile returns tile k of n rows from stored position first on.
func (p *packed) tile(m *matrix, first, n, k int) dot.Rows {
	tile := m.coded.StepsPerTile()
	r := dot.Rows{Width: p.width, Escapes: p.escapes, Low: p.regular, Count: n, Steps: m.coded.TileSteps(k)}
	nb, bb := dot.NibbleBytes(r.Width), dot.BitBytes(r.Width)
	r.NibbleStride, r.BitsStride = m.steps()*nb, m.steps()*bb
	r.Nibble = p.nibble[first*r.NibbleStride+k*tile*nb:]
	r.Bits = p.bits[first*r.BitsStride+k*tile*bb:]
	if p.escapes != dot.NoEscapes {
		r.Escape, r.StartStride = p.escape, m.coded.Tiles()
		r.Start = p.escapeStart[first*r.StartStride+k:]
	}
	return r
}
