package cpu

import (
	"sort"

	"github.com/ellm-gpu/ellm-gpu/format"
)

// newRows allocates room for n decoded rows of m.
func (m *matrix) newRows(n int) rows {
	r := rows{stride: m.stride()}
	switch m.form {
	case formByte:
		r.u8 = make([]uint8, n*r.stride)
	case formBF16, formF16:
		r.u16 = make([]uint16, n*r.stride)
	case formF32:
		r.f32 = make([]float32, n*r.stride)
	}
	if m.block > 0 {
		r.blocks.n = m.cols / m.block
		r.scale = make([]float32, n*r.blocks.n)
		if m.coded.DMin != nil {
			r.add = make([]float32, n*r.blocks.n)
		}
	}
	return r
}

// groupScratch is what decoding a group needs besides its destination.
type groupScratch struct {
	levels []uint16
	codes  []int32
}

// newGroupScratch returns scratch for m's groups; nothing for the common form.
func (m *matrix) newGroupScratch() groupScratch {
	if m.coded == nil || m.form == formByte {
		return groupScratch{}
	}
	n := m.unitRows * m.stride()
	return groupScratch{levels: make([]uint16, n), codes: make([]int32, n)}
}

// decodeGroup decodes group g into dst, which has at least its rows. dst.patches is extended.
func (m *matrix) decodeGroup(g int, dst *rows, s *groupScratch) error {
	var err error
	if m.form == formByte {
		err = m.decodeInt8(g, dst)
	} else {
		err = m.decodeWide(g, dst, s)
	}
	if err == nil && m.block > 0 {
		m.blockScales(g, dst)
	}
	return err
}

func (m *matrix) decodeInt8(g int, dst *rows) error {
	c := m.coded
	m.decoder.Group(g, dst.u8, dst.stride)
	if c.OutlierStart == nil {
		return nil
	}
	list := c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]]
	m.addOutliers(list, dst)
	return nil
}

// addOutliers adds outliers to the codes; a code that does not fit becomes a patch. Entries of the same weight follow each other.
func (m *matrix) addOutliers(list []uint32, dst *rows) {
	const place = 1<<24 - 1 // row and column of a packed outlier
	for i := 0; i < len(list); {
		o := format.UnpackOutlier(list[i])
		delta := o.Delta
		for i++; i < len(list) && list[i]&place == list[i-1]&place; i++ {
			delta += format.UnpackOutlier(list[i]).Delta
		}
		p := &dst.u8[o.Row*dst.stride+o.Col]
		q := int(*p) + delta<<m.coded.Coding.LowBits
		if q < 0 || q > 255 {
			dst.patches = append(dst.patches, patch{row: int32(o.Row), col: int32(o.Col), code: int32(q) + m.bias})
			continue
		}
		*p = uint8(q)
	}
}

// decodeWide decodes a group whose codes do not fit a byte: floats, and integers of more than 8 bits.
func (m *matrix) decodeWide(g int, dst *rows, s *groupScratch) error {
	c := m.coded
	n := c.GroupRows(g)
	m.decoder.GroupWide(g, s.levels, dst.stride)
	low := uint(c.Coding.LowBits)
	codes := s.codes[:n*dst.stride]
	for i, a := range s.levels[:len(codes)] {
		codes[i] = int32(a)
	}
	if c.OutlierStart != nil {
		for _, v := range c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]] {
			o := format.UnpackOutlier(v)
			codes[o.Row*dst.stride+o.Col] += int32(o.Delta) << low
		}
	}
	for r := range n {
		// What the padding decodes to is unspecified, it might be a NaN: only real columns are kept.
		at := r * dst.stride
		m.storeWide(dst, at, codes[at:at+m.cols])
	}
	return nil
}

// storeWide stores a row's codes at dst[at:].
func (m *matrix) storeWide(dst *rows, at int, codes []int32) {
	k := &m.coded.Coding
	for i, q := range codes {
		switch m.form {
		case formBF16:
			dst.u16[at+i] = uint16(q&0x80<<8 | (k.Zero+q>>8)&0xff<<7 | q&0x7f)
		case formF16:
			dst.u16[at+i] = uint16(q&0x400<<5 | (k.Zero+q>>11)&0x1f<<10 | q&0x3ff)
		default:
			if k.Values != nil {
				q = int32(k.Values[min(max(int(q), 0), len(k.Values)-1)])
			} else {
				q += k.Zero
			}
			dst.f32[at+i] = float32(q)
		}
	}
}

// blockScales expands the scales of group g into dst.
func (m *matrix) blockScales(g int, dst *rows) {
	c := m.coded
	s := &c.Scale
	nb, perSuper := dst.blocks.n, s.Super/s.Block
	first := g * c.Coding.RowsPerGroup
	for r := range c.GroupRows(g) {
		at := (first + r) * nb
		for b := range nb {
			super := (at + b) / perSuper
			v := half(c.D[super])
			if len(c.SubScale) > 0 {
				sub := bitsAt(c.SubScale, s.SubBits, at+b)
				if s.SubBits == 8 {
					sub = int(int8(sub))
				}
				v *= float32(sub + s.SubBias)
			}
			dst.scale[r*nb+b] = v
			if c.DMin == nil {
				continue
			}
			v = half(c.DMin[super])
			if len(c.SubMin) > 0 {
				v *= float32(bitsAt(c.SubMin, s.SubBits, at+b))
			}
			dst.add[r*nb+b] = v
		}
	}
}

// bitsAt returns value i of values of n ≤ 8 bits packed least significant bit first.
func bitsAt(b []byte, n, i int) int {
	bit := i * n
	v := uint(b[bit/8])
	if bit%8+n > 8 {
		v |= uint(b[bit/8+1]) << 8
	}
	return int(v >> (bit % 8) & (1<<n - 1))
}

// patchesOf returns the patches of one row.
func (r *rows) patchesOf(row int) []patch {
	p := r.patches
	row += r.first
	if len(p) == 0 {
		return nil
	}
	lo := sort.Search(len(p), func(i int) bool { return int(p[i].row) >= row })
	hi := lo
	for hi < len(p) && int(p[hi].row) == row {
		hi++
	}
	return p[lo:hi]
}
