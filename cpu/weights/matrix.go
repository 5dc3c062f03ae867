package weights

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/isa"
)

// RowBlockRows is the number of rows of a row block where nothing else prescribes one: what dot.Kernels.Gemm multiplies at once.
const RowBlockRows = dot.PanelRows

// Matrix is a weight matrix as the products see it. Rows are in stored order and come in row blocks: the groups of a matrix that
// stays coded, otherwise RowBlockRows rows.
//
// Integer codes of up to 8 bits are multiplied as whole numbers (package dot): a decoded byte u stands for the q-value base + u.
// Everything else is multiplied as floating-point numbers.
type Matrix struct {
	Tensor     *format.Tensor
	Coded      *format.Coded // or nil: a raw tensor
	Rows, Cols int
	Order      []uint32  // stored row → row; nil: natural
	Scale, Add float32   // of all rows: weight = Scale · q-value + Add
	RowScale   []float32 // times Scale; nil: 1
	ColScale   []float32 // padded to whole steps; nil: 1
	Width      int       // bits of decoded bytes
	// LowBits is how many low bits are decoded separately (decode.Matrix.Split): q-value = base + (decoded byte << LowBits | low
	// bits); else 0.
	LowBits    int
	Multiplied bool      // used in products, not only for embeddings
	Form       PlaneForm // of the planes, once they are made

	inverse      []uint32 // row → stored row, made by IndexRows
	blockRows    int
	decoder      *decode.Matrix
	base         int
	levelOf      *[256]uint8 // decoded byte → level, where coding has values and outliers
	block        int         // columns per block scale: 0 or none, or as in the file
	outlierShift uint        // of the file's outliers
	planes       *planes     // of a resident matrix, or nil
	floats       *Floats     // how floating-point products see it, or nil
}

// Steps returns the steps of a row.
func (m *Matrix) Steps() int { return (m.Cols + format.StepCols - 1) / format.StepCols }

// Stride returns the columns of a row, padded to whole steps.
func (m *Matrix) Stride() int { return m.Steps() * format.StepCols }

// RowBlocks returns the number of row blocks.
func (m *Matrix) RowBlocks() int { return (m.Rows + m.blockRows - 1) / m.blockRows }

// RowBlock returns the first stored row of row block i and its number of rows.
func (m *Matrix) RowBlock(i int) (first, n int) {
	first = i * m.blockRows
	return first, min(m.blockRows, m.Rows-first)
}

// IsFloat reports whether m is multiplied as floating-point numbers.
func (m *Matrix) IsFloat() bool { return m.floats != nil }

// IndexRows prepares m for finding single rows.
func (m *Matrix) IndexRows() {
	if m.Order == nil || m.inverse != nil {
		return
	}
	m.inverse = make([]uint32, m.Rows)
	for stored, row := range m.Order {
		m.inverse[row] = uint32(stored)
	}
}

// ChooseForm decides how m's codes would be kept, if it does not have another form anyway.
func (m *Matrix) ChooseForm(d dot.Kernels) {
	if m.floats == nil {
		m.Form = m.chooseWidth(d)
	}
}

// ResidentBytes returns what keeping all decoded rows takes.
func (m *Matrix) ResidentBytes() int64 {
	if m.floats != nil {
		return int64(m.Rows) * int64(m.Stride()) * int64(m.floats.dtype.Size())
	}
	return m.planeBytes(m.Form)
}

// IsResident reports whether products need not decode m.
func (m *Matrix) IsResident() bool {
	return m.planes != nil || m.floats != nil && (m.floats.f32 != nil || m.floats.u16 != nil)
}

// TableBytes returns what a matrix takes in every plan, decoding tables left out.
func (m *Matrix) TableBytes() int64 {
	n := 4 * int64(len(m.RowScale)+len(m.ColScale)+len(m.inverse))
	if m.Coded != nil {
		n += m.Coded.Expanded()
	}
	return n
}

// ReadBytes returns the bytes of weights that a product of one token, or a batch of them, reads.
func (m *Matrix) ReadBytes() float64 {
	switch p := m.planes; {
	case p != nil:
		scales := len(p.scales.Scale) + len(p.scales.Add)
		low := 0
		if p.low != nil {
			low = len(p.low.nibble) + len(p.low.bits)
		}
		return float64(low + len(p.nibble) + len(p.bits) + len(p.escape) + 2*(len(p.mostEscapes)+len(p.correct)) +
			4*(len(p.correctStart)+len(p.escapeStart)+len(p.exceptions)+len(p.start)+scales))
	case m.IsResident():
		return float64(m.ResidentBytes())
	}
	stored := int64(0)
	for _, part := range format.CompactParts() { // expanded when the file was opened
		stored += m.Tensor.Parts[part][1]
	}
	return float64(m.Tensor.Bytes - stored + m.Coded.Expanded())
}

