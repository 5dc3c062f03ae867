package format

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// expander expands a part that is shorter in the file than in memory, after reserve allowed the bytes for it.
type expander func(b []byte, reserve func(bytes int64) error) error

// part ties a name of docs/format.md section 6 to a field of Coded and to its number of elements.
type part struct {
	name     string
	bytes    func() []byte // the field's memory, for writing
	set      func([]byte)  // lets the field view b, for reading
	elemSize int64
	count    int64 // expected elements; −1 = any
	optional bool
	expand   expander // instead of set, for parts that are shorter in the file; all others must have been set
}

func fieldPart[T element](name string, f *[]T, count int64, optional bool) part {
	var zero T
	return part{
		name:     name,
		bytes:    func() []byte { return bytesOf(*f) },
		set:      func(b []byte) { *f = viewOf[T](b) },
		elemSize: int64(unsafe.Sizeof(zero)),
		count:    count,
		optional: optional,
	}
}

// compactPart is a part of any number of bytes.
func compactPart(name string, optional bool, pack func() []byte, expand expander) part {
	return part{name: name, bytes: pack, elemSize: 1, count: -1, optional: optional, expand: expand}
}

// parts lists the parts of c in file order. Geometry must have been checked (checkGeometry).
func (c *Coded) parts() []part {
	rows, cols := int64(c.Rows), int64(c.Cols)
	p := []part{
		compactPart("row_order", true, func() []byte { return packOrder(c.RowOrder) },
			func(b []byte, reserve func(int64) error) (err error) {
				c.RowOrder, err = unpackOrder(b, c.Rows, reserve)
				return err
			}),
		fieldPart("chunk_table", &c.ChunkTable, int64(c.Chunks()), false),
		fieldPart("main_words", &c.MainWords, int64(c.Chunks()), false),
		compactPart("lane_tail", false, c.packTails, c.unpackTails),
		compactPart("outliers", true, c.packOutliers, c.unpackOutliers),
		fieldPart("col_scale", &c.ColScale, cols, true),
	}
	switch c.Scale.Kind {
	case ScaleRow:
		p = append(p, fieldPart("row_scale", &c.RowScale, rows, false))
	case ScaleBlock:
		supers := rows * (cols / int64(c.Scale.Super))
		sub := (rows*(cols/int64(c.Scale.Block))*int64(c.Scale.SubBits) + 7) / 8
		p = append(p,
			fieldPart("d", &c.D, supers, false),
			fieldPart("dmin", &c.DMin, supers, true),
			fieldPart("sub_scale", &c.SubScale, sub, true),
			fieldPart("sub_min", &c.SubMin, sub, true))
	}
	if c.Coding.LowBits > 0 {
		p = append(p, fieldPart("low", &c.Low, int64(c.LowOffset(c.Groups(), 0)), false))
	}
	return append(p, fieldPart("stream", &c.Stream, -1, false))
}

// checkGeometry checks everything that sizes are computed from.
func (c *Coded) checkGeometry() error {
	if c.Rows < 1 || c.Rows > MaxRows || c.Cols < 1 || c.Cols > MaxCols {
		return fmt.Errorf("matrix of %d × %d, expected at most %d × %d", c.Rows, c.Cols, MaxRows, MaxCols)
	}
	if err := c.Coding.check(); err != nil {
		return err
	}
	if k, s := &c.Coding, &c.Scale; (k.Float != NotFloat) != (s.Kind == ScaleNone) {
		return fmt.Errorf("float %q with scale kind %q", k.Float, s.Kind)
	}
	return c.Scale.check(c.Cols)
}

func (k *Coding) check() error {
	switch {
	case k.RowsPerGroup < 1 || k.RowsPerGroup > MaxRowsPerGroup:
		return fmt.Errorf("rows_per_group is %d, expected 1 to %d", k.RowsPerGroup, MaxRowsPerGroup)
	case k.Levels < huffman.MinLevels || k.Levels > huffman.MaxLevels:
		return fmt.Errorf("levels is %d, expected %d to %d", k.Levels, huffman.MinLevels, huffman.MaxLevels)
	case k.LowBits < 0 || k.LowBits > MaxLowBits:
		return fmt.Errorf("low_bits is %d, expected 0 to %d", k.LowBits, MaxLowBits)
	case k.Zero < -1<<16 || k.Zero > 1<<16:
		return fmt.Errorf("zero is %d, expected at most 65536 in magnitude", k.Zero)
	case len(k.Values) > 0 && (k.LowBits != 0 || len(k.Values) != k.Levels):
		return fmt.Errorf("%d values with %d levels and %d low bits, expected one per level and no low bits", len(k.Values),
			k.Levels, k.LowBits)
	}
	lowBits := map[FloatKind]int{FloatBF16: 8, FloatF16: 11}
	if n, known := lowBits[k.Float]; k.Float != NotFloat && !known {
		return fmt.Errorf("float is %q, expected bf16 or f16", k.Float)
	} else if known && k.LowBits != n {
		return fmt.Errorf("float %q with %d low bits, expected %d", k.Float, k.LowBits, n)
	}
	return nil
}

