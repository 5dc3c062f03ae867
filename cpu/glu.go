package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func (b *Backend) gate(w *worker, item int) error {
	n, t := &b.run.fused.node, b.run.lo+item
	stride := b.stride(n.Dst) // whole vectors: the padding stays 0, because act(0) · 0 = 0
	gate(w.k, n.Act, b.bufs[n.Dst][t*stride:][:stride], b.bufs[n.A][t*stride:][:stride], b.bufs[n.B][t*stride:][:stride])
	return nil
}

// gate sets dst to act(a)·b. The general activation with y = a·(Linear + Cubic·a²) is a·σ(y)·b = silu(y) · b/(Linear + Cubic·a²).
func gate(k *vec.Kernels, act model.Act, dst, a, b []float32) {
	if act != model.SiLU() {
		for i, x := range a {
			f := act.Linear + act.Cubic*x*x
			a[i] = x * f
			b[i] /= f
		}
	}
	k.SwiGLU(dst, a, b)
}
