package cpu

import (
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// plainUnit is the number of rows of a unit of work where nothing else prescribes one: what dot.ISA.Gemm multiplies at once.
const plainUnit = dot.TileRows

// matrix is a weight matrix as the products see it. Rows are in stored order and come in units of work: groups of a matrix that stays coded,
// otherwise plainUnit rows.
//
// Integer codes of up to 8 bits are multiplied as whole numbers (package dot): a decoded byte u stands for the code base + u. Everything else is
// multiplied as floating-point numbers (floats is set).
type matrix struct {
	name       string
	tensor     *format.Tensor
	rows, cols int
	order      []uint32 // stored position → row; nil: natural
	inverse    []uint32 // row → stored position, made by indexRows
	unitRows   int
	multiplied bool // used in products, not only for embeddings

	coded       *format.Coded
	decoder     *decode.Matrix
	base        int
	levelOf     *[256]uint8 // decoded byte → level, where coding has values and outliers
	scale, add  float32
	rowScale    []float32 // times scale; nil: 1
	colScale    []float32 // padded to whole steps; nil: 1
	block       int       // columns per block scale: 0 or none, or as in the file
	sparseShift uint      // of the file's outliers
	width       int       // bits of decoded bytes
	split       int       // low bits that are decoded apart (decode.Matrix.Split): code = base + (decoded byte << split | low bits); else 0

	form   form    // of the resident codes
	packed *packed // these, or nil
	floats *floats // how floating-point products see it, or nil
}

func (m *matrix) steps() int  { return (m.cols + format.StepCols - 1) / format.StepCols }
func (m *matrix) stride() int { return m.steps() * format.StepCols }
func (m *matrix) units() int  { return (m.rows + m.unitRows - 1) / m.unitRows }

// unit returns the first stored row of unit u and its number of rows.
func (m *matrix) unit(u int) (first, n int) {
	first = u * m.unitRows
	return first, min(m.unitRows, m.rows-first)
}

// indexRows prepares m for finding single rows.
func (m *matrix) indexRows() {
	if m.order == nil || m.inverse != nil {
		return
	}
	m.inverse = make([]uint32, m.rows)
	for pos, row := range m.order {
		m.inverse[row] = uint32(pos)
	}
}

// chooseForm decides how m's codes would be kept, if it does not have another form anyway.
func (m *matrix) chooseForm(isa dot.ISA) {
	if m.floats == nil {
		m.form = m.chooseWidth(isa)
	}
}

// residentBytes returns what keeping all decoded rows takes.
func (m *matrix) residentBytes() int64 {
	if m.floats != nil {
		return int64(m.rows) * int64(m.stride()) * int64(m.floats.dtype.Size())
	}
	return m.packedBytes(m.form)
}

// isResident reports whether products need not decode m.
func (m *matrix) isResident() bool {
	return m.packed != nil || m.floats != nil && (m.floats.f32 != nil || m.floats.u16 != nil)
}

// tableBytes returns what a matrix takes in every plan, decoding tables left out.
func (m *matrix) tableBytes() int64 {
	n := 4 * int64(len(m.rowScale)+len(m.colScale)+len(m.inverse))
	if m.coded != nil {
		n += m.coded.Expanded()
	}
	return n
}

// newMatrix prepares t, which must have passed format.Reader.Verify.
func newMatrix(t *format.Tensor, tables *decode.Tables, isa decode.ISA) (*matrix, error) {
	m := &matrix{name: t.Name, tensor: t, rows: t.Rows, cols: t.Cols, scale: 1, unitRows: plainUnit}
	if t.Raw != nil {
		f, err := rawFloats(t.Raw)
		if err != nil {
			return nil, fmt.Errorf("cpu: tensor %s: %w", t.Name, err)
		}
		m.floats = f
		return m, nil
	}
	c := t.Coded
	m.coded, m.order, m.unitRows, m.sparseShift = c, c.RowOrder, c.Coding.RowsPerGroup, uint(c.Coding.LowBits)
	switch c.Scale.Kind {
	case format.ScaleTensor:
		m.scale, m.add = c.Scale.Scale, c.Scale.Min
	case format.ScaleRow:
		m.scale = c.Scale.Scale
		m.rowScale = make([]float32, m.rows)
		for i, h := range c.RowScale {
			m.rowScale[i] = half(h)
		}
	case format.ScaleBlock:
		m.block = c.Scale.Block
	}
	if c.ColScale != nil {
		m.colScale = make([]float32, m.stride())
		copy(m.colScale, c.ColScale)
	}
	var err error
	if m.decoder, err = decode.New(c, tables, isa); err != nil {
		return nil, fmt.Errorf("cpu: tensor %s: %w", t.Name, err)
	}
	m.base = m.decoder.Base
	if c.Coding.Values != nil && c.OutlierStart != nil {
		m.levelOf = new([256]uint8)
		for a, v := range c.Coding.Values {
			m.levelOf[int(v)-m.base] = uint8(a)
		}
	}
	if m.decoder.Split() {
		m.split = c.Coding.LowBits
	}
	m.width = bits.Len(uint(m.largest()))
	if m.decoder.Wide() || m.block != 0 && m.productBlock() == 0 {
		m.floats = codedFloats(m)
	}
	return m, nil
}

// largest returns the largest decoded byte.
func (m *matrix) largest() int {
	k := &m.coded.Coding
	if k.Values == nil {
		return k.Levels<<(k.LowBits-m.split) - 1
	}
	return int(slices.Max(k.Values)) - m.base
}

// productBlock returns the columns per scale that integer products use: 16 or 32 where the file's blocks are whole numbers of these, otherwise 0.
func (m *matrix) productBlock() int {
	switch {
	case m.block > 0 && m.block%32 == 0:
		return 32
	case m.block == 16:
		return 16
	}
	return 0
}

// outliers returns the outliers of group g, which decodeTile leaves out.
func (m *matrix) outliers(g int) []uint32 {
	c := m.coded
	if c.OutlierStart == nil || m.levelOf != nil {
		return nil
	}
	return c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]]
}