// NewMatrix prepares t, which must have passed format.Reader.Verify.
func NewMatrix(t *format.Tensor, tables *decode.Tables, i isa.ISA) (*Matrix, error) {
	m := &Matrix{Tensor: t, Coded: t.Coded, Rows: t.Rows, Cols: t.Cols, Scale: 1, blockRows: RowBlockRows}
	if t.Raw != nil {
		f, err := rawFloats(t.Raw)
		if err != nil {
			return nil, fmt.Errorf("cpu: tensor %s: %w", t.Name, err)
		}
		m.floats = f
		return m, nil
	}
	c := t.Coded
	m.Order, m.blockRows, m.outlierShift = c.RowOrder, c.Coding.RowsPerGroup, uint(c.Coding.LowBits)
	switch c.Scale.Kind {
	case format.ScaleTensor:
		m.Scale, m.Add = c.Scale.Scale, c.Scale.Min
	case format.ScaleRow:
		m.Scale = c.Scale.Scale
		m.RowScale = make([]float32, m.Rows)
		for i, h := range c.RowScale {
			m.RowScale[i] = vec.Half(h)
		}
	case format.ScaleBlock:
		m.block = c.Scale.Block
	}
	if c.ColScale != nil {
		m.ColScale = make([]float32, m.Stride())
		copy(m.ColScale, c.ColScale)
	}
	var err error
	if m.decoder, err = decode.New(c, tables, i); err != nil {
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
		m.LowBits = c.Coding.LowBits
	}
	m.Width = bits.Len(uint(m.largest()))
	if m.decoder.Wide() || m.block != 0 && m.ScaleBlock() == 0 {
		m.floats = codedFloats(m)
	}
	return m, nil
}

// largest returns the largest decoded byte.
func (m *Matrix) largest() int {
	k := &m.Coded.Coding
	if k.Values == nil {
		return k.Levels<<(k.LowBits-m.LowBits) - 1
	}
	return int(slices.Max(k.Values)) - m.base
}

// ScaleBlock returns the columns per scale that integer products use: 16 or 32 where the file's blocks are whole numbers of
// these, otherwise 0.
func (m *Matrix) ScaleBlock() int {
	switch {
	case m.block > 0 && m.block%32 == 0:
		return 32
	case m.block == 16:
		return 16
	}
	return 0
}

// outliers returns the outliers of group g, which decodeTile leaves out.
func (m *Matrix) outliers(g int) []uint32 {
	c := m.Coded
	if c.OutlierStart == nil || m.levelOf != nil {
		return nil
	}
	return c.Outliers[c.OutlierStart[g]:c.OutlierStart[g+1]]
}

// decodeTile decodes tile k of group g to bytes.
func (m *Matrix) decodeTile(g, k int, dst []byte, stride int) {
	m.decoder.Chunk(g, k, dst, stride)
	if m.levelOf == nil {
		return
	}
	// Outliers of a coding with values are differences of levels.
	c := m.Coded
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

// decodeLow unpacks low bits that are decoded separately.
func (m *Matrix) decodeLow(g, k int, dst []byte, stride int) { m.decoder.Low(g, k, dst, stride) }

// decodeGroup decodes all tiles of group g.
func (m *Matrix) decodeGroup(g int, dst []byte, stride int) {
	for k := range m.Coded.Tiles() {
		m.decodeTile(g, k, dst[k*m.Coded.StepsPerTile()*format.StepCols:], stride)
	}
}

// scaleRow turns the q-values of a stored row into weights, in the order of docs/format.md 6.6.
func (m *Matrix) scaleRow(dst []float32, codes []int32, stored int) {
	scale := m.Scale
	if m.RowScale != nil {
		scale *= m.RowScale[stored]
	}
	add := m.Add
	for i, q := range codes {
		if m.block > 0 && i%m.block == 0 {
			scale, add = blockScale(m.Coded, stored, i/m.block)
		}
		dst[i] = float32(scale*float32(q)) + add
		if m.ColScale != nil {
			dst[i] *= m.ColScale[i]
		}
	}
}

// blockScale returns scale and minimum of block b of a stored row.
func blockScale(c *format.Coded, stored, b int) (scale, add float32) {
	s := &c.Scale
	at := stored*(c.Cols/s.Block) + b
	super := at / (s.Super / s.Block)
	scales := subScales(c)
	scale = vec.Half(c.D[super]) * scales.At(at)
	if c.DMin != nil {
		minima := subMinima(c)
		add = vec.Half(c.DMin[super]) * minima.At(at)
	}
	return scale, add
}
