package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// multiply runs the products of the current stage for their tokens; logits only from token `wanted` on.
func (b *Backend) multiply(wanted int) error {
	r := &b.run
	r.active = r.active[:0]
	first := len(r.tokens)
	for i := range r.stage.products {
		l := &r.stage.products[i]
		n := &l.node
		lo := b.firstToken(n, wanted)
		if n.Dst == model.BufLogits {
			lo = min(wanted, len(r.tokens))
		}
		if lo == len(r.tokens) {
			continue
		}
		p := product{m: l.m, bias: l.bias, xStride: b.stride(n.A), yStride: b.stride(n.Dst), tokens: len(r.tokens) - lo}
		first = min(first, lo)
		p.x = b.bufs[n.A][lo*p.xStride:]
		if n.Dst == model.BufLogits {
			p.yStride = b.prog.Config.NVocab
			p.y = b.logits[r.logits*p.yStride:]
		} else {
			p.y = b.bufs[n.Dst][lo*p.yStride:]
		}
		if l.slot >= 0 {
			p.q, p.qFirst = &b.inputs[l.slot], lo
		}
		r.active = append(r.active, p)
	}
	if first == len(r.tokens) {
		return nil
	}
	b.quantize(first)
	return b.parallel(model.OpMatMul)
}

// quantize prepares the stage's input from token `first` on in every form that its products take.
func (b *Backend) quantize(first int) {
	s := b.run.stage
	for i := range s.layouts {
		b.inputs[i].use(&s.layouts[i])
	}
	b.run.lo = first
	if n := b.run.hi - first; n < parallelTokens {
		for t := range n {
			b.quantizeToken(b.workers[0], t)
		}
		return
	}
	b.pool.run(b.run.quantize)
}

func (b *Backend) quantizeToken(w *worker, item int) {
	s, t := b.run.stage, b.run.lo+item
	n := b.stride(s.node.A)
	x := b.bufs[s.node.A][t*n : (t+1)*n]
	for i := range s.layouts {
		b.inputs[i].quantize(b.dot, t, x, w.row)
	}
}

// productUnits returns the units of all active products together.
func (b *Backend) productUnits() int {
	n := 0
	for i := range b.run.active {
		n += b.run.active[i].m.units()
	}
	return n
}

// product computes one unit of the active products.
func (b *Backend) product(w *worker, item int) error {
	for i := range b.run.active {
		p := &b.run.active[i]
		if n := p.m.units(); item >= n {
			item -= n
			continue
		}
		w.unit(p, item)
		return nil
	}
	return nil
}
