package cpu

import (
	"fmt"
	"unsafe"

	"github.com/x448/float16"

	"github.com/ellm-gpu/ellm-gpu/cpu/decode"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/huffman"
)

// form is how a matrix's numbers are kept between decoding and the product.
type form uint8

const (
	formByte form = iota // integer code − bias
	formBF16
	formF16
	formF32 // integer codes beyond 8 bits, or float32 weights
)

func (f form) bytes() int { return [...]int{1, 2, 2, 4}[f] }

// plainUnit is the number of rows of a unit of work where nothing else prescribes one.
const plainUnit = 32

// rows are numbers of consecutive stored rows, stride apart; one of u8, u16 and f32 is set, by form.
type rows struct {
	u8     []uint8
	u16    []uint16
	f32    []float32
	stride int
	blocks
	patches []patch // sorted by row
	first   int     // number of row 0 in patches
}

// blocks are the scales of rows with block scales: n per row.
type blocks struct {
	scale, add []float32 // add may be nil
	n          int
}

// patch replaces a code that does not fit form's numbers.
type patch struct {
	row, col int32
	code     int32
}

// matrix is a weight matrix as the products see it. Its rows come in units of work: groups of a matrix that stays coded, otherwise plainUnit rows.
type matrix struct {
	name       string
	rows, cols int
	form       form
	bias       int32 // formByte
	scale, add float32
	rowScale   []float32 // times scale; nil: 1. In stored order
	colScale   []float32 // padded to whole steps; nil: 1
	block      int       // columns per block scale, 0: none
	order      []uint32  // stored position → row; nil: natural
	inverse    []uint32  // row → stored position, made by indexRows
	unitRows   int       // rows per unit of work
	multiplied bool      // used in products, not only for embeddings

	tensor   *format.Tensor
	coded    *format.Coded
	decoder  *decode.Matrix
	resident *rows // all rows, or nil: decoded in every product
	raw      *format.Raw
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

// residentBytes returns what keeping all decoded rows takes, without patches.
func (m *matrix) residentBytes() int64 {
	if m.raw != nil {
		return 0
	}
	perRow := int64(m.stride()) * int64(m.form.bytes())
	if m.block > 0 {
		perRow += int64(m.cols/m.block) * 4
		if m.coded.DMin != nil {
			perRow += int64(m.cols/m.block) * 4
		}
	}
	return int64(m.rows) * perRow
}

// tableBytes returns what a matrix takes in every plan.
func (m *matrix) tableBytes() int64 {
	n := 4 * int64(len(m.rowScale)+len(m.colScale)+len(m.inverse))
	return n
}

// newMatrix prepares t, which must have passed format.Reader.Verify.
func newMatrix(t *format.Tensor, tables []*huffman.Table, isa decode.ISA) (*matrix, error) {
	m := &matrix{name: t.Name, tensor: t, rows: t.Rows, cols: t.Cols, scale: 1, unitRows: plainUnit}
	if t.Raw != nil {
		m.raw = t.Raw
		switch t.Raw.DType {
		case format.F32:
			m.form = formF32
		case format.F16:
			m.form = formF16
		case format.BF16:
			m.form = formBF16
		default:
			return nil, fmt.Errorf("cpu: tensor %s has type %s, expected F32, F16 or BF16", t.Name, t.Raw.DType)
		}
		return m, nil
	}
	c := t.Coded
	m.coded, m.order, m.unitRows = c, c.RowOrder, c.Coding.RowsPerGroup
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
	m.bias = int32(m.decoder.Base)
	switch {
	case c.Coding.Float == format.FloatBF16:
		m.form = formBF16
	case c.Coding.Float == format.FloatF16:
		m.form = formF16
	case m.decoder.Wide():
		m.form = formF32
	}
	return m, nil
}

// rawRows views rows of a raw matrix.
func (m *matrix) rawRows(first, n int) rows {
	size := m.raw.DType.Size()
	b := m.raw.Data[first*m.cols*size : (first+n)*m.cols*size]
	r := rows{stride: m.cols}
	if m.form == formF32 {
		r.f32 = unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), n*m.cols)
	} else {
		r.u16 = unsafe.Slice((*uint16)(unsafe.Pointer(&b[0])), n*m.cols)
	}
	return r
}

// slice returns n of r's rows, from row first on.
func (r *rows) slice(first, n int, f form) rows {
	s := rows{stride: r.stride, patches: r.patches, first: r.first + first}
	lo, hi := first*r.stride, (first+n)*r.stride
	switch f {
	case formByte:
		s.u8 = r.u8[lo:hi]
	case formBF16, formF16:
		s.u16 = r.u16[lo:hi]
	case formF32:
		s.f32 = r.f32[lo:hi]
	}
	if b := r.blocks.n; b > 0 {
		s.blocks = blocks{scale: r.scale[first*b : (first+n)*b], n: b}
		if r.add != nil {
			s.add = r.add[first*b : (first+n)*b]
		}
	}
	return s
}

func half(h uint16) float32 { return float16.Frombits(h).Float32() }
