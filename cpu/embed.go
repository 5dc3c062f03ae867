package cpu

import "github.com/ellm-gpu/ellm-gpu/cpu/vec"

func (b *Backend) embed(w *worker, item int) error {
	n, t := &b.run.fused.node, b.run.lo+item
	w.Row(b.run.fused.matrix, int(b.run.tokens[t]), b.row(n.Dst, t))
	vec.Scale(b.row(n.Dst, t), n.Scale)
	return nil
}
