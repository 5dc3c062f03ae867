package codec

import (
	"fmt"
	"math"

	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// Decoder decodes one tensor, which must have passed format.Reader.Verify (or come from an Encoder). It is safe for concurrent
// use.
type Decoder struct {
	c      *format.Coded
	tables []*huffman.Table
	lookup [][]uint32 // per table; nil where c does not use it
}

// NewDecoder prepares the tables that c uses.
func NewDecoder(c *format.Coded, tables []*huffman.Table) (*Decoder, error) {
	d := &Decoder{c: c, tables: tables, lookup: make([][]uint32, len(tables))}
	for i, t := range c.ChunkTable {
		if int(t) >= len(tables) || tables[t].Levels != c.Coding.Levels {
			return nil, fmt.Errorf("codec: chunk %d uses table %d, which does not exist or is not one of %d levels", i, t, c.Coding.Levels)
		}
		if d.lookup[t] == nil {
			d.lookup[t] = tables[t].Lookup()
		}
	}
	return d, nil
}

// levels decodes the levels of group g: GroupRows(g) × Steps()·64 bytes, the padding columns included.
func (d *Decoder) levels(g int) ([]uint8, error) {
	c := d.c
	rows, stride := c.GroupRows(g), c.Steps()*format.StepCols
	levels := make([]uint8, rows*stride)
	for k := range c.Tiles() {
		chunk := g*c.Tiles() + k
		t := c.ChunkTable[chunk]
		words := c.Stream[c.ChunkOffset[chunk]:c.ChunkOffset[chunk+1]]
		err := huffman.DecodeChunk(d.lookup[t], d.tables[t].MaxLen, words, int(c.MainWords[chunk]),
			c.LaneTail[huffman.Lanes*chunk:][:huffman.Lanes],
			c.TileSteps(k), rows, levels[k*c.StepsPerTile()*format.StepCols:], stride)
		if err != nil {
			return nil, fmt.Errorf("group %d, tile %d: %w", g, k, err)
		}
	}
	return levels, nil
}

// CodeBits returns the length of all codes of group g in bits, without the padding to whole words and chunks.
func (d *Decoder) CodeBits(g int) (int64, error) {
	levels, err := d.levels(g)
	if err != nil {
		return 0, err
	}
	c, bits := d.c, int64(0)
	stride, tile := c.Steps()*format.StepCols, c.StepsPerTile()*format.StepCols
	for i := 0; i < len(levels); i += 2 {
		t := d.tables[c.ChunkTable[g*c.Tiles()+i%stride/tile]]
		bits += int64(t.Lens[int(levels[i])*t.Levels+int(levels[i+1])])
	}
	return bits, nil
}

// Codes decodes group g: GroupRows(g) × Cols codes (see the package comment), rows in stored order. dst is reused if it is large
// enough.
func (d *Decoder) Codes(g int, dst []int32) ([]int32, error) {
	levels, err := d.levels(g)
	if err != nil {
		return nil, err
	}
	c := d.c
	rows, stride := c.GroupRows(g), c.Steps()*format.StepCols
	if cap(dst) < rows*c.Cols {
		dst = make([]int32, rows*c.Cols)
	}
	dst = dst[:rows*c.Cols]
	s := uint(c.Coding.LowBits)
	for r := range rows {
		for i, a := range levels[r*stride:][:c.Cols] {
			dst[r*c.Cols+i] = int32(a) << s
		}
	}
	if s > 0 {
		for k := range c.Tiles() {
			unpackLow(dst, c.Low[c.LowOffset(g, k):], c, k*c.StepsPerTile()*format.StepCols, c.TileSteps(k), rows)
		}
	}
	if c.OutlierStart != nil {
		for _, v := range c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]] {
			o := format.UnpackOutlier(v)
			dst[o.Row*c.Cols+o.Col] += int32(o.Delta) << s
		}
	}
	return dst, nil
}

// unpackLow is the inverse of packLow; dst holds the levels, shifted.
func unpackLow(dst []int32, low []uint32, c *format.Coded, col, steps, rows int) {
	s := uint(c.Coding.LowBits)
	for lane := range huffman.Lanes {
		bit := uint(0)
		next := func() int32 {
			at := int(bit/32)*huffman.Lanes + lane
			v := low[at] >> (bit % 32)
			if left := 32 - bit%32; left < s {
				v |= low[at+huffman.Lanes] << left
			}
			bit += s
			return int32(v & (1<<s - 1))
		}
		for r := range rows {
			for j := range steps {
				even, odd := next(), next()
				i := col + j*format.StepCols + 2*lane
				if i < c.Cols {
					dst[r*c.Cols+i] |= even
				}
				if i+1 < c.Cols {
					dst[r*c.Cols+i+1] |= odd
				}
			}
		}
	}
}

