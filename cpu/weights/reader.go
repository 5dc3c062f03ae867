package weights

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// Reader reads matrices for one thread, whatever form they have: row blocks, tiles of these as integers, row blocks as
// floating-point numbers, single rows. What it returns lies in its memory and is valid until its next use.
type Reader struct {
	k          *vec.Kernels
	dot        dot.Kernels
	block      RowBlock
	bytes      []byte      // a decoded tile, or a row of codes
	plain      []byte      // an unpacked tile
	low        []byte      // low bits that are decoded separately
	escapes    []byte      // expanded, of two rows
	exceptions []uint32    // entries that are left
	scales     BlockScales // of a decoded row block
	codes      []int32     // a row of codes
	floats     Floats      // a decoded row block
	scratch    floatScratch
}

// Sizes are the lengths of a reader's buffers, which Add makes large enough for a matrix.
type Sizes struct {
	BlockRows int // rows of a row block, at most
	Stride    int // columns of a row, padded to whole steps, at most
	bytes     int
	low       int
	blocks    int
	floats    int // elements of a decoded row block of floats
}

// NewSizes returns the sizes before the first matrix.
func NewSizes() Sizes { return Sizes{BlockRows: RowBlockRows} }

// Add makes room for m, resident or not.
func (s *Sizes) Add(m *Matrix, resident bool) {
	s.Stride = max(s.Stride, m.Stride())
	s.bytes = max(s.bytes, m.Stride())
	if m.LowBits > 0 {
		s.low = max(s.low, buffer.RoundUp(max(m.blockRows, RowBlockRows), dot.PanelRows)*m.Stride())
	}
	if m.Coded == nil || resident {
		return
	}
	s.BlockRows = max(s.BlockRows, m.blockRows)
	if m.floats != nil {
		s.floats = max(s.floats, m.blockRows*m.Stride())
		return
	}
	group := m.blockRows * m.Stride() // for single rows
	if m.Multiplied {
		group = max(group, buffer.RoundUp(m.blockRows, dot.PanelRows)*m.Coded.StepsPerTile()*format.StepCols)
	}
	s.bytes = max(s.bytes, group)
	if b := scaleShape(m); b.Cols > 0 {
		s.blocks = max(s.blocks, m.blockRows*b.N+b.slack())
	}
}

// HasLow reports whether a matrix has low bits that are decoded separately.
func (s *Sizes) HasLow() bool { return s.low > 0 }

// Reader makes a reader, or with dry set only counts: it returns the bytes of all buffers.
func (s *Sizes) Reader(k *vec.Kernels, d dot.Kernels, dry bool) (r Reader, bytes int64) {
	r = Reader{k: k, dot: d}
	bytes += buffer.Reserve(&r.low, s.low, dry)
	bytes += buffer.Reserve(&r.bytes, s.bytes, dry)
	bytes += buffer.Reserve(&r.plain, dot.PanelRows*format.MaxTileSteps*format.StepCols, dry)
	bytes += buffer.Reserve(&r.escapes, dot.ScratchBytes(format.MaxTileSteps), dry)
	bytes += buffer.Reserve(&r.scales.Scale, s.blocks, dry)
	bytes += buffer.Reserve(&r.scales.Add, s.blocks, dry)
	bytes += buffer.Reserve(&r.codes, s.Stride, dry)
	bytes += buffer.Reserve(&r.floats.u16, s.floats, dry)
	bytes += buffer.Reserve(&r.floats.f32, s.floats, dry)
	bytes += buffer.Reserve(&r.scratch.bytes, s.floats, dry)
	bytes += buffer.Reserve(&r.scratch.wide, s.floats, dry)
	bytes += buffer.Reserve(&r.scratch.codes, s.floats, dry)
	return r, bytes
}

// RowBlock is a row block as integer products see it: a q-value is Base + stored number.
type RowBlock struct {
	Index      int // of the block
	First, N   int // stored rows
	Base       int64
	Scales     BlockScales
	Shift      uint // of the differences of exception entries
	exceptions []uint32
	matrix     *Matrix
	planes     *planes // nil: decoded for the product
}

// Block describes row block i of m.
func (r *Reader) Block(m *Matrix, i int) *RowBlock {
	first, n := m.RowBlock(i)
	b := &r.block // tiles point to it: it must not be on the stack
	*b = RowBlock{Index: i, First: first, N: n, matrix: m, planes: m.planes, Base: int64(m.base)}
	if p := m.planes; p != nil {
		b.Base += int64(p.offset) << m.LowBits
		b.Scales = p.scales.slice(first)
		b.exceptions, b.Shift = p.exceptions[p.start[i]:p.start[i+1]], p.shift
		b.fetch()
		return b
	}
	b.Shift, b.exceptions = m.outlierShift, m.outliers(i)
	if m.ScaleBlock() > 0 {
		b.Scales = scaleShape(m)
		b.Scales.Scale = r.scales.Scale
		if m.Coded.DMin != nil {
			b.Scales.Add = r.scales.Add
		}
		b.Scales.fill(r.k, m, first, n, 0)
	}
	return b
}

