package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/buffer"
	"github.com/ellm-gpu/ellm-gpu/cpu/dot"
	"github.com/ellm-gpu/ellm-gpu/cpu/product"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// worker is the scratch memory of one thread.
type worker struct {
	product.Worker
	attention
	deltaState
	row []float32 // of activations
	err error     // of the current job
}

// workerSizes are what the lengths of a worker's buffers depend on.
type workerSizes struct {
	product.Sizes
	config *model.Config
}

// alloc makes a worker, or with dry set only counts: it returns the bytes of all buffers.
func (s *workerSizes) alloc(k *vec.Kernels, d dot.Kernels, dry bool) (w *worker, bytes int64) {
	w = &worker{}
	w.Worker, bytes = s.Worker(k, d, dry)
	bytes += buffer.Reserve(&w.row, s.Stride, dry)
	bytes += w.deltaState.alloc(s.config, dry)
	bytes += 4 * int64(attentionFloats(s.config))
	if !dry {
		w.attention = newAttention(k, s.config)
	}
	return w, bytes
}
