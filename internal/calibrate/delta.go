package calibrate

import (
	"math"

	"github.com/ellm-gpu/ellm-gpu/internal/linalg"
	"github.com/ellm-gpu/ellm-gpu/internal/model"
)

func sigmoid(x float32) float32 { return 1 / (1 + exp(-x)) }

// sumAt returns the convolution of channel c at position i.
func sumAt(w, in []float32, kernel, width, c, i int) (sum float32) {
	for j := max(0, i-kernel+1); j <= i; j++ {
		sum += w[c*kernel+kernel-1-i+j] * in[width*j+c]
	}
	return sum
}

// conv is a convolution over the t tokens of a text with SiLU after it.
func (r *runner) conv(n *model.Node, t int) {
	width := r.prog.Width(n.Dst)
	in, out, w := r.bufs[n.A], r.bufs[n.Dst], r.tensors[n.Weight]
	r.parallel(t, func(i int, _ *linalg.Scratch) {
		for c := range width {
			x := sumAt(w, in, n.Kernel, width, c, i)
			out[i*width+c] = x * sigmoid(x)
		}
	})
}

// backConv writes the derivatives by the inputs.
func (b *backward) backConv(n *model.Node, o *operands, t int) {
	width := b.prog.Width(n.Dst)
	g, to, w := b.grads[n.Dst], b.grads[n.A], b.tensors[n.Weight]
	b.parallel((width+strip-1)/strip, func(k int, _ *linalg.Scratch) {
		slopes := make([]float32, t) // by the sums of a channel
		for c := k * strip; c < min(width, (k+1)*strip); c++ {
			for i := range t {
				x := sumAt(w, o.a, n.Kernel, width, c, i)
				s := sigmoid(x)
				slopes[i] = g[i*width+c] * s * (1 + x*(1-s))
			}
			for i := range t {
				sum := float32(0)
				for j := i; j < min(t, i+n.Kernel); j++ {
					sum += w[c*n.Kernel+n.Kernel-1-j+i] * slopes[j]
				}
				to[i*width+c] = sum
			}
		}
	})
}

// gateHeads multiplies heads by the sigmoids of gates.
func (r *runner) gateHeads(n *model.Node, t int) {
	width := r.prog.Width(n.Dst)
	dim := width / n.Heads
	for i := range t * width {
		r.bufs[n.Dst][i] *= sigmoid(r.bufs[n.A][i/dim*2*dim+dim+i%dim])
	}
}

// backGateHeads writes the derivatives by the gates, and turns those by the results into those by what was gated.
func (b *backward) backGateHeads(n *model.Node, o *operands, t int) {
	width := b.prog.Width(n.Dst)
	dim := width / n.Heads
	g, to := b.grads[n.Dst], b.grads[n.A]
	for i := range t * width {
		at := i/dim*2*dim + dim + i%dim
		s := sigmoid(o.a[at])
		to[at] = g[i] * o.b[i] * s * (1 - s)
		g[i] *= s
	}
}

// deltaHead is a value head of a gated delta rule with what a token gives it.
type deltaHead struct {
	keys, values   int
	q, k           []float32 // of length 1, q over the root of the dimension
	fq, fk         float32   // by which they were multiplied
	v              []float32
	gate           float32 // with its bias
	decay, beta    float32
	qAt, kAt, vAt  int // where they are in the token's row
	head, keyHeads int
}

func (r *runner) deltaHead(head int) *deltaHead {
	c := &r.prog.Config
	h := &deltaHead{keys: c.DeltaKeyDim, values: c.DeltaValueDim, head: head, keyHeads: c.DeltaKeyHeads}
	h.qAt = head % c.DeltaKeyHeads * h.keys
	h.kAt = h.qAt + c.DeltaKeyHeads*h.keys
	h.vAt = 2*c.DeltaKeyHeads*h.keys + head*h.values
	h.q, h.k = make([]float32, h.keys), make([]float32, h.keys)
	return h
}

// read takes a token: its row of queries, keys and values, and of the two gates.
func (h *deltaHead) read(row, alpha, beta, decays, biases []float32) {
	h.fq = unit(h.q, row[h.qAt:], 1/math.Sqrt(float64(h.keys)))
	h.fk = unit(h.k, row[h.kAt:], 1)
	h.v, h.gate = row[h.vAt:][:h.values], alpha[h.head]+biases[h.head]
	h.decay = float32(math.Exp(float64(decays[h.head]) * math.Log1p(math.Exp(float64(h.gate)))))
	h.beta = sigmoid(beta[h.head])
}

// unit sets dst to x of length `length`, and returns by what it was multiplied.
func unit(dst, x []float32, length float64) float32 {
	sum := 0.0
	for _, v := range x[:len(dst)] {
		sum += float64(v) * float64(v)
	}
	f := float32(length / math.Sqrt(sum+model.NormEpsDelta))
	for i, v := range x[:len(dst)] {
		dst[i] = v * f
	}
	return f
}