// fetch fetches what is read once the rows are multiplied. Each of it is a run of a few lines, too short for the processor to
// notice where it goes on.
func (b *RowBlock) fetch() {
	m := b.matrix
	if m.RowScale != nil {
		dot.Fetch(m.RowScale[b.First:][:b.N])
	}
	if m.Order != nil {
		dot.Fetch(m.Order[b.First:][:b.N])
	}
	dot.Fetch(b.exceptions)
}

// Tile is a tile of a row block: stored numbers, and what is to be added to them.
type Tile struct {
	Block      *RowBlock
	K          int // number of the tile
	From, End  int // its columns
	Rows       dot.Rows
	Exceptions []uint32 // entries that are not in the codes, of all columns of the row block
}

// Tile sets t to tile k of a row block, decoding it if the matrix is not resident.
func (r *Reader) Tile(t *Tile, b *RowBlock, k int) {
	m := b.matrix
	steps, from := m.Coded.TileSteps(k), k*m.Coded.StepsPerTile()*format.StepCols
	t.Block, t.K, t.From, t.End, t.Exceptions = b, k, from, from+steps*format.StepCols, b.exceptions
	w := &t.Rows
	if b.planes != nil {
		*w = b.planes.tile(m, b.Index, k)
		w.Scratch = r.escapes
		if w.CorrectStart != nil {
			dot.Fetch(w.Correct[w.CorrectStart[0]:w.CorrectStart[w.Count]])
			dot.Fetch(w.CorrectStart[w.Count:min(2*w.Count, cap(w.CorrectStart))]) // of the next tile
		}
	} else {
		*w = dot.Rows{Count: b.N, Steps: steps, Width: max(7, m.Width), Below: m.Width, NibbleStride: steps * format.StepCols,
			Nibble: r.bytes}
		m.decodeTile(b.Index, k, r.bytes, w.NibbleStride)
		if b.Scales.Cols > 0 {
			bytes := byteTile{bytes: r.bytes, stride: w.NibbleStride, from: from, end: t.End}
			r.exceptions = m.foldOutliers(b.exceptions, bytes, r.exceptions[:0])
			t.Exceptions = r.exceptions
		}
	}
	if cols := b.Scales.Cols; cols > 0 {
		w.Scale, w.ScaleStride = b.Scales.Scale[from/cols:], b.Scales.N
	}
}

// Next returns as much of the main plane after a resident tile as the tile has: what most likely is read next.
func (t *Tile) Next() []byte {
	n := t.Rows.Count * t.Rows.NibbleStride
	if t.Block.planes == nil || len(t.Rows.Nibble) < n {
		return nil
	}
	return t.Rows.Nibble[n:min(2*n, len(t.Rows.Nibble))]
}

// Low returns the low bits of the tile, which must be decoded separately.
func (r *Reader) Low(t *Tile) dot.Rows {
	b, m := t.Block, t.Block.matrix
	if b.planes != nil {
		return b.planes.low.tile(m, b.Index, t.K)
	}
	w := dot.Rows{Width: dot.WidthFor(max(7, m.LowBits)), Nibble: r.low, NibbleStride: t.Rows.Steps * format.StepCols,
		Count: b.N, Steps: t.Rows.Steps}
	m.decodeLow(b.Index, t.K, r.low, w.NibbleStride)
	return w
}

// Bits returns the bits of the tile's stored numbers, without corrections.
func (t *Tile) Bits() int {
	if t.Block.planes == nil {
		return t.Block.matrix.Width
	}
	return t.Rows.CodeBits()
}

// Unpack returns the stored numbers of the tile's rows plus add as bytes, without corrections; after the last row there is memory
// for a whole panel. No sum may be above 255; numbers of 8 bits take add = 0.
func (r *Reader) Unpack(t *Tile, add uint8) []byte {
	w := &t.Rows
	switch {
	case t.Block.planes == nil:
		if add > 0 {
			r.dot.Raise(w.Nibble[:w.Count*w.NibbleStride], add)
		}
		return w.Nibble
	case w.Width == 8 && !w.Escaped && w.Count == dot.PanelRows:
		return w.Nibble
	}
	r.dot.UnpackRows(w, r.plain, add)
	return r.plain
}

// UnpackLow returns the low bits of the tile, which must be decoded separately, as Unpack does.
func (r *Reader) UnpackLow(t *Tile) []byte {
	rows := r.Low(t)
	if t.Block.planes != nil {
		r.dot.UnpackRows(&rows, r.low, 0)
	}
	return r.low
}

// Fold adds the tile's exceptions to its unpacked bytes as far as these stay below 1<<width; t.Exceptions are those that do not
// fit.
func (r *Reader) Fold(t *Tile, bytes []byte, width int) {
	tile := byteTile{bytes: bytes, stride: t.Rows.Steps * format.StepCols, from: t.From, end: t.End}
	r.exceptions = foldExceptions(t.Exceptions, tile, t.Block.Shift, width, r.exceptions[:0])
	t.Exceptions = r.exceptions
}

// Floats returns row block i of m as floats, decoding it if necessary; its first row is row `at` of them.
func (r *Reader) Floats(m *Matrix, i int) (f *Floats, at int) {
	first, _ := m.RowBlock(i)
	if m.floats.f32 != nil || m.floats.u16 != nil {
		return m.floats, first
	}
	r.floats.dtype, r.floats.stride = m.floats.dtype, m.floats.stride
	m.decodeFloats(i, &r.floats, 0, &r.scratch)
	return &r.floats, 0
}
