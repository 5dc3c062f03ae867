package calibrate

import (
	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

// shortConv is a gated convolution over the t tokens of a text.
func (r *runner) shortConv(n *model.Node, t int) {
	width := r.prog.Width(n.Dst)
	in, out, weights := r.bufs[n.A], r.bufs[n.Dst], r.tensors[n.Weight]
	r.parallel((width+strip-1)/strip, func(k int, _ *linalg.Scratch) {
		for c := k * strip; c < min(width, (k+1)*strip); c++ {
			w := weights[c*n.Kernel : (c+1)*n.Kernel]
			for i := range t {
				sum := float32(0)
				for j := max(0, i-n.Kernel+1); j <= i; j++ {
					sum += w[n.Kernel-1-i+j] * in[3*width*j+c] * in[3*width*j+2*width+c]
				}
				out[i*width+c] = in[3*width*i+width+c] * sum
			}
		}
	})
}

// backShortConv writes the derivatives by the three parts of the input.
func (b *backward) backShortConv(n *model.Node, o *operands, t int) {
	width := b.prog.Width(n.Dst)
	in, g, to, weights := o.a, b.grads[n.Dst], b.grads[n.A], b.tensors[n.Weight]
	b.parallel((width+strip-1)/strip, func(k int, _ *linalg.Scratch) {
		for c := k * strip; c < min(width, (k+1)*strip); c++ {
			w := weights[c*n.Kernel : (c+1)*n.Kernel]
			for i := range t {
				sum, slope := float32(0), float32(0) // of the convolution; by the product b·x at position i
				for j := max(0, i-n.Kernel+1); j <= i; j++ {
					sum += w[n.Kernel-1-i+j] * in[3*width*j+c] * in[3*width*j+2*width+c]
				}
				for j := i; j < min(t, i+n.Kernel); j++ {
					slope += w[n.Kernel-1-j+i] * in[3*width*j+width+c] * g[j*width+c]
				}
				x := to[3*width*i:]
				x[c], x[width+c] = slope*in[3*width*i+2*width+c], sum*g[i*width+c]
				x[2*width+c] = slope * in[3*width*i+c]
			}
		}
	})
}
