package cpu

import (
	"unsafe"

	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/format"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// worker is the scratch memory of one thread.
type worker struct {
	k   *kernels
	isa dot.ISA
	err error // of the current job

	acc        []float32 // tokens × rows of a unit
	sums       []int32   // results of package dot
	results    []float32 // likewise, for block scales
	rest       []int64   // rows of a unit
	tokenScale []float32 // of a tile
	blockRest  [dot.BlockRows * blockTokens]float32
	left       []uint32  // sparse entries
	bytes      []byte    // a decoded tile, or a row of codes
	plain      []byte    // an unpacked tile
	low        []byte    // low bits that are decoded apart
	lowSums    []int32   // their results
	tile       []byte    // a reordered tile
	escapes    []byte    // expanded, of two rows
	blocks     blocks    // of a decoded unit
	row        []float32 // a row of activations or weights
	codes      []int32   // a row of codes

	floats  floats // a decoded unit
	scratch floatScratch
	weights []float32 // floatRows × floatCols
	attention
}

// sizes are the lengths of a worker's buffers. Zero value: no matrix yet.
type sizes struct {
	batch     int
	unitRows  int
	stride    int
	bytes     int
	low       int
	blocks    int
	floats    int // elements of a decoded unit of floats
	attention int // see attentionFloats
}

func newSizes(c *model.Config, batch int) sizes {
	return sizes{batch: batch, unitRows: plainUnit, attention: attentionFloats(c)}
}

// add makes room for m, resident or not.
func (s *sizes) add(m *matrix, resident bool) {
	s.stride = max(s.stride, m.stride())
	s.bytes = max(s.bytes, m.stride())
	if m.split > 0 {
		s.low = max(s.low, roundUp(max(m.unitRows, plainUnit), dot.TileRows)*m.stride())
	}
	if m.coded == nil || resident {
		return
	}
	s.unitRows = max(s.unitRows, m.unitRows)
	if m.floats != nil {
		s.floats = max(s.floats, m.unitRows*m.stride())
		return
	}
	group := m.unitRows * m.stride() // for embeddings
	if m.multiplied {
		group = max(group, roundUp(m.unitRows, dot.TileRows)*m.coded.StepsPerTile()*format.StepCols)
	}
	s.bytes = max(s.bytes, group)
	if b := blockShape(m); b.cols > 0 {
		s.blocks = max(s.blocks, m.unitRows*b.n+b.slack())
	}
}

// alloc makes a worker, or with dry set only counts: it returns the bytes of all buffers.
func (s *sizes) alloc(c *model.Config, dry bool) (w *worker, bytes int64) {
	w = &worker{}
	bytes += reserve(&w.acc, roundUp(s.unitRows, dot.BlockRows)*s.batch, dry)
	bytes += reserve(&w.tokenScale, s.batch, dry)
	bytes += reserve(&w.sums, max(2*s.unitRows, 2*dot.TileRows*s.batch), dry)
	if s.low > 0 {
		bytes += reserve(&w.low, s.low, dry)
		bytes += reserve(&w.lowSums, max(2*s.unitRows, 2*dot.TileRows*s.batch), dry)
	}
	bytes += reserve(&w.results, s.unitRows+4, dry)
	bytes += reserve(&w.rest, s.unitRows, dry)
	bytes += reserve(&w.bytes, s.bytes, dry)
	bytes += reserve(&w.plain, dot.TileRows*format.MaxTileSteps*format.StepCols, dry)
	bytes += reserve(&w.tile, dot.TileBytes(format.MaxTileSteps), dry)
	bytes += reserve(&w.escapes, dot.ScratchBytes(format.MaxTileSteps), dry)
	bytes += reserve(&w.blocks.scale, s.blocks, dry)
	bytes += reserve(&w.blocks.add, s.blocks, dry)
	bytes += reserve(&w.row, s.stride, dry)
	bytes += reserve(&w.codes, s.stride, dry)
	bytes += reserve(&w.floats.u16, s.floats, dry)
	bytes += reserve(&w.floats.f32, s.floats, dry)
	bytes += reserve(&w.scratch.bytes, s.floats, dry)
	bytes += reserve(&w.scratch.wide, s.floats, dry)
	bytes += reserve(&w.scratch.codes, s.floats, dry)
	bytes += reserve(&w.weights, floatRows*floatCols, dry)
	bytes += 4 * int64(s.attention)
	if !dry {
		w.attention = newAttention(c)
	}
	return w, bytes
}

func reserve[T any](s *[]T, n int, dry bool) int64 {
	if !dry {
		*s = make([]T, n)
	}
	var zero T
	return int64(n) * int64(unsafe.Sizeof(zero))
}
