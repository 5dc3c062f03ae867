package gpu

import "github.com/ellm-gpu/ellm-gpu/format"

// scaleRows returns the rows whose sub-scales are expanded at a time, into at most `most` bytes: a multiple of 32, so that packed
// values start on a whole word.
func (w *weight) scaleRows(most int64) int {
	if w.Coded.Scale.Kind != format.ScaleBlock {
		return w.Rows
	}
	fit := int(most / max(w.blockScaleBytes(1), 1))
	return min(w.Rows, max(fit/32*32, 32))
}

// subScaleBlocks lists the two-level scales of rows [r0, r0+n) as block_scales reads them; r0 is a multiple of 32.
// The order is d, dmin, sub_scale, sub_min; absent ones have no size. dst is for the caller to set.
func (w *weight) subScaleBlocks(r0, n int) []deviceBlock {
	c := w.Coded
	if c.Scale.Kind != format.ScaleBlock {
		return nil
	}
	supers, blocks := c.Cols/c.Scale.Super, c.Cols/c.Scale.Block
	halves := func(v []uint16) deviceBlock {
		if v == nil {
			return deviceBlock{}
		}
		return hostBlock(nil, v[r0*supers:(r0+n)*supers])
	}
	packed := func(v []byte) deviceBlock {
		if v == nil || c.Scale.SubBits == 0 {
			return deviceBlock{}
		}
		bit := int64(blocks) * int64(c.Scale.SubBits)
		return hostBlock(nil, v[int64(r0)*bit/8:(int64(r0+n)*bit+7)/8])
	}
	return []deviceBlock{halves(c.D), halves(c.DMin), packed(c.SubScale), packed(c.SubMin)}
}
