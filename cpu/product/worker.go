package product

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/cpu/weights"
	"github.com/ellm-gpu/ellm-gpu/format"
)

// Worker computes products with the memory of one thread.
type Worker struct {
	weights.Reader
	k   *vec.Kernels
	dot dot.Kernels

	acc        []float32                            // tokens × rows of a row block
	sums       []int32                              // results of package dot
	results    []float32                            // the same, for block scales
	lowSums    []int32                              // results of low bits that are decoded separately
	tokenScale []float32                            // of a tile
	fourRest   [dot.BlockRows * blockTokens]float32 // see restOf
	running    []int32                              // sums of corrections
	panel      []byte                               // reordered rows
	weights    []float32                            // floatRows × floatCols
}

// Sizes are what the lengths of a worker's buffers depend on.
type Sizes struct {
	weights.Sizes
	Batch int // tokens
}

// Worker makes a worker, or with dry set only counts: it returns the bytes of all buffers.
func (s *Sizes) Worker(k *vec.Kernels, d dot.Kernels, dry bool) (w Worker, bytes int64) {
	w = Worker{k: k, dot: d}
	w.Reader, bytes = s.Reader(k, d, dry)
	bytes += buffer.Reserve(&w.acc, buffer.RoundUp(s.BlockRows, dot.BlockRows)*s.Batch, dry)
	bytes += buffer.Reserve(&w.tokenScale, s.Batch, dry)
	bytes += buffer.Reserve(&w.sums, max(2*s.BlockRows, 2*dot.PanelRows*s.Batch), dry)
	if s.HasLow() {
		bytes += buffer.Reserve(&w.lowSums, max(2*s.BlockRows, 2*dot.PanelRows*s.Batch), dry)
	}
	bytes += buffer.Reserve(&w.results, s.BlockRows+4, dry)
	bytes += buffer.Reserve(&w.panel, dot.PanelBytes(format.MaxTileSteps), dry)
	bytes += buffer.Reserve(&w.running, dot.CorrectionSums, dry)
	bytes += buffer.Reserve(&w.weights, floatRows*floatCols, dry)
	return w, bytes
}