// Group decodes group g to codes and to weights, GroupRows(g) × Cols of each, rows in stored order (c.Row gives their numbers).
// codes and weights are reused if they are large enough.
func (d *Decoder) Group(g int, codes []int32, weights []float32) ([]int32, []float32, error) {
	codes, err := d.Codes(g, codes)
	if err != nil {
		return nil, nil, err
	}
	if cap(weights) < len(codes) {
		weights = make([]float32, len(codes))
	}
	weights = weights[:len(codes)]
	for r := range d.c.GroupRows(g) {
		at := r * d.c.Cols
		if err := d.scaleRow(weights[at:at+d.c.Cols], codes[at:at+d.c.Cols], g*d.c.Coding.RowsPerGroup+r); err != nil {
			return nil, nil, fmt.Errorf("group %d, row %d: %w", g, r, err)
		}
	}
	return codes, weights, nil
}

// scaleRow turns the codes of the row at stored position pos into weights.
func (d *Decoder) scaleRow(dst []float32, codes []int32, pos int) error {
	c := d.c
	if c.Coding.Float != format.NotFloat {
		if err := floatRow(dst, codes, &c.Coding); err != nil {
			return err
		}
	} else {
		for i, k := range codes {
			q := c.Coding.Zero + k
			if c.Coding.Values != nil {
				if k < 0 || int(k) >= len(c.Coding.Values) {
					return fmt.Errorf("column %d: code %d of %d values", i, k, len(c.Coding.Values))
				}
				q = int32(c.Coding.Values[k])
			}
			dst[i] = float32(q)
		}
	}
	switch c.Scale.Kind {
	case format.ScaleTensor:
		for i := range dst {
			dst[i] = float32(c.Scale.Scale*dst[i]) + c.Scale.Min
		}
	case format.ScaleRow:
		s := c.Scale.Scale * half(c.RowScale[pos])
		for i := range dst {
			dst[i] *= s
		}
	case format.ScaleBlock:
		d.scaleBlocks(dst, pos)
	}
	for i, s := range c.ColScale {
		dst[i] *= s
	}
	return nil
}

func (d *Decoder) scaleBlocks(dst []float32, pos int) {
	c, s := d.c, &d.c.Scale
	blocks := c.Cols / s.Block
	for b := range blocks {
		super := pos*(c.Cols/s.Super) + b*s.Block/s.Super
		scale, offset := half(c.D[super]), float32(0)
		if c.SubScale != nil {
			sub := UnpackBits(c.SubScale, s.SubBits, pos*blocks+b)
			if s.SubBits == 8 {
				sub = int(int8(sub))
			}
			scale *= float32(sub + s.SubBias)
		}
		if c.DMin != nil {
			offset = half(c.DMin[super])
			if c.SubMin != nil {
				offset *= float32(UnpackBits(c.SubMin, s.SubBits, pos*blocks+b))
			}
		}
		for i := b * s.Block; i < (b+1)*s.Block; i++ {
			dst[i] = float32(scale*dst[i]) + offset
		}
	}
}

// floatRow assembles floating-point weights.
func floatRow(dst []float32, codes []int32, k *format.Coding) error {
	mantissa, exponents := uint(7), int32(256)
	if k.Float == format.FloatF16 {
		mantissa, exponents = 10, 32
	}
	for i, q := range codes {
		e := k.Zero + q>>k.LowBits
		if e < 0 || e >= exponents {
			return fmt.Errorf("column %d: exponent %d, expected 0 to %d", i, e, exponents-1)
		}
		sign, frac := uint32(q)>>mantissa&1, uint32(q)&(1<<mantissa-1)
		if k.Float == format.FloatBF16 {
			dst[i] = math.Float32frombits(sign<<31 | uint32(e)<<23 | frac<<16)
		} else {
			dst[i] = half(uint16(sign<<15 | uint32(e)<<10 | frac))
		}
	}
	return nil
}

func half(h uint16) float32 { return float16.Frombits(h).Float32() }

// Decode returns all weights of c, Rows × Cols in natural row order.
func Decode(c *format.Coded, tables []*huffman.Table) ([]float32, error) {
	d, err := NewDecoder(c, tables)
	if err != nil {
		return nil, err
	}
	out := make([]float32, c.Rows*c.Cols)
	var codes []int32
	var rows []float32
	for g := range c.Groups() {
		if codes, rows, err = d.Group(g, codes, rows); err != nil {
			return nil, err
		}
		for i := range c.GroupRows(g) {
			r := c.Row(g*c.Coding.RowsPerGroup + i)
			copy(out[r*c.Cols:], rows[i*c.Cols:(i+1)*c.Cols])
		}
	}
	return out, nil
}