// step turns the state before a token, s, into that after it, next. delta is what is written to it.
func (h *deltaHead) step(next, s, delta, out []float32) {
	for j := range h.values {
		mem := float32(0)
		for i, k := range h.k {
			mem += h.decay * s[i*h.values+j] * k
		}
		delta[j] = h.beta * (h.v[j] - mem)
		out[j] = 0
		for i, k := range h.k {
			x := h.decay*s[i*h.values+j] + k*delta[j]
			next[i*h.values+j] = x
			out[j] += x * h.q[i]
		}
	}
}

// delta is a gated delta rule over the t tokens of a text.
func (r *runner) delta(n *model.Node, t int) {
	p, c := r.prog, &r.prog.Config
	r.parallel(c.DeltaValueHeads, func(head int, _ *linalg.Scratch) {
		h := r.deltaHead(head)
		s, d := make([]float32, h.keys*h.values), make([]float32, h.values)
		for i := range t {
			h.read(rowOf(r.bufs[n.A], i, p.Width(n.A)), rowOf(r.bufs[n.B], i, p.Width(n.B)), rowOf(r.bufs[n.C], i, p.Width(n.C)),
				r.tensors[n.Weight], r.tensors[n.Bias])
			h.step(s, s, d, rowOf(r.bufs[n.Dst], i, p.Width(n.Dst))[head*h.values:][:h.values])
		}
	})
}

func rowOf(x []float32, i, width int) []float32 { return x[i*width:][:width] }

// backDelta writes the derivatives by queries, keys, values and gates. Value heads that share a key head follow each other. All
// states of a head are in memory.
func (b *backward) backDelta(n *model.Node, o *operands, t int) {
	p, c := b.prog, &b.prog.Config
	clear(b.grads[n.A][:t*p.Width(n.A)])
	b.parallel(c.DeltaKeyHeads, func(keyHead int, _ *linalg.Scratch) {
		for head := keyHead; head < c.DeltaValueHeads; head += c.DeltaKeyHeads {
			h := b.deltaHead(head)
			size := h.keys * h.values
			states, deltas, out := make([]float32, (t+1)*size), make([]float32, t*h.values), make([]float32, h.values)
			read := func(i int) {
				h.read(rowOf(o.a, i, p.Width(n.A)), rowOf(o.b, i, p.Width(n.B)), rowOf(o.c, i, p.Width(n.C)), b.tensors[n.Weight],
					b.tensors[n.Bias])
			}
			for i := range t {
				read(i)
				h.step(rowOf(states, i+1, size), rowOf(states, i, size), rowOf(deltas, i, h.values), out)
			}
			g := make([]float32, size) // by the state
			for i := t - 1; i >= 0; i-- {
				read(i)
				alpha, beta := h.back(g, rowOf(states, i, size), rowOf(states, i+1, size), rowOf(deltas, i, h.values),
					rowOf(b.grads[n.Dst], i, p.Width(n.Dst))[head*h.values:], rowOf(b.grads[n.A], i, p.Width(n.A)))
				slope := b.tensors[n.Weight][head] * sigmoid(h.gate) // of ln decay
				b.grads[n.B][i*p.Width(n.B)+head] = alpha * h.decay * slope
				b.grads[n.C][i*p.Width(n.C)+head] = beta * h.beta * (1 - h.beta)
			}
		}
	})
}

// back goes back through step: g becomes the derivatives by the state before, to gets those by the token's row, and the
// results are those by decay and beta.
func (h *deltaHead) back(g, before, after, delta, out, to []float32) (decay, beta float32) {
	dq, dk := make([]float32, h.keys), make([]float32, h.keys)
	for j := range h.values {
		d := float32(0) // by delta
		for i := range h.keys {
			at := i*h.values + j
			dq[i] += after[at] * out[j]
			g[at] += h.q[i] * out[j]
			d += g[at] * h.k[i]
			dk[i] += g[at] * delta[j]
		}
		beta += d * delta[j] / h.beta
		to[h.vAt+j] += h.beta * d
		for i := range h.keys {
			at := i*h.values + j
			dk[i] -= h.decay * before[at] * h.beta * d
			g[at] -= h.k[i] * h.beta * d
			decay += g[at] * before[at]
			g[at] *= h.decay
		}
	}
	backUnit(to[h.qAt:], h.q, dq, h.fq, math.Sqrt(float64(h.keys)))
	backUnit(to[h.kAt:], h.k, dk, h.fk, 1)
	return decay, beta
}

// backUnit adds the derivatives by x of x·f, whose length is 1/length and whose derivatives are d.
func backUnit(to, y, d []float32, f float32, length float64) {
	along := 0.0
	for i, x := range y {
		along += float64(x) * float64(d[i]) * length * length
	}
	for i, x := range y {
		to[i] += f * (d[i] - float32(along)*x)
	}
}
