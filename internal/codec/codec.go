// Package codec turns matrices of integer codes into the container's coded form and back. Its decoder is
// plain: it is the reference that the fast ones in cpu and gpu are compared with.
//
// A code k is what docs/format.md (6.2) builds from level and low bits: k = level<<LowBits | low, where
// level may lie outside 0 … Levels−1. The weight's integer is q = Zero + k, or Values[k]; for floats the upper part is
// the exponent field minus Zero, the lower part sign and mantissa.
package codec

import (
	"errors"
	"fmt"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Matrix is a matrix of codes with its scales, all in natural row order.
type Matrix struct {
	Rows, Cols int
	Coding     format.Coding // RowsPerGroup 0: chosen by size
	Scale      format.Scale
	Codes      []int32  // Rows × Cols
	RowOrder   []uint32 // stored position → row; nil: natural order
	Scales
}

// EncodeMatrix codes m with tables made for it.
func EncodeMatrix(m *Matrix) (*format.Coded, []*huffman.Table, error) {
	tr := NewTrainer(m.Cols, m.Coding, false)
	if err := tr.Add(0, m.Codes); err != nil {
		return nil, nil, err
	}
	bins := NewBins()
	tr.AddTo(bins)
	_, tables, err := bins.Build()
	if err != nil {
		return nil, nil, err
	}
	sized := *m
	if sized.Coding.RowsPerGroup == 0 {
		sized.Coding.RowsPerGroup = format.ChooseRowsPerGroup(m.Rows, m.Cols, tr.LevelBits())
	}
	c, err := sized.Encode(tables)
	return c, tables, err
}

// Encode codes m with the given tables; every group of rows uses the one that is shortest for it.
func (m *Matrix) Encode(tables []*huffman.Table) (*format.Coded, error) {
	if m.Rows < 1 || m.Cols < 1 || len(m.Codes) != m.Rows*m.Cols {
		return nil, fmt.Errorf("codec: %d codes for %d × %d", len(m.Codes), m.Rows, m.Cols)
	}
	if m.RowOrder != nil && len(m.RowOrder) != m.Rows {
		return nil, fmt.Errorf("codec: row order of %d rows, expected %d", len(m.RowOrder), m.Rows)
	}
	pool, err := NewPool(tables)
	if err != nil {
		return nil, err
	}
	e, err := NewEncoder(pool, m.Rows, m.Cols, m.Coding, m.Scale, m.RowOrder)
	if err != nil {
		return nil, err
	}
	c := e.Coded()
	codes := make([]int32, 0, c.Coding.RowsPerGroup*m.Cols)
	for g := range c.Groups() {
		codes = codes[:0]
		for i := range c.GroupRows(g) {
			row := c.Row(g*c.Coding.RowsPerGroup + i)
			codes = append(codes, m.Codes[row*m.Cols:(row+1)*m.Cols]...)
		}
		if err := e.Group(g, codes); err != nil {
			return nil, err
		}
	}
	if err := m.Scales.Store(c); err != nil {
		return nil, err
	}
	return e.Finish()
}

// Scales are the scale parts of a matrix in natural row order, as far as its scale kind has them.
type Scales struct {
	RowScale []uint16  // float16, per row
	D, DMin  []uint16  // float16, rows × cols/Super
	SubScale []uint8   // rows × cols/Block, one value a byte
	SubMin   []uint8   // likewise
	ColScale []float32 // per column
}

// Store puts the scales into c in stored order, sub-scales packed.
func (s *Scales) Store(c *format.Coded) error {
	var err error
	perRow := func(n, per int) int {
		if n != 0 && n != c.Rows*per {
			err = errors.Join(err, fmt.Errorf("codec: scale part of %d values, expected %d × %d", n, c.Rows, per))
			return 0
		}
		return n / c.Rows
	}
	supers, blocks := 0, 0
	if c.Scale.Kind == format.ScaleBlock {
		supers, blocks = c.Cols/c.Scale.Super, c.Cols/c.Scale.Block
	}
	c.RowScale = permuteRows(c, s.RowScale, perRow(len(s.RowScale), 1))
	c.D = permuteRows(c, s.D, perRow(len(s.D), supers))
	c.DMin = permuteRows(c, s.DMin, perRow(len(s.DMin), supers))
	c.SubScale = PackBits(permuteRows(c, s.SubScale, perRow(len(s.SubScale), blocks)), c.Scale.SubBits)
	c.SubMin = PackBits(permuteRows(c, s.SubMin, perRow(len(s.SubMin), blocks)), c.Scale.SubBits)
	c.ColScale = s.ColScale
	return err
}

// permuteRows returns v, per values for each row, in stored order.
func permuteRows[T any](c *format.Coded, v []T, per int) []T {
	if per == 0 || c.RowOrder == nil {
		return v
	}
	out := make([]T, 0, len(v))
	for i := range c.Rows {
		r := c.Row(i)
		out = append(out, v[r*per:(r+1)*per]...)
	}
	return out
}

// PackBits packs the low n bits of every value, least significant bit first, without gaps.
func PackBits(v []uint8, n int) []byte {
	if len(v) == 0 || n == 0 {
		return nil
	}
	out := make([]byte, 0, (len(v)*n+7)/8)
	acc, have := uint32(0), 0
	for _, x := range v {
		acc |= (uint32(x) & (1<<n - 1)) << have
		for have += n; have >= 8; have -= 8 {
			out = append(out, byte(acc))
			acc >>= 8
		}
	}
	if have > 0 {
		out = append(out, byte(acc))
	}
	return out
}

// UnpackBits returns value i of a sequence packed by PackBits.
func UnpackBits(b []byte, n, i int) int {
	at := i * n
	v := uint32(b[at/8])
	if at/8+1 < len(b) {
		v |= uint32(b[at/8+1]) << 8
	}
	return int(v >> (at % 8) & (1<<n - 1))
}
