package cpu

import "github.com/ellm-gpu/ellm-gpu/cpu/vec"

func (b *Backend) add(_ *worker, item int) error {
	n, t := &b.run.fused.node, b.run.lo+item
	dst, a := b.row(n.Dst, t), b.row(n.A, t)
	a = a[:len(dst)]
	vec.Scale(a, n.Scale)
	for i := range dst {
		dst[i] += a[i]
	}
	return nil
}
