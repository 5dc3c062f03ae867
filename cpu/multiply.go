package cpu

import (
	"github.com/ellm-gpu/ellm-gpu/cpu/product"
	"github.com/ellm-gpu/ellm-gpu/cpu/vec"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// multiply runs the products of the current node for their tokens; logits only from token `wanted` on.
func (b *Backend) multiply(wanted int) error {
	r := &b.run
	r.active = r.active[:0]
	first := len(r.tokens)
	for i := range r.fused.products {
		l := &r.fused.products[i]
		n := &l.node
		lo := b.firstToken(n, wanted)
		if n.Dst == model.BufLogits {
			lo = min(wanted, len(r.tokens))
		}
		if lo == len(r.tokens) {
			continue
		}
		p := product.Product{M: l.m, Bias: l.bias, XStride: b.stride(n.A), YStride: b.stride(n.Dst), Tokens: len(r.tokens) - lo}
		first = min(first, lo)
		p.X = b.bufs[n.A][lo*p.XStride:]
		if n.Dst == model.BufLogits {
			p.YStride = b.prog.Config.NVocab
			p.Y = b.logits
		} else {
			p.Y = b.bufs[n.Dst][lo*p.YStride:]
		}
		if l.slot >= 0 {
			p.Q, p.QFirst = &b.inputs[l.slot], lo
		}
		r.active = append(r.active, p)
	}
	if first == len(r.tokens) {
		return nil
	}
	b.quantize(first)
	if err := b.parallel(model.OpMatMul); err != nil {
		return err
	}
	n := &r.fused.products[0].node
	if n.Dst == model.BufLogits && (n.Scale != 0 || n.SoftCap != 0) {
		vocab := b.prog.Config.NVocab
		b.each(len(r.tokens)-first, func() func(t int) {
			return func(t int) { b.finishLogits(n, b.logits[t*vocab:(t+1)*vocab]) }
		})
	}
	return nil
}

// quantize prepares the node's input from token `first` on in every form that its products take.
func (b *Backend) quantize(first int) {
	s := b.run.fused
	for i := range s.tilings {
		b.inputs[i].Use(&s.tilings[i], b.run.hi)
	}
	b.run.lo = first
	if n := b.run.hi - first; !b.shared(n, s.node.A) {
		for t := range n {
			b.quantizeToken(b.workers[0], t)
		}
		return
	}
	b.pool.run(b.run.quantize)
}

func (b *Backend) quantizeToken(w *worker, item int) {
	s, t := b.run.fused, b.run.lo+item
	n := b.stride(s.node.A)
	x := b.bufs[s.node.A][t*n : (t+1)*n]
	for i := range s.tilings {
		b.inputs[i].Quantize(t, x, w.row)
	}
}

// productBlocks returns the number of row blocks of all active products together.
func (b *Backend) productBlocks() int {
	n := 0
	for i := range b.run.active {
		n += b.run.active[i].M.RowBlocks()
	}
	return n
}

// product computes one row block of the active products.
func (b *Backend) product(w *worker, item int) error {
	for i := range b.run.active {
		p := &b.run.active[i]
		if n := p.M.RowBlocks(); item >= n {
			item -= n
			continue
		}
		w.Multiply(p, item)
		return nil
	}
	return nil
}

// finishLogits scales and bounds the logits of a row, whose length may be any.
func (b *Backend) finishLogits(n *model.Node, row []float32) {
	vec.Scale(row, n.Scale)
	if n.SoftCap == 0 {
		return
	}
	whole := len(row) / vec.Lanes * vec.Lanes
	b.k.SoftCap(row[:whole], n.SoftCap)
	var rest [vec.Lanes]float32
	copy(rest[:], row[whole:])
	b.k.SoftCap(rest[:], n.SoftCap)
	copy(row[whole:], rest[:])
}