// decodeTile decodes tile k of group g to bytes.
func (m *matrix) decodeTile(g, k int, dst []byte, stride int) {
	m.decoder.Chunk(g, k, dst, stride)
	if m.levelOf == nil {
		return
	}
	// Outliers of a coding with values are differences of levels.
	c := m.coded
	first := k * c.StepsPerTile() * format.StepCols
	for _, v := range c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]] {
		o := format.UnpackOutlier(v)
		if o.Col < first || o.Col >= first+c.TileSteps(k)*format.StepCols {
			continue
		}
		p := &dst[o.Row*stride+o.Col-first]
		level := min(max(int(m.levelOf[*p])+o.Delta, 0), len(c.Coding.Values)-1)
		*p = byte(int(c.Coding.Values[level]) - m.base)
	}
}

// decodeLow unpacks low bits that are decoded apart.
func (m *matrix) decodeLow(g, k int, dst []byte, stride int) { m.decoder.Low(g, k, dst, stride) }

// decodeGroup decodes all tiles of group g.
func (m *matrix) decodeGroup(g int, dst []byte, stride int) {
	for k := range m.coded.Tiles() {
		m.decodeTile(g, k, dst[k*m.coded.StepsPerTile()*format.StepCols:], stride)
	}
}

// scaleRow turns integer codes of the row at stored position pos into weights, in the order of docs/format.md 6.6.
func (m *matrix) scaleRow(dst []float32, codes []int32, pos int) {
	scale := m.scale
	if m.rowScale != nil {
		scale *= m.rowScale[pos]
	}
	add := m.add
	for i, q := range codes {
		if m.block > 0 && i%m.block == 0 {
			scale, add = blockScale(m.coded, pos, i/m.block)
		}
		dst[i] = float32(scale*float32(q)) + add
		if m.colScale != nil {
			dst[i] *= m.colScale[i]
		}
	}
}

// blockScale returns scale and minimum of block b of the row at stored position pos.
func blockScale(c *format.Coded, pos, b int) (scale, add float32) {
	s := &c.Scale
	at := pos*(c.Cols/s.Block) + b
	super := at / (s.Super / s.Block)
	var f [8]float32
	factors(&f, c.SubScale, s.SubBits, at, s.SubBias, s.SubBits == 8)
	scale = half(c.D[super]) * f[0]
	if c.DMin != nil {
		factors(&f, c.SubMin, s.SubBits, at, 0, false)
		add = half(c.DMin[super]) * f[0]
	}
	return scale, add
}

// half widens a float16 number of any kind.
func half(h uint16) float32 { return math.Float32frombits(halfBits(h)) }

// halfBits is half without floating-point instructions, but for subnormal numbers.
func halfBits(h uint16) uint32 {
	v := uint32(h&0x7fff) << 13
	switch h & 0x7c00 {
	case 0: // subnormal: a whole number of the smallest steps
		v = math.Float32bits(float32(h&0x3ff) * 0x1p-24)
	case 0x7c00: // infinite, or not a number
		v |= 0x7f800000
	default: // the exponents' biases differ by 112
		v += 112 << 23
	}
	return v | uint32(h&0x8000)<<16
}