// check checks s for rows of cols columns.
func (s *Scale) check(cols int) error {
	switch s.Kind {
	case ScaleTensor, ScaleRow, ScaleNone:
		return nil
	case ScaleBlock:
		blocks := s.Block >= 2 && s.Block%2 == 0 && s.Super >= s.Block && s.Super%s.Block == 0 && cols%s.Super == 0
		if !blocks || s.SubBits < 0 || s.SubBits > 8 {
			return fmt.Errorf("blocks of %d in super-blocks of %d with %d bits do not divide rows of %d columns", s.Block, s.Super,
				s.SubBits, cols)
		}
		return nil
	}
	return fmt.Errorf("scale kind is %q, expected tensor, row, block or none", s.Kind)
}

// checkContents checks the numbers that decoders use as indexes, and that scales are finite. Part lengths are already right,
// expanded parts are by construction.
func (c *Coded) checkContents(tables []*huffman.Table) error {
	for i, t := range c.ChunkTable {
		if int(t) >= len(tables) || tables[t].Levels != c.Coding.Levels {
			return fmt.Errorf("chunk_table[%d] is %d: no such table of %d levels", i, t, c.Coding.Levels)
		}
	}
	for _, p := range []struct {
		name   string
		values []uint16
	}{{"row_scale", c.RowScale}, {"d", c.D}, {"dmin", c.DMin}} {
		if i := slices.IndexFunc(p.values, func(h uint16) bool { return h&0x7c00 == 0x7c00 }); i >= 0 {
			return fmt.Errorf("%s[%d] is not a finite number", p.name, i)
		}
	}
	return finite("col_scale", c.ColScale)
}

func finite(part string, values []float32) error {
	if i := slices.IndexFunc(values, func(x float32) bool { return x-x != 0 }); i >= 0 {
		return fmt.Errorf("%s[%d] is %g, expected a finite number", part, i, values[i])
	}
	return nil
}

// checkVector checks that the elements of a vector are finite. Matrices are left to verify: they are large, and what they do is
// seen in the logits.
func (t *Raw) checkVector() error {
	if t.Rows != 1 || t.DType != F32 {
		return nil
	}
	return finite("element", viewOf[float32](t.Data))
}

// checkPackable checks what must be right for parts to be packed.
func (c *Coded) checkPackable() error {
	if err := c.checkLanes(); err != nil {
		return err
	}
	if err := c.checkOrder(); err != nil {
		return err
	}
	return c.checkOutliers()
}

func (c *Coded) checkLanes() error {
	n := c.Chunks()
	if len(c.MainWords) != n || len(c.LaneTail) != huffman.Lanes*n || len(c.ChunkOffset) != n+1 {
		return fmt.Errorf("main_words, lane_tail and chunk_offset of %d, %d and %d numbers, expected %d, %d and %d",
			len(c.MainWords), len(c.LaneTail), len(c.ChunkOffset), n, huffman.Lanes*n, n+1)
	}
	offset, err := c.streamOffsets()
	if err != nil {
		return err
	}
	for i, want := range offset {
		if c.ChunkOffset[i] != want {
			return fmt.Errorf("chunk_offset[%d] is %d, expected %d", i, c.ChunkOffset[i], want)
		}
	}
	return nil
}

func (c *Coded) checkOrder() error {
	if c.RowOrder != nil && len(c.RowOrder) != c.Rows {
		return fmt.Errorf("row order of %d rows, expected %d", len(c.RowOrder), c.Rows)
	}
	seen := make([]uint64, (len(c.RowOrder)+63)/64)
	for i, r := range c.RowOrder {
		if int64(r) >= int64(c.Rows) || seen[r/64]>>(r%64)&1 != 0 {
			return fmt.Errorf("row_order[%d] is %d: not a permutation of %d rows", i, r, c.Rows)
		}
		seen[r/64] |= 1 << (r % 64)
	}
	return nil
}

func (c *Coded) checkOutliers() error {
	if len(c.Outliers) == 0 {
		return nil
	}
	if n := c.Groups(); len(c.OutlierStart) != n+1 || c.OutlierStart[0] != 0 || int(c.OutlierStart[n]) != len(c.Outliers) {
		return fmt.Errorf("outlier_start of %d numbers does not lead from 0 to %d, expected %d", len(c.OutlierStart),
			len(c.Outliers), n+1)
	}
	for g := range c.Groups() {
		from, to, last := c.OutlierStart[g], c.OutlierStart[g+1], 0
		if from > to || int64(to) > int64(len(c.Outliers)) {
			return fmt.Errorf("outlier_start[%d] is %d, expected %d to %d", g+1, to, from, len(c.Outliers))
		}
		for i := from; i < to; i++ {
			o := UnpackOutlier(c.Outliers[i])
			if o.Row >= c.GroupRows(g) || o.Col >= c.Cols || o.Delta == 0 {
				return fmt.Errorf("outliers[%d] lies at row %d, column %d of group %d, difference %d: outside the matrix, or nothing", i,
					o.Row, o.Col, g, o.Delta)
			}
			at := o.Row*MaxCols + o.Col
			if at < last {
				return fmt.Errorf("outliers[%d] lies at row %d, column %d of group %d: in front of the one before it", i, o.Row, o.Col, g)
			}
			last = at
		}
	}
	return nil
}
